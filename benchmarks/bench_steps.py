"""Whole training steps, eager and compiled, on the default device; the MLP also written by hand in NumPy."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core.benchmark.workloads import WORKLOADS


@pytest.mark.parametrize("name", WORKLOADS)
def test_step(benchmark: Any, name: str) -> None:
    """Eager and compiled in turn; the ratio is the median of those of the turns."""
    eager, compiled = WORKLOADS[name](), ndl.compile(WORKLOADS[name]())
    start = time.perf_counter()
    compiled()
    first, count = time.perf_counter() - start, {"scaleadd": 500, "mlp": 20, "mlpresnet": 10}.get(name, 1)
    ratio = in_turn(benchmark, name, eager, compiled, rounds=15, count=count)
    benchmark.extra_info["eager_over_compiled"] = round(ratio, 3)
    print(f"\n{name}: compiled {ratio:.2f} times as fast as eager; the first call took {first * 1e3:.0f} ms")


def in_turn(benchmark: Any, group: str, one: Callable[[], Any], other: Callable[[], Any], *, rounds: int, count: int) -> float:
    """How many times longer `one` takes: the median of the ratios of turns, each `count` calls of both."""
    ratios: list[float] = []

    def turn() -> None:
        seconds = []
        for step in (one, other):
            start = time.perf_counter()
            for _ in range(count):
                step()
            seconds.append(time.perf_counter() - start)
        ratios.append(seconds[0] / seconds[1])

    benchmark.group = group
    benchmark.pedantic(turn, rounds=rounds, warmup_rounds=2)
    return statistics.median(ratios)


def test_mlp_beside_numpy_by_hand(benchmark: Any) -> None:
    """The two in turn, 40 times 25 steps; the ratio is the median of those of the turns."""
    ratio = in_turn(benchmark, "mlp", WORKLOADS["mlp"](), mlp_by_hand(), rounds=40, count=25)
    benchmark.extra_info["over_numpy_by_hand"] = round(ratio, 3)
    print(f"\nmlp step: {ratio:.2f} times as long as NumPy by hand")


def mlp_by_hand() -> Callable[[], Any]:
    """The step of the workload `mlp` in NumPy alone, with weights updated in place."""
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(100, 784)).astype(np.float32), rng.integers(0, 10, 100)
    w1 = (rng.normal(size=(784, 256)) / 28).astype(np.float32)
    w2 = (rng.normal(size=(256, 10)) / 16).astype(np.float32)
    b1, b2 = np.zeros(256, np.float32), np.zeros(10, np.float32)
    rows, lr = np.arange(100), np.float32(1e-2)

    def step() -> Any:
        h = x @ w1
        h += b1
        np.maximum(h, 0, out=h)
        z = h @ w2
        z += b2
        z -= z.max(1, keepdims=True)
        e = np.exp(z)
        total = e.sum(1, keepdims=True)
        loss = (np.log(total[:, 0]) - z[rows, labels]).mean()
        e /= total
        e[rows, labels] -= 1
        e /= np.float32(len(x))
        dh = e @ w2.T
        dh *= h > 0
        for w, g in ((w1, x.T @ dh), (b1, dh.sum(0)), (w2, h.T @ e), (b2, e.sum(0))):
            g *= lr
            w -= g
        return loss

    return step
