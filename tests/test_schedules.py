"""Schedules of learning rates: their values, and what makes no sense."""

from __future__ import annotations

import math
from typing import Any

import pytest

from needle_core import optim
from needle_core.errors import ArgumentError
from needle_core.tensor import Tensor


def rates(schedule: optim.Schedule, steps: int) -> list[float]:
    return [float(schedule(Tensor(float(t), dtype="float64"))) for t in range(steps)]


def test_constant() -> None:
    assert rates(optim.Constant(0.3), 3) == [0.3, 0.3, 0.3]


def test_step_decay() -> None:
    assert rates(optim.StepDecay(0.8, every=3, factor=0.5), 8) == [0.8, 0.8, 0.8, 0.4, 0.4, 0.4, 0.2, 0.2]


def test_cosine_decay() -> None:
    expected = [0.1 + 0.9 * (1 + math.cos(math.pi * min(t, 10) / 10)) / 2 for t in range(13)]
    assert rates(optim.CosineDecay(1.0, steps=10, end=0.1), 13) == pytest.approx(expected, rel=1e-15)


def test_warmup_rises_in_a_line_and_then_begins_the_schedule() -> None:
    warm = rates(optim.Warmup(optim.CosineDecay(1.0, steps=10), steps=4), 20)
    assert warm[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8], rel=1e-15)
    assert warm[4:] == rates(optim.CosineDecay(1.0, steps=10), 16)


def test_warmup_of_no_steps_is_the_schedule() -> None:
    assert rates(optim.Warmup(optim.StepDecay(1.0, every=2), steps=0), 5) == rates(optim.StepDecay(1.0, every=2), 5)


def test_schedules_print_and_compare() -> None:
    schedule = optim.Warmup(optim.CosineDecay(0.1, steps=90), steps=10)
    assert repr(schedule) == "Warmup(schedule=CosineDecay(start=0.1, steps=90, end=0.0), steps=10)"
    assert schedule == optim.Warmup(optim.CosineDecay(0.1, steps=90), steps=10)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: optim.Constant(-1.0), "Constant: lr must be a number in [0, inf), not -1.0"),
        (lambda: optim.StepDecay(0.1, every=0), "StepDecay: every must be a number in [1, inf), not 0"),
        (lambda: optim.CosineDecay(0.1, steps=0), "CosineDecay: steps must be a number in [1, inf), not 0"),
        (lambda: optim.CosineDecay(0.1, 9, end=-1), "CosineDecay: end must be a number in [0, inf), not -1"),
        (
            lambda: optim.Warmup(0.1, steps=5),  # type: ignore[arg-type]
            "Warmup: schedule must be a function of the step, not 0.1\n  hint: Constant(lr)",
        ),
    ],
)
def test_schedule_that_makes_no_sense_is_refused(make: Any, expected: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        make()
    assert str(caught.value) == expected
