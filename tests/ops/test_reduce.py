"""Reductions where the declarations do not reach: ties, nan, infinities, long sums, half precision, numbers of Python."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core.errors import ArgumentError, ShapeError

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize("f", [ndl.max, ndl.min])
def test_equal_elements_share_the_gradient(f: Callable[..., Any]) -> None:
    x = ndl.Tensor([[1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 2.0, 2.0]], requires_grad=True)
    f(x, axis=1).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[0.25] * 4] * 2


@pytest.mark.parametrize("name", ["max", "min", "sum", "prod", "mean", "var", "std", "logsumexp"])
def test_nan_is_not_lost(name: str) -> None:
    for place in range(3):
        x = np.array([1.0, 2.0, 3.0])
        x[place] = NAN
        assert math.isnan(getattr(ndl, name)(ndl.Tensor(x)).item())


@pytest.mark.parametrize("f", [(ndl.argmax, np.argmax), (ndl.argmin, np.argmin)], ids=["argmax", "argmin"])
@pytest.mark.parametrize(
    "x", [[1, 3, 3], [3, 1, 1], [1, NAN, 3, NAN], [NAN, 1], [INF, INF], [-INF, -INF], [0.0, -0.0]], ids=str
)
def test_the_first_of_equals_is_chosen_and_nan_first_of_all(f: tuple[Any, Any], x: list[float]) -> None:
    assert f[0](ndl.Tensor(x, dtype="float32")).item() == f[1](np.array(x, np.float32))


@pytest.mark.parametrize(
    ("x", "expected"),
    [([-INF, -INF], -INF), ([INF, 1], INF), ([-INF, 2], 2), ([1000, 1000], 1000 + math.log(2)),
    ([-1000, -1000], -1000 + math.log(2)),
     ([INF, -INF], INF), ([INF, INF], INF)],
)  # fmt: skip
def test_logsumexp_of_extremes(x: list[float], expected: float) -> None:
    assert ndl.logsumexp(ndl.Tensor(x, dtype="float64")).item() == pytest.approx(expected, rel=1e-12)


def test_logsumexp_gradient_of_minus_infinities_is_finite() -> None:
    x = ndl.Tensor([[-INF, -INF], [-INF, 0.0]], requires_grad=True)
    ndl.logsumexp(x, axis=1).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[0, 0], [0, 1]]


def test_empty_sums_and_products_are_their_identities() -> None:
    x = ndl.zeros((0, 3))
    assert ndl.sum(x, axis=0).tolist() == [0, 0, 0]
    assert ndl.prod(x, axis=0).tolist() == [1, 1, 1]
    assert ndl.logsumexp(x, axis=0).tolist() == [-INF] * 3
    assert ndl.any(x, axis=0).tolist() == [False] * 3
    assert ndl.all(x, axis=0).tolist() == [True] * 3
    assert np.isnan(ndl.mean(x, axis=0).numpy()).all()
    assert np.isnan(ndl.var(x, axis=0).numpy()).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_accumulates_in_float32(dtype: str) -> None:
    x = ndl.ones((4096,), dtype=dtype)
    assert ndl.sum(x).item() == 4096
    assert ndl.mean(x).item() == 1
    assert ndl.cumsum(x).numpy()[-1] == 4096
    assert (x @ x).item() == 4096


def test_mean_of_large_float16_does_not_overflow() -> None:
    assert ndl.mean(ndl.full((100,), 60000.0, dtype="float16")).item() == 60000
    assert ndl.var(ndl.full((100,), 60000.0, dtype="float16")).item() == 0


@pytest.mark.parametrize("f", [ndl.mean, ndl.mean.body], ids=["kernel", "body"])
def test_mean_of_half_precision_does_not_overflow_on_the_way(f: Any) -> None:
    assert f(ndl.full((10,), 60000.0, dtype="float16"), axes=(0,), keepdims=False).item() == 60000


def test_variance_of_half_precision_does_not_overflow_on_the_way() -> None:
    x = ndl.Tensor([200.0, -200.0] * 50, dtype="float16")
    assert ndl.var(x).item() == 40000
    assert ndl.std(x).item() == 200


def test_sum_of_small_integers_does_not_overflow() -> None:
    assert ndl.sum(ndl.full((1000,), 200, dtype="uint8")).item() == 200000
    assert ndl.sum(ndl.full((4,), 2**30, dtype="int32")).item() == 2**32
    assert ndl.sum(ndl.Tensor([True, True, False])).item() == 2
    assert ndl.cumsum(ndl.Tensor([True, True])).tolist() == [1, 2]


def test_long_float32_sum_is_accurate() -> None:
    x = np.random.default_rng(0).uniform(size=100_000).astype(np.float32)
    assert ndl.sum(ndl.Tensor(x)).item() == pytest.approx(math.fsum(x.tolist()), rel=1e-5)


@pytest.mark.parametrize("zeros", [0, 1, 2])
def test_gradient_of_prod_is_exact_at_zeros(zeros: int) -> None:
    x = np.array([2.0, 3.0, 5.0])
    x[:zeros] = 0
    expected = [np.prod(np.delete(x, i)) for i in range(3)]
    t = ndl.Tensor(x, requires_grad=True)
    ndl.prod(t).backward()
    assert t.grad is not None
    assert t.grad.tolist() == expected


def test_second_gradient_of_prod_is_exact_at_zeros() -> None:
    h = ndl.grad(lambda x: (ndl.grad(ndl.prod)(x) * ndl.Tensor([1.0, 10.0, 100.0])).sum())(ndl.Tensor([0.0, 0.0, 5.0]))
    assert h.tolist() == [50.0, 5.0, 0.0]


def test_gradient_of_std_of_equal_elements_is_not_a_number_or_infinite_by_accident() -> None:
    x = ndl.Tensor([1.0, 1.0], requires_grad=True)
    ndl.std(x).backward()
    assert x.grad is not None
    assert np.isnan(x.grad.numpy()).all()


@pytest.mark.parametrize("axis", [None, 0, 1, -1, (0, 1), (-1, 0), [0], ()])
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("name", ["sum", "mean", "max", "min", "prod", "var", "std", "all", "any"])
def test_methods_reduce_as_numpy(name: str, axis: Any, keepdims: bool) -> None:
    x = np.random.default_rng(1).normal(size=(3, 4))
    expected = getattr(x, name)(axis=tuple(axis) if isinstance(axis, list) else axis, keepdims=keepdims)
    found = getattr(ndl.Tensor(x), name)(axis, keepdims=keepdims)
    assert found.shape == np.shape(expected)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_axis_and_axes_are_one_attribute() -> None:
    x = ndl.Tensor([[1.0, 2.0]])
    assert ndl.sum(x, axes=(1,)).tolist() == ndl.sum(x, axis=1).tolist() == [3]
    with pytest.raises(ArgumentError, match="two names of one attribute"):
        ndl.sum(x, axis=0, axes=1)


def test_reductions_of_a_scalar() -> None:
    x = ndl.Tensor(3.0)
    assert ndl.sum(x).item() == ndl.max(x).item() == ndl.mean(x).item() == ndl.logsumexp(x).item() == 3
    assert ndl.argmax(x).item() == 0
    with pytest.raises(ShapeError, match="axis 0 is out of range"):
        ndl.sum(x, axis=0)


@pytest.mark.parametrize("correction", [0, 1, 3, 4, 0.5])
def test_variance_is_numpys(correction: float) -> None:
    x = np.random.default_rng(2).normal(size=(3, 2))
    with np.errstate(all="ignore"):
        expected = ((x - x.mean(0)) ** 2).sum(0) / max(3 - correction, 0)
    np.testing.assert_allclose(ndl.var(ndl.Tensor(x), axis=0, correction=correction).numpy(), expected, rtol=1e-12)


def test_variance_of_numbers_far_from_zero_does_not_cancel() -> None:
    x = 1e4 + np.array([0.0, 1.0, 2.0, 3.0], np.float32)
    assert ndl.var(ndl.Tensor(x)).item() == pytest.approx(1.25)


def test_cumulative_ops_leave_nan_and_infinities_in_their_places() -> None:
    x = np.array([1.0, NAN, 2.0])
    np.testing.assert_array_equal(ndl.cumsum(ndl.Tensor(x)).numpy(), np.cumsum(x))
    np.testing.assert_array_equal(ndl.cumprod(ndl.Tensor(x)).numpy(), np.cumprod(x))
    x = np.array([2.0, INF, -1.0, 0.5])
    np.testing.assert_array_equal(ndl.cumsum(ndl.Tensor(x)).numpy(), np.cumsum(x))
    np.testing.assert_array_equal(ndl.cumprod(ndl.Tensor(x)).numpy(), np.cumprod(x))


def test_sum_over_many_rows_is_as_good_as_over_the_last_axis() -> None:
    x = np.random.default_rng(0).random((200_000, 3), np.float32)
    exact = x.astype(np.float64).sum(0)
    np.testing.assert_allclose(ndl.sum(ndl.Tensor(x), axis=0).numpy(), exact, rtol=1e-6)
    np.testing.assert_allclose(ndl.mean(ndl.Tensor(x), axis=0).numpy(), exact / len(x), rtol=1e-6)
