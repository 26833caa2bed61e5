"""Softmax and the normalisations where the declarations do not reach."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import needle_core as ndl

INF = math.inf


@pytest.mark.parametrize("x", [[1e4, 1e4 + 1], [-1e4, -1e4 - 1], [3e38, -3e38], [-INF, 0, 1], [88.0, 89.0, -103]], ids=str)
def test_softmax_of_large_numbers_is_that_of_their_distances(x: list[float]) -> None:
    low = np.array(x, np.float32).astype(np.float64)
    low -= low.max()
    with np.errstate(under="ignore", over="ignore"):
        expected = np.exp(low) / np.exp(low).sum()
        logarithm = (low - np.log(np.exp(low).sum())).astype(np.float32)
    np.testing.assert_allclose(ndl.softmax(ndl.Tensor(x)).numpy(), expected, rtol=2e-3, atol=1e-38)
    np.testing.assert_allclose(ndl.log_softmax(ndl.Tensor(x)).numpy(), logarithm, rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("f", [ndl.softmax, ndl.log_softmax])
def test_softmax_of_minus_infinities_alone_is_nan(f: Any) -> None:
    assert np.isnan(f(ndl.Tensor([-INF, -INF])).numpy()).all()


def test_softmax_of_half_precision_sums_in_float32() -> None:
    y = ndl.softmax(ndl.zeros((5000,), dtype="float16")).numpy()
    np.testing.assert_allclose(y.astype(np.float64), 1 / 5000, rtol=1e-3)


def test_softmax_rows_sum_to_one() -> None:
    y = ndl.softmax(ndl.random_normal(ndl.Tensor([0, 0]), shape=(50, 30)), axis=-1)
    np.testing.assert_allclose(y.sum(-1).numpy(), 1, rtol=1e-6)


def test_gradient_of_log_softmax_with_a_minus_infinity_is_finite_elsewhere() -> None:
    x = ndl.Tensor([-INF, 0.0, 1.0], requires_grad=True)
    (-ndl.log_softmax(x)[2]).backward()
    assert x.grad is not None
    e = 1 / (1 + math.e)
    np.testing.assert_allclose(x.grad.numpy(), [0, e, -e], rtol=1e-6)


def of_the_batch(x: ndl.Tensor, weight: ndl.Tensor, bias: ndl.Tensor) -> ndl.Tensor:
    return ndl.batch_norm(x, *ndl.batch_statistics(x), weight, bias)


@pytest.mark.parametrize("f", [ndl.layer_norm, of_the_batch])
def test_normalising_equal_numbers_gives_the_bias(f: Any) -> None:
    y = f(ndl.full((4, 4), 3.0), ndl.ones(4), ndl.Tensor([1.0, 2.0, 3.0, 4.0]))
    np.testing.assert_array_equal(y.numpy(), [[1, 2, 3, 4]] * 4)


def test_normalised_numbers_have_mean_zero_and_variance_one() -> None:
    x = ndl.random_normal(ndl.Tensor([0, 0]), shape=(64, 8), dtype="float64") * 3 + 100
    one, zero = ndl.ones(8, dtype="float64"), ndl.zeros(8, dtype="float64")
    for y, axis in ((ndl.layer_norm(x, one, zero), 1), (of_the_batch(x, one, zero), 0)):
        np.testing.assert_allclose(y.numpy().mean(axis), 0, atol=1e-12)
        np.testing.assert_allclose(y.numpy().var(axis), 1, rtol=1e-4)


def test_group_and_rms_norm_against_pytorch() -> None:
    x = ndl.Tensor([[1.0, 2.0, 4.0, 8.0, 16.0, 32.0]])
    y = ndl.group_norm(x, ndl.ones(6), ndl.zeros(6), groups=2).numpy()
    expected = [[-1.06904137, -0.26726031, 1.33630192, -1.06904471, -0.26726115, 1.33630610]]
    np.testing.assert_allclose(y, expected, rtol=2e-6)
    y = ndl.rms_norm(x[:, :4], ndl.ones(4)).numpy()
    np.testing.assert_allclose(y, [[0.21693042, 0.43386084, 0.86772168, 1.73544335]], rtol=1e-6)


def test_group_norm_between_layer_norm_and_instance_norm() -> None:
    """One group is layer normalisation over all axes of a sample; as many groups as channels are the channels alone."""
    x = np.random.default_rng(0).normal(size=(3, 5, 7, 4)) * 10 + 100
    t, one, zero = ndl.Tensor(x), ndl.ones(4, dtype="float64"), ndl.zeros(4, dtype="float64")
    for y, axes in ((ndl.group_norm(t, one, zero, groups=1), (1, 2, 3)), (ndl.instance_norm(t, one, zero), (1, 2))):
        expected = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5)
        np.testing.assert_allclose(y.numpy(), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_statistics_of_half_precision_are_float32(dtype: str) -> None:
    """The squares are beyond the range of float16."""
    x = ndl.Tensor([[1000.0], [-1000.0]]).astype(dtype)
    mean, var = ndl.batch_statistics(x)
    assert (mean.dtype, var.dtype) == (ndl.float32, ndl.float32)
    assert (mean.tolist(), var.tolist()) == ([0.0], [1e6])
    weight = ndl.ones(1, dtype=dtype)
    np.testing.assert_array_equal(ndl.batch_norm(x, mean, var, weight, weight - 1).astype("float32").numpy(), [[1], [-1]])
    np.testing.assert_array_equal(ndl.rms_norm(x, weight).astype("float32").numpy(), [[1], [-1]])


def test_gradient_of_batch_norm_reaches_what_its_statistics_came_from() -> None:
    """Against the formula of Ioffe & Szegedy, section 3."""
    rng = np.random.default_rng(0)
    x, g, weight = rng.normal(size=(6, 3)), rng.normal(size=(6, 3)), rng.normal(size=3)
    t, w, b = (ndl.Tensor(a, requires_grad=True) for a in (x, weight, np.zeros(3)))
    of_the_batch(t, w, b).backward(ndl.Tensor(g))
    deviation = np.sqrt(x.var(0) + 1e-5)
    h = (x - x.mean(0)) / deviation
    expected = weight / deviation * (g - g.mean(0) - h * (g * h).mean(0))
    for found, value in ((t.grad, expected), (w.grad, (g * h).sum(0)), (b.grad, g.sum(0))):
        assert found is not None
        np.testing.assert_allclose(found.numpy(), value, rtol=1e-10, atol=1e-12)
