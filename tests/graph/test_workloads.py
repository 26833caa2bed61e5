"""The training steps of the benchmarks, compiled and eager, bit for bit."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

import needle_core as ndl

WORKLOADS = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "workloads.py"))["WORKLOADS"]
STEPS = {"scaleadd": 100, "mlp": 100, "mlpresnet": 100, "resnet9": 20, "lstm": 5, "gpt": 5}


def losses(name: str, *, compiled: bool) -> list[Any]:
    ndl.manual_seed(0)
    step = WORKLOADS[name]()
    run = ndl.compile(step) if compiled else step
    return [run().item() for _ in range(STEPS[name])]


@pytest.mark.parametrize("name", STEPS)
def test_losses_are_those_of_eager_steps(name: str) -> None:
    assert losses(name, compiled=True) == losses(name, compiled=False)
