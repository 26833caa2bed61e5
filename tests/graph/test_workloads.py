"""The training steps of the benchmarks, compiled and eager, bit for bit: losses, weights, running statistics, optimizer state.

Everyday runs take as many steps of each as fit in a few seconds. With NEEDLE_FULL=1 in the environment, all take a hundred.
"""

from __future__ import annotations

import inspect
import os
from typing import Any

import pytest

import needle_core as ndl
from needle_core.benchmark.workloads import WORKLOADS
from tests.graph.regimes import different

FULL = os.environ.get("NEEDLE_FULL") == "1"
STEPS = {"scaleadd": 100, "mlp": 100, "mlpresnet": 30, "resnet9": 5, "lstm": 5, "gpt": 5}


def after(name: str, *, compiled: bool) -> dict[str, list[bytes]]:
    """What is left after the steps: the losses, and all that decides how training would go on."""
    ndl.manual_seed(0)
    step = WORKLOADS[name]()
    parts = inspect.getclosurevars(step).nonlocals
    run = ndl.compile(step) if compiled else step
    return {
        "losses": [bits(run()) for _ in range(100 if FULL else STEPS[name])],
        "model": [*map(bits, ndl.tree.flatten(parts["model"].state_dict())[0])],
        "optimizer": [*map(bits, ndl.tree.flatten(parts["opt"].state_dict())[0])],
        "random": [bits(ndl.random.default_generator().state)],
    }


def bits(leaf: Any) -> bytes:
    return leaf.numpy().tobytes() if isinstance(leaf, ndl.Tensor) else repr(leaf).encode()


def test_every_workload_is_here() -> None:
    assert STEPS.keys() == WORKLOADS.keys()


@pytest.mark.parametrize("name", STEPS)
def test_compiled_steps_are_eager_steps_bit_for_bit(name: str) -> None:
    found, expected = after(name, compiled=True), after(name, compiled=False)
    assert different(found, expected) == []
    assert len(set(expected["losses"])) > len(expected["losses"]) / 2  # they train: the numbers are not the same all along
