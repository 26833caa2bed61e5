"""Depth and memory: graphs of any depth, and training that keeps nothing behind."""

from __future__ import annotations

import gc
import tracemalloc
from itertools import pairwise

import needle_core as ndl
from needle_core import Tensor
from tests.leaves import gradient, leaf


def live_tensors() -> int:
    gc.collect()
    return sum(isinstance(o, Tensor) for o in gc.get_objects())


def test_backward_releases_what_only_the_graph_held() -> None:
    def trained(x: Tensor) -> Tensor:
        y = ((x * 2) * (x * 3)).sum()
        y.backward()
        return y

    trained(leaf([1, 2]))  # the numbers become tensors once and for all
    x = leaf([1, 2])
    before = live_tensors()
    y = trained(x)
    assert live_tensors() == before + 2  # y and x.grad
    assert y.item() == 30


DEPTH = 50_000


def chain(x: Tensor) -> Tensor:
    for _ in range(DEPTH):
        x = x * 1.0
    return x


def test_deep_graph_is_walked_and_released_without_overflow() -> None:
    x = leaf(1)
    y = chain(x)
    y.backward(retain_graph=True)
    assert gradient(x) == 1
    del y  # still holding its graph


def test_deep_graph_that_was_never_walked_is_released_without_overflow() -> None:
    x = leaf(1)
    before = live_tensors()
    y = chain(x)
    assert live_tensors() > before + DEPTH // 2
    del y
    assert live_tensors() == before


def test_training_as_a_function_keeps_no_tensors() -> None:
    w, lr, counts = Tensor([1.0, 2.0]), 0.01, []
    for step in range(3000):
        w = w - lr * ndl.grad(lambda w: (w * w).sum())(w)
        if step in (100, 2999):
            counts.append(live_tensors())
    assert counts[0] == counts[1]


def test_training_in_place_keeps_memory_flat() -> None:
    w, lr, used = Tensor([1.0, 2.0], requires_grad=True), 0.01, []
    tracemalloc.start()
    try:
        for step in range(10_000):
            w.grad = None
            (w * w).sum().backward()
            w.data = w.data - lr * w.grad
            if step in (100, 5000, 9999):
                used.append((live_tensors(), tracemalloc.get_traced_memory()[0]))
    finally:
        tracemalloc.stop()
    assert used[0][0] == used[1][0] == used[2][0]
    growth = [later - earlier for (_, earlier), (_, later) in pairwise(used)]
    assert min(growth) < 10_000  # two bytes a step; what others allocate once falls into one of the halves


def test_training_without_data_grows_the_graph() -> None:
    w = leaf([1, 2])
    before = live_tensors()
    for _ in range(100):
        w = w - 0.01 * w
    assert live_tensors() >= before + 100
