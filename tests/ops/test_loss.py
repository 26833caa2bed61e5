"""Losses where the declarations do not reach."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core.errors import ShapeError


def test_cross_entropy_of_large_scores_does_not_overflow() -> None:
    x = ndl.Tensor([[1e4, 0.0], [0.0, 1e4]], requires_grad=True)
    loss = ndl.cross_entropy(x, ndl.Tensor([0, 0]), reduction="sum")
    loss.backward()
    assert loss.item() == 1e4
    assert x.grad is not None
    assert x.grad.tolist() == [[0, 0], [-1, 1]]


def test_cross_entropy_of_equal_scores_is_log_of_their_number() -> None:
    assert ndl.cross_entropy(ndl.zeros((3, 10)), ndl.Tensor([0, 5, 9])).item() == pytest.approx(math.log(10))


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
def test_labels_of_every_integer_dtype(dtype: str) -> None:
    x = np.random.default_rng(0).normal(size=(4, 3))
    expected = (np.log(np.exp(x).sum(1)) - x[range(4), [0, 1, 2, 1]]).mean()
    t = ndl.Tensor(x, requires_grad=True)
    loss = ndl.cross_entropy(t, ndl.Tensor([0, 1, 2, 1], dtype=dtype))
    loss.backward()
    assert loss.item() == pytest.approx(expected)
    assert t.grad is not None
    assert np.isfinite(t.grad.numpy()).all()


def test_gradient_for_uint8_labels_of_more_than_128_classes() -> None:
    x = ndl.Tensor(np.zeros((1, 200)), requires_grad=True)
    ndl.cross_entropy(x, ndl.Tensor([199], dtype="uint8")).backward()
    assert x.grad is not None
    assert x.grad.numpy().argmin() == 199


@pytest.mark.parametrize("body", [False, True])
def test_gradient_body_takes_uint8_labels(body: bool) -> None:
    args = ndl.Tensor(1.0), ndl.zeros((1, 200)), ndl.Tensor([199], dtype="uint8")
    function: Any = ndl.cross_entropy_grad.body if body else ndl.cross_entropy_grad
    assert function(*args, reduction="mean").numpy().argmin() == 199


def test_losses_of_nothing() -> None:
    assert ndl.cross_entropy(ndl.zeros((0, 3)), ndl.zeros(0, dtype="int64"), reduction="sum").item() == 0
    assert math.isnan(ndl.cross_entropy(ndl.zeros((0, 3)), ndl.zeros(0, dtype="int64")).item())
    assert math.isnan(ndl.mse_loss(ndl.zeros(0), ndl.zeros(0)).item())


def test_bce_of_extreme_scores_is_finite() -> None:
    x = ndl.Tensor([1000.0, -1000.0, 1000.0, -1000.0], requires_grad=True)
    loss = ndl.bce_with_logits(x, ndl.Tensor([1.0, 0.0, 0.0, 1.0]), reduction="none")
    loss.sum().backward()
    assert loss.tolist() == [0, 0, 1000, 1000]
    assert x.grad is not None
    assert x.grad.tolist() == [0, 0, 1, -1]


def test_l1_gradient_is_zero_where_equal() -> None:
    x = ndl.Tensor([1.0, 2.0, 0.0], requires_grad=True)
    ndl.l1_loss(x, ndl.Tensor([1.0, 1.0, 1.0]), reduction="sum").backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, -1]


def test_scores_of_no_classes_are_refused() -> None:
    with pytest.raises(ShapeError, match="there are no classes"):
        ndl.cross_entropy(ndl.zeros((2, 0)), ndl.Tensor([0, 0]))
