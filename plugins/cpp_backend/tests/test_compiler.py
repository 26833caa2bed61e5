"""What becomes of the nodes of a plan: the cross entropy and its gradient are one step where both are in it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import needle_core as ndl
from needle_core.errors import BoundsError

Loss = Callable[[ndl.Tensor, ndl.Tensor], ndl.Tensor]


def scores() -> ndl.Tensor:
    values = np.random.default_rng(0).normal(size=(7, 2100)).astype(np.float32)
    return ndl.Tensor(values, requires_grad=True)


def trained(loss: Loss, labels: list[int], compiled: bool) -> tuple[bytes, ...]:
    """The loss and the gradient of scores, as bytes."""
    x, y = scores(), ndl.Tensor(labels)

    def step() -> tuple[ndl.Tensor, ndl.Tensor]:
        value = loss(x, y)
        return value, ndl.grad(lambda z: loss(z, y))(x)

    return tuple(t.numpy().tobytes() for t in (ndl.compile(step) if compiled else step)())


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_one_step_gives_the_bits_of_two(reduction: str) -> None:
    def loss(x: ndl.Tensor, y: ndl.Tensor) -> ndl.Tensor:
        losses: ndl.Tensor = ndl.cross_entropy(x, y, reduction=reduction).sum()
        return losses

    labels = [0, 2099, -1, 5, 6, 7, -2100]
    assert trained(loss, labels, compiled=True) == trained(loss, labels, compiled=False)


def test_a_gradient_that_depends_on_the_loss_comes_after_it() -> None:
    def squared(x: ndl.Tensor, y: ndl.Tensor) -> ndl.Tensor:
        return ndl.cross_entropy(x, y) ** 2

    assert trained(squared, [1] * 7, compiled=True) == trained(squared, [1] * 7, compiled=False)


def test_a_label_that_names_no_class_is_the_losss_error() -> None:
    with pytest.raises(BoundsError, match=r"^cross_entropy: label 2100 is out of bounds for 2100 classes"):
        trained(ndl.cross_entropy, [2100] * 7, compiled=True)


def test_the_loss_takes_no_time_of_its_own() -> None:
    x, y = scores(), ndl.Tensor([0] * 7)

    @ndl.compile
    def step() -> tuple[ndl.Tensor, ndl.Tensor]:
        return ndl.cross_entropy(x, y), ndl.grad(lambda z: ndl.cross_entropy(z, y))(x)

    step()
    lines = [line for line in step.report(profile=True).splitlines() if " cross_entropy" in line]
    timed = {line.split(" -> ")[0].split()[-1]: bool(line[:9].strip()) for line in lines}
    assert timed == {"cross_entropy": False, "cross_entropy_grad": True}
