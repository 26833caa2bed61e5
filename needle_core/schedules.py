"""Learning rates that change as training goes on.

A schedule maps the number of steps taken so far, a 0-d float64 tensor, to the learning rate of the next step, another one. It
is written in ops, so that a compiled step follows it. It stands in place of a number: `SGD(params, CosineDecay(0.1, 1000))`.
Any function will do; those below can be printed and compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import TypeAlias

from needle_core.errors import ArgumentError
from needle_core.ops import cos, floor, maximum, minimum
from needle_core.tensor import Tensor

Schedule: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Constant:
    """The same rate at every step, for schedules made of others.

    lr(t) = lr
    """

    lr: float

    def __post_init__(self) -> None:
        require_within("Constant: lr", self.lr, 0)

    def __call__(self, step: Tensor) -> Tensor:
        return step * 0.0 + self.lr


@dataclass(frozen=True)
class StepDecay:
    """Times `factor` after `every` steps, and again after as many.

    lr(t) = start * factor^floor(t / every)
    """

    start: float
    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        require_within("StepDecay: start", self.start, 0)
        require_within("StepDecay: every", self.every, 1)
        require_within("StepDecay: factor", self.factor, 0)

    def __call__(self, step: Tensor) -> Tensor:
        return self.start * float(self.factor) ** floor(step / self.every)


@dataclass(frozen=True)
class CosineDecay:
    """Half a cosine from `start` down to `end` in `steps` steps, and `end` from then on.

        lr(t) = end + (start - end) * (1 + cos(pi * min(t / steps, 1))) / 2

    Source: Loshchilov & Hutter 2017, arXiv:1608.03983, without restarts
    """

    start: float
    steps: int
    end: float = 0.0

    def __post_init__(self) -> None:
        require_within("CosineDecay: start", self.start, 0)
        require_within("CosineDecay: steps", self.steps, 1)
        require_within("CosineDecay: end", self.end, 0)

    def __call__(self, step: Tensor) -> Tensor:
        height = (1.0 + cos(math.pi * minimum(step / self.steps, 1.0))) / 2.0
        return self.end + (self.start - self.end) * height


@dataclass(frozen=True)
class Warmup:
    """`steps` steps that rise in a line to the first rate of `schedule`, which begins thereafter. No step has the rate 0.

        lr(t) = min((t + 1) / (steps + 1), 1) * schedule(max(t - steps, 0))

    Source: Goyal et al. 2017, arXiv:1706.02677
    """

    schedule: Schedule
    steps: int

    def __post_init__(self) -> None:
        require_within("Warmup: steps", self.steps, 0)
        if not callable(self.schedule):
            raise ArgumentError(f"Warmup: schedule must be a function of the step, not {self.schedule!r}", hint="Constant(lr)")

    def __call__(self, step: Tensor) -> Tensor:
        rise = minimum((step + 1.0) / (self.steps + 1), 1.0)
        return rise * self.schedule(maximum(step - self.steps, 0.0))


def require_within(what: str, value: object, low: float, high: float = math.inf) -> None:
    """Refuse a hyperparameter that is not a number in [low, high)."""
    if isinstance(value, bool) or not isinstance(value, Real) or not low <= float(value) < high:
        raise ArgumentError(f"{what} must be a number in [{low}, {high}), not {value!r}")
