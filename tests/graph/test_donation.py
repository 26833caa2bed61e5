"""State that a compiled step writes in place: never where somebody else still has the old numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core import nn

SIZE = 100_000  # such tensors are large enough to be worth it on every backend


def step_on(w: ndl.Tensor) -> Callable[[], ndl.Tensor]:
    @ndl.compile
    def step() -> ndl.Tensor:
        y = (w * 2).sum()
        w.data = w * 0.5 + 1
        return y

    return step


def test_the_memory_of_state_is_used_again() -> None:
    w = ndl.ones(SIZE)
    step = step_on(w)
    step()
    before = id(w.buffer)  # whoever had the buffer itself would keep it from being written
    step()
    assert id(w.buffer) == before
    np.testing.assert_array_equal(w.numpy(), np.full(SIZE, 1.75, np.float32))


def shared_in_an_array(w: ndl.Tensor) -> Callable[[], Any]:
    array = w.numpy()
    return lambda: array


def shared_in_a_view(w: ndl.Tensor) -> Callable[[], Any]:
    array = w.numpy()[::2]
    return lambda: array


def shared_in_a_tensor(w: ndl.Tensor) -> Callable[[], Any]:
    other = w.detach()
    return lambda: other.numpy()


def shared_in_another_shape(w: ndl.Tensor) -> Callable[[], Any]:
    other = w.detach().reshape(2, -1)
    return lambda: other.numpy()


def shared_with_autograd(w: ndl.Tensor) -> Callable[[], Any]:
    x = ndl.Tensor([1.0], requires_grad=True)
    y = (x * w.detach()).sum()

    def gradient() -> Any:
        y.backward()
        assert x.grad is not None
        return x.grad.numpy()

    return gradient


@pytest.mark.parametrize(
    "share", [shared_in_an_array, shared_in_a_view, shared_in_a_tensor, shared_in_another_shape, shared_with_autograd]
)
@pytest.mark.parametrize("steps", [1, 3])
def test_numbers_that_somebody_has_stay(share: Callable[[ndl.Tensor], Callable[[], Any]], steps: int) -> None:
    w = ndl.ones(SIZE)
    step = step_on(w)
    step()  # so that the memory is one that a step has made
    look = share(w)
    expected = np.sum(np.full(SIZE, 1.5)) if share is shared_with_autograd else 1.5
    for _ in range(steps):
        step()
    np.testing.assert_array_equal(look(), np.float32(expected))


def test_an_array_that_became_state_is_not_written() -> None:
    array = np.ones(SIZE, np.float32)
    w = ndl.Tensor(array)
    step_on(w)()
    np.testing.assert_array_equal(array, 1)
    np.testing.assert_array_equal(w.numpy(), np.float32(1.5))


def test_an_array_that_is_read_only_is_not_written() -> None:
    array = np.ones(SIZE, np.float32)
    array.flags.writeable = False
    w = ndl.Tensor(array)
    del array
    step = step_on(w)
    step()
    step()
    np.testing.assert_array_equal(w.numpy(), np.float32(1.75))


def test_two_tensors_of_one_buffer_part_when_one_is_assigned() -> None:
    w = ndl.ones(SIZE)
    other = w.detach()
    assert other.buffer is w.buffer

    @ndl.compile
    def step() -> None:
        w.data = w + other

    step()
    step()
    np.testing.assert_array_equal(other.numpy(), 1)
    np.testing.assert_array_equal(w.numpy(), 3)


def test_a_step_that_fails_changes_nothing() -> None:
    w = ndl.ones(SIZE)
    table = ndl.Tensor([1.0, 2.0])

    @ndl.compile
    def step(i: ndl.Tensor) -> ndl.Tensor:
        w.data = w * 2
        return ndl.take(table, i)

    step(ndl.Tensor([1]))
    with pytest.raises(ndl.errors.BoundsError, match="take"):
        step(ndl.Tensor([5]))
    np.testing.assert_array_equal(w.numpy(), 2)
    step(ndl.Tensor([0]))
    np.testing.assert_array_equal(w.numpy(), 4)


@pytest.mark.parametrize("shape", [(300, 300), (81_921,), (3, 4, 9_000), (65_536,)])
def test_large_nodes_in_blocks_give_what_small_ones_give(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    values = [rng.normal(size=shape).astype(np.float32) for _ in range(3)]

    def update(p: ndl.Tensor, m: ndl.Tensor, g: ndl.Tensor) -> tuple[ndl.Tensor, ndl.Tensor]:
        m = 0.9 * m + 0.1 * ndl.where(g > 0, g, -ndl.gelu(g))
        return p - 0.01 * m / (ndl.sqrt(g * g) + 1e-8), m

    tensors = [ndl.Tensor(v) for v in values]
    expected = update(*tensors)
    for y, z in zip(ndl.compile(update)(*tensors), expected, strict=True):
        assert y.numpy().tobytes() == z.numpy().tobytes()


def test_large_nodes_take_operands_of_any_layout() -> None:
    values = np.random.default_rng(0).normal(size=(300, 300)).astype(np.float32)
    step = ndl.compile(lambda x, y: (x * 2 + y) * x)
    x, y = ndl.Tensor(values), ndl.Tensor(np.asfortranarray(values[::-1]))
    expected = ((x * 2 + y) * x).numpy()
    assert step(x, y).numpy().tobytes() == expected.tobytes()
    assert step(x, x.T.T).numpy().tobytes() == ((x * 2 + x) * x).numpy().tobytes()


def test_optimizer_state_is_written_in_place_and_checkpoints_keep_their_numbers() -> None:
    layer = nn.Linear(300, 300)
    opt = ndl.optim.SGD(layer.parameters(), lr=0.5, momentum=0.5)

    @ndl.compile
    def step(x: ndl.Tensor) -> ndl.Tensor:
        opt.reset_grad()
        loss = layer(x).sum()
        loss.backward()
        opt.step()
        return loss

    x = ndl.ones((1, 300))
    step(x)
    saved = {name: t.numpy() for name, t in layer.state_dict().items()}
    copies = {name: array.copy() for name, array in saved.items()}
    step(x)
    for name, array in saved.items():
        np.testing.assert_array_equal(array, copies[name])
    assert not np.array_equal(layer.weight.numpy(), saved["weight"])
