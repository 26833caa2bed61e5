"""What the optimizers are proved right with: the formulas of their papers in float64 NumPy, and what they must refuse.

In each formula p is the parameter, g its gradient, s the state, t the number of the step.
"""

from __future__ import annotations

import math
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from needle_core.errors import ArgumentError
from needle_core.testing.optimizers import OptimizerCase

Array: TypeAlias = npt.NDArray[Any]
State: TypeAlias = dict[str, Array]
Step: TypeAlias = tuple[Array, State]


def _sgd(
    p: Array,
    g: Array,
    s: State,
    t: int,
    lr: float,
    momentum: float = 0,
    dampening: float = 0,
    nesterov: bool = False,
    weight_decay: float = 0,
) -> Step:
    g = g + weight_decay * p
    u = momentum * s.get("u", 0) + (1 - dampening) * g
    return p - lr * (g + momentum * u if nesterov else u if momentum else g), {"u": u}


def _moments(g: Array, s: State, t: int, beta1: float, beta2: float, eps: float) -> Step:
    """m̂ / (√v̂ + eps), and the moments."""
    m = beta1 * s.get("m", 0) + (1 - beta1) * g
    v = beta2 * s.get("v", 0) + (1 - beta2) * g**2
    return m / _correction(beta1, t) / (np.sqrt(v / _correction(beta2, t)) + eps), {"m": m, "v": v}


def _correction(beta: float, t: int) -> float:
    """1 - beta^t, of which the difference written so would lose three digits for a beta of 0.999."""
    return -math.expm1(t * math.log(beta)) if beta else 1.0


def _adam(
    p: Array,
    g: Array,
    s: State,
    t: int,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0,
) -> Step:
    move, s = _moments(g + weight_decay * p, s, t, beta1, beta2, eps)
    return p - lr * move, s


def _adamw(
    p: Array,
    g: Array,
    s: State,
    t: int,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.01,
) -> Step:
    move, s = _moments(g, s, t, beta1, beta2, eps)
    return p - lr * (move + weight_decay * p), s


def _rmsprop(
    p: Array,
    g: Array,
    s: State,
    t: int,
    lr: float,
    alpha: float = 0.99,
    eps: float = 1e-8,
    momentum: float = 0,
    centered: bool = False,
    weight_decay: float = 0,
) -> Step:
    g = g + weight_decay * p
    v = alpha * s.get("v", 0) + (1 - alpha) * g**2
    a = alpha * s.get("a", 0) + (1 - alpha) * g
    spread = np.maximum(v - a**2, 0) if centered else v
    u = momentum * s.get("u", 0) + g / (np.sqrt(spread) + eps)
    return p - lr * u, {"v": v, "a": a, "u": u}


def _adagrad(
    p: Array, g: Array, s: State, t: int, lr: float, eps: float = 1e-10, weight_decay: float = 0, initial_accumulator: float = 0
) -> Step:
    g = g + weight_decay * p
    total = s.get("s", initial_accumulator) + g**2
    return p - lr * g / (np.sqrt(total) + eps), {"s": total}


def _lion(
    p: Array, g: Array, s: State, t: int, lr: float, beta1: float = 0.9, beta2: float = 0.99, weight_decay: float = 0
) -> Step:
    m = s.get("m", np.zeros_like(g))
    c = beta1 * m + (1 - beta1) * g
    return p - lr * (np.sign(c) + weight_decay * p), {"m": beta2 * m + (1 - beta2) * g}


def _not_within(name: str, value: object, interval: str) -> tuple[dict[str, object], type[ArgumentError], str]:
    return {name: value}, ArgumentError, f"{name} must be a number in {interval}, not {value!r}"


_NESTEROV = "nesterov needs momentum, and no dampening"

CASES: Final = (
    OptimizerCase(
        "SGD",
        _sgd,
        settings=[
            {},
            {"weight_decay": 0.1},
            {"momentum": 0.9},
            {"momentum": 0.9, "dampening": 0.9, "weight_decay": 0.01},
            {"momentum": 0.5, "nesterov": True, "weight_decay": 0.1},
        ],
        refusals=[
            _not_within("lr", -0.1, "[0, inf)"),
            _not_within("momentum", 1.0, "[0, 1)"),
            _not_within("dampening", -0.5, "[0, 1)"),
            _not_within("weight_decay", math.nan, "[0, inf)"),
            ({"nesterov": True}, ArgumentError, _NESTEROV),
            ({"nesterov": True, "momentum": 0.9, "dampening": 0.1}, ArgumentError, _NESTEROV),
        ],
    ),
    OptimizerCase(
        "Adam",
        _adam,
        settings=[{}, {"beta1": 0.5, "beta2": 0.9, "eps": 1e-3, "weight_decay": 0.1}, {"beta1": 0.0, "beta2": 0.0}],
        refusals=[
            _not_within("beta1", 1, "[0, 1)"),
            _not_within("beta2", 1.5, "[0, 1)"),
            _not_within("eps", -1e-8, "[0, inf)"),
            _not_within("weight_decay", -0.1, "[0, inf)"),
        ],
    ),
    OptimizerCase(
        "AdamW",
        _adamw,
        settings=[{}, {"beta1": 0.8, "beta2": 0.95, "eps": 1e-6, "weight_decay": 0.5}, {"weight_decay": 0.0}],
        refusals=[_not_within("beta2", "0.9", "[0, 1)"), _not_within("eps", None, "[0, inf)")],
    ),
    OptimizerCase(
        "RMSprop",
        _rmsprop,
        settings=[
            {},
            {"alpha": 0.9, "momentum": 0.9, "weight_decay": 0.1},
            {"centered": True, "eps": 1e-2},
            {"centered": True, "eps": 1e-2, "momentum": 0.5},
        ],
        refusals=[
            _not_within("alpha", 2.0, "[0, 1)"),
            _not_within("momentum", True, "[0, 1)"),
            _not_within("eps", math.inf, "[0, inf)"),
        ],
    ),
    OptimizerCase(
        "Adagrad",
        _adagrad,
        settings=[{}, {"initial_accumulator": 0.1, "weight_decay": 0.1, "eps": 1e-4}],
        refusals=[_not_within("initial_accumulator", math.inf, "[0, inf)"), _not_within("eps", -1.0, "[0, inf)")],
    ),
    OptimizerCase(
        "Lion",
        _lion,
        settings=[{}, {"beta1": 0.95, "beta2": 0.98, "weight_decay": 0.1}],
        refusals=[_not_within("beta1", -0.1, "[0, 1)"), _not_within("beta2", None, "[0, 1)")],
    ),
)
