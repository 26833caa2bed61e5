"""What becomes of the nodes of a plan: the cross entropy and its gradient are one step where both are in it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import needle_core as ndl
from needle_core.errors import BoundsError
from needle_cpp_backend import compiler

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


def test_a_loss_and_its_gradient_share_the_time_of_both() -> None:
    x, y = scores(), ndl.Tensor([0] * 7)

    @ndl.compile
    def step() -> tuple[ndl.Tensor, ndl.Tensor]:
        return ndl.cross_entropy(x, y), ndl.grad(lambda z: ndl.cross_entropy(z, y))(x)

    step()
    lines = [line for line in step.report(profile=True).splitlines() if " cross_entropy" in line]
    timed = {line.split(" -> ")[0].split()[-1]: bool(line[:9].strip()) for line in lines}
    assert timed == {"cross_entropy": True, "cross_entropy_grad": True}


def updates() -> tuple[list[ndl.Tensor], Callable[[], None]]:
    """Parameters of several shapes, from none to many elements, and a step that moves each along its momentum."""
    rng = np.random.default_rng(0)
    shapes = [(300, 400), (7,), (0, 3), (1,), (64, 65), (128, 300), ()]
    state = [ndl.Tensor(rng.normal(size=shape).astype(np.float32)) for shape in shapes for _ in range(2)]

    def step() -> None:
        for w, m in zip(state[::2], state[1::2], strict=True):
            m.data = m * 0.9 + w * 0.1
            w.data = w - m * 0.01

    return state, step


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_updates_that_run_as_one_give_the_bits_of_each_alone(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[int] = []
    made = compiler.units
    monkeypatch.setattr(
        compiler, "units", lambda plan: groups.extend(len(u.nodes) for u in made(plan) if u.is_group) or made(plan)
    )
    ndl.set_num_threads(threads)
    (state, step), (expected, eager) = updates(), updates()
    compiled = ndl.compile(step)
    for _ in range(3):
        compiled()
        eager()
    assert groups == [5, 2]  # programs of one element are of another kind
    assert [t.numpy().tobytes() for t in state] == [t.numpy().tobytes() for t in expected]


def test_a_profile_has_a_time_for_each_of_the_nodes_that_run_as_one() -> None:
    _, step = updates()
    compiled = ndl.compile(step)
    compiled()
    lines = [line.split() for line in compiled.report(profile=True).splitlines() if "multiply add" in line]
    assert len(lines) == 7
    assert all(float(us) >= 0 for us, *_ in lines)
