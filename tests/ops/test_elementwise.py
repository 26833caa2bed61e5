"""Elementwise ops where the declarations do not reach: kinks, integers, numbers of Python, operators."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core.errors import ArgumentError, DtypeError


def gradient(f: Callable[..., Any], *xs: Any) -> list[Any]:
    """The gradients of sum(f(*xs)) in float64, as lists."""
    tensors = [ndl.Tensor(x, dtype="float64") for x in xs]
    return [g.tolist() for g in ndl.grad(lambda *ts: f(*ts).sum(), tuple(range(len(xs))))(*tensors)]


@pytest.mark.parametrize(
    ("f", "x", "expected"),
    [
        (ndl.abs, [0.0, -0.0], [0, 0]),
        (ndl.relu, [0.0, -0.0, 1.0], [0, 0, 1]),
        (ndl.leaky_relu, [0.0], [0.01]),
        (ndl.elu, [0.0], [1.0]),
        (lambda x: ndl.clip(x, min=-1, max=1), [-1, 1, -1.5, 1.5, 0], [1, 1, 0, 0, 1]),
        (ndl.sqrt, [0.0], [math.inf]),
        (lambda x: x**2, [0.0, -3.0], [0, -6]),
        (lambda x: x**0, [0.0, 2.0], [0, 0]),
        (lambda x: x**1, [0.0], [1]),
        (lambda x: x**3, [0.0, -2.0], [0, 12]),
        (lambda x: x**-1.0, [-2.0], [-0.25]),
        (lambda x: 2**x, [0.0], [math.log(2)]),
        (lambda x: 0**x, [2.0], [0.0]),
        (lambda x: ndl.where(x > 0, ndl.log(ndl.where(x > 0, x, 1)), 0.0), [-1.0, 2.0], [0, 0.5]),
        (ndl.floor, [0.5, 1.0], [0, 0]),
        (ndl.sign, [0.5, 0.0], [0, 0]),
    ],
)  # fmt: skip
def test_gradient_at_a_kink_is_the_documented_one(f: Callable[..., Any], x: list[float], expected: list[float]) -> None:
    assert gradient(f, x)[0] == pytest.approx(expected)


@pytest.mark.parametrize("f", [ndl.maximum, ndl.minimum])
def test_equal_elements_share_the_gradient_of_an_extremum(f: Callable[..., Any]) -> None:
    assert gradient(f, [1.0, 2.0], [1.0, 2.0]) == [[0.5, 0.5], [0.5, 0.5]]


def test_the_extremum_of_a_tensor_with_itself_has_gradient_one() -> None:
    assert gradient(lambda x: ndl.maximum(x, x), [1.0])[0] == [1.0]


@pytest.mark.parametrize("value", [0, 1, -3, 7])
@pytest.mark.parametrize("f", [operator.floordiv, operator.mod])
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_integer_division_is_numpys(f: Callable[..., Any], value: int, dtype: str) -> None:
    x = np.array([-7, -1, 0, 5, 9], dtype)
    with np.errstate(divide="ignore"):
        expected = f(x, np.array(value, dtype))
    assert f(ndl.Tensor(x), value).numpy().tolist() == expected.tolist()


@pytest.mark.parametrize("f", [operator.floordiv, operator.mod])
def test_division_of_floats_with_all_signs_is_numpys(f: Callable[..., Any]) -> None:
    a, b = np.meshgrid([-7.5, -1.0, -0.0, 0.0, 2.5, np.inf, np.nan], [-2.0, 0.75, 0.0, np.inf, -np.inf, np.nan])
    with np.errstate(all="ignore"):
        expected = f(a, b)
    np.testing.assert_array_equal(f(ndl.Tensor(a), ndl.Tensor(b)).numpy(), expected)


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8"])
def test_integer_power_is_exact(dtype: str) -> None:
    x = ndl.Tensor([0, 1, 2, 3], dtype=dtype)
    assert (x**3).tolist() == [0, 1, 8, 27]
    assert (x**0).tolist() == [1, 1, 1, 1]
    assert (x**3).dtype is x.dtype


def test_integers_wrap_around() -> None:
    assert (ndl.Tensor([250], dtype="uint8") + 10).tolist() == [4]
    assert (ndl.Tensor([2**31 - 1], dtype="int32") + 1).tolist() == [-(2**31)]
    assert (-ndl.Tensor([1], dtype="uint8")).tolist() == [255]


@pytest.mark.parametrize(
    "f",
    [operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod, operator.pow, operator.lt,
    operator.le,
     operator.gt, operator.ge, operator.eq, operator.ne],
)  # fmt: skip
@pytest.mark.parametrize("number", [2, 0.5, True])
def test_operators_with_a_number_on_either_side(f: Callable[..., Any], number: float) -> None:
    x = np.array([0.5, 1.0, 3.0], np.float32)
    np.testing.assert_allclose(f(ndl.Tensor(x), number).numpy(), f(x, np.float32(number)), rtol=1e-6)
    np.testing.assert_allclose(f(number, ndl.Tensor(x)).numpy(), f(np.float32(number), x), rtol=1e-6)


@pytest.mark.parametrize(
    "f", [operator.add, operator.sub, operator.mul, operator.truediv, operator.matmul, operator.lt, operator.eq]
)
def test_operators_with_an_array_on_either_side_give_a_tensor(f: Callable[..., Any]) -> None:
    x, y = np.arange(4.0).reshape(2, 2), np.ones((2, 2))
    for result in (f(ndl.Tensor(x), y), f(x, ndl.Tensor(y))):
        assert isinstance(result, ndl.Tensor)
        np.testing.assert_array_equal(result.numpy(), f(x, y))


@pytest.mark.parametrize("f", [operator.and_, operator.or_, operator.xor])
def test_logical_operators(f: Callable[..., Any]) -> None:
    a, b = np.array([True, True, False, False]), np.array([True, False, True, False])
    assert f(ndl.Tensor(a), ndl.Tensor(b)).tolist() == f(a, b).tolist()
    assert (~ndl.Tensor(a)).tolist() == (~a).tolist()


def test_astype_truncates_to_integers_and_tests_for_zero() -> None:
    x = ndl.Tensor([-1.7, -0.2, 0.0, 0.2, 1.7])
    assert x.astype("int32").tolist() == [-1, 0, 0, 0, 1]
    assert x.astype("bool").tolist() == [True, True, False, True, True]
    assert ndl.Tensor([True, False]).astype("float16").tolist() == [1.0, 0.0]


@pytest.mark.parametrize("source", ["bool", "uint8", "int32", "int64", "float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("target", ["bool", "uint8", "int32", "int64", "float16", "bfloat16", "float32", "float64"])
def test_astype_between_all_dtypes(source: str, target: str) -> None:
    x = ndl.Tensor([0, 1, 3], dtype=source)
    y = x.astype(target)
    assert y.dtype.name == target
    assert y.tolist() == ([False, True, True] if target == "bool" else [0, 1, 1 if source == "bool" else 3])


def test_astype_passes_the_gradient_in_the_dtype_of_the_input() -> None:
    x = ndl.Tensor([1.0, 2.0], requires_grad=True)
    (x.astype("float64") * 3).sum().backward()
    assert x.grad is not None
    assert x.grad.dtype is ndl.float32
    assert x.grad.tolist() == [3.0, 3.0]


def test_logaddexp_of_equal_infinities_shares_the_gradient() -> None:
    assert gradient(ndl.logaddexp, [-math.inf, 0.0], [-math.inf, 0.0]) == [[0.5, 0.5], [0.5, 0.5]]


def test_comparison_has_no_gradient() -> None:
    x = ndl.Tensor([1.0], requires_grad=True)
    assert not (x < 2).requires_grad


def test_where_of_infinite_branch_keeps_the_other_gradient_finite() -> None:
    x = ndl.Tensor([0.0, 4.0], requires_grad=True)
    ndl.where(x > 0, x, 1 / ndl.where(x > 0, x, 1.0)).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0]


def test_a_number_out_of_range_is_refused() -> None:
    with pytest.raises(DtypeError, match="300 is out of the range of uint8"):
        ndl.Tensor([1], dtype="uint8") + 300


def test_clip_takes_numbers_only() -> None:
    with pytest.raises(ArgumentError, match="min and max are Python numbers"):
        ndl.clip(ndl.Tensor([1.0]), min=ndl.Tensor(0.0))


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float16"])
def test_clip_keeps_the_dtype(dtype: str) -> None:
    y = ndl.clip(ndl.Tensor([1, 5, 9], dtype=dtype), min=2, max=7)
    assert y.tolist() == [2, 5, 7]
    assert y.dtype.name == dtype


def test_clip_of_nan_is_nan() -> None:
    assert math.isnan(ndl.clip(ndl.Tensor([math.nan]), min=0, max=1).item())


@pytest.mark.parametrize("x", [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 2.4999])
def test_round_goes_to_even(x: float) -> None:
    assert ndl.round(ndl.Tensor(x)).item() == round(np.float32(x).item())


@pytest.mark.parametrize("f", [ndl.floor, ndl.ceil, ndl.trunc, ndl.round])
def test_roundings_leave_large_and_special_numbers_alone(f: Callable[..., Any]) -> None:
    x = np.array([1e30, -1e30, 2.0**23 + 1, np.inf, -np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(f(ndl.Tensor(x)).numpy(), x)


@pytest.mark.parametrize("f", [ndl.negative, ndl.positive, ndl.floor, ndl.round, ndl.sqrt, ndl.sin, ndl.tanh, ndl.erf])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_odd_functions_keep_the_sign_of_zero(f: Callable[..., Any], dtype: str) -> None:
    y = f(ndl.Tensor([-0.0, 0.0], dtype=dtype)).numpy()
    assert np.signbit(y).tolist() == ([False, True] if f is ndl.negative else [True, False])
