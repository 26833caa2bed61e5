"""Pooling where the declarations do not reach: numbers of another library, equal elements, nan."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import needle_core as ndl

IMAGE = ndl.Tensor((np.arange(20, dtype=np.float64) * 7 % 11).reshape(1, 4, 5, 1))


@pytest.mark.parametrize(("attrs", "expected"), [  # of PyTorch 2.13
    ({"size": (2, 3), "stride": (2, 1), "padding": 1}, [7, 7, 10, 10, 10, 9, 9, 9, 10, 10, 6, 9, 9, 9, 5]),
    ({"size": 2, "stride": 1, "dilation": 2}, [7, 10, 10, 9, 9, 9]),
], ids=str)  # fmt: skip
def test_max_pool_is_that_of_pytorch(attrs: dict[str, Any], expected: list[float]) -> None:
    assert ndl.max_pool(IMAGE, **attrs).flatten().tolist() == expected


@pytest.mark.parametrize(("attrs", "expected"), [  # of PyTorch 2.13, times 4
    ({"size": 2, "stride": (1, 2), "padding": (1, 0)}, [7, 13, 18, 19, 15, 16, 12, 24, 8, 14]),
    ({"size": 2, "stride": 2, "padding": 1, "count_include_pad": False}, [0, 20, 32, 12, 21, 22, 24, 22, 12]),
], ids=str)  # fmt: skip
def test_avg_pool_is_that_of_pytorch(attrs: dict[str, Any], expected: list[float]) -> None:
    assert (ndl.avg_pool(IMAGE, **attrs) * 4).flatten().tolist() == expected


def test_adaptive_pools_are_those_of_pytorch() -> None:
    averages = ndl.adaptive_avg_pool(IMAGE, size=(3, 2)) * 6
    np.testing.assert_allclose(averages.numpy().ravel(), [26, 33, 27, 34, 28, 35], rtol=1e-15)
    assert ndl.adaptive_max_pool(IMAGE, size=(3, 2)).flatten().tolist() == [9, 10, 9, 10, 9, 10]


def test_equal_elements_share_the_gradient_of_max_pool() -> None:
    x = ndl.Tensor([[[1.0], [1.0], [0.0], [2.0], [2.0], [2.0]]], requires_grad=True)
    ndl.max_pool(x, size=3).backward(ndl.Tensor([[[6.0], [9.0]]]))
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [3, 3, 0, 3, 3, 3]


def test_windows_that_overlap_add_up_their_gradients() -> None:
    x = ndl.Tensor([[[0.0], [5.0], [1.0], [2.0]]], requires_grad=True)
    ndl.max_pool(x, size=3, stride=1).sum().backward()
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [0, 2, 0, 0]


def test_padding_is_never_the_greatest_and_nan_always_is() -> None:
    x = ndl.Tensor([[[-3.0], [-4.0], [math.nan], [-6.0], [-7.0]]])
    y = ndl.max_pool(x, size=3, stride=2, padding=1).numpy().ravel()
    np.testing.assert_array_equal(y, [-3, math.nan, -6])


def test_minus_infinity_in_a_whole_window_has_a_gradient() -> None:
    x = ndl.Tensor([[[-math.inf], [-math.inf]]], requires_grad=True)
    ndl.max_pool(x, size=2).sum().backward()
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [0.5, 0.5]


def test_half_precision_is_averaged_in_float32() -> None:
    assert ndl.avg_pool(ndl.ones((1, 5000, 1), dtype="float16"), size=5000).tolist() == [[[1]]]
    assert ndl.adaptive_avg_pool(ndl.full((1, 5001, 1), 300.0, dtype="float16"), size=2).tolist() == [[[300], [300]]]


def test_adaptive_pool_to_one_is_global() -> None:
    x = ndl.Tensor(np.random.default_rng(0).normal(size=(2, 3, 5, 4)))
    np.testing.assert_allclose(ndl.adaptive_avg_pool(x, size=1).numpy()[:, 0, 0], x.numpy().mean((1, 2)), rtol=1e-13)
    np.testing.assert_array_equal(ndl.adaptive_max_pool(x, size=1).numpy()[:, 0, 0], x.numpy().max((1, 2)))
