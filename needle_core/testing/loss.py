"""Declarations of the losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from needle_core.errors import ArgumentError, BoundsError, ShapeError
from needle_core.testing.reduce import FROM_ZERO
from needle_core.testing.samples import (
    COMPLEX,
    DIFFERENCES,
    Array,
    Reference,
    declare,
    floats,
    index,
    kink,
    real,
    refuses,
    sample,
)

REDUCE: dict[str, Callable[[Array], Any]] = {"mean": np.mean, "sum": np.sum, "none": np.asarray}
HOW: list[dict[str, str]] = [{}, {"reduction": "sum"}, {"reduction": "none"}]


def _reduced(f: Callable[..., Array]) -> Reference:
    return lambda *arrays, reduction="mean": REDUCE[reduction](f(*arrays))


def _losses(x: Array, labels: Array) -> Array:
    picked = np.take_along_axis(x, labels[..., None] % x.shape[-1], -1)[..., 0]
    top = x.real.max(-1, keepdims=True, initial=-50)  # a constant, so that the logarithm of one term is exact
    return np.asarray(np.log(np.exp(x - top).sum(-1)) + top[..., 0] - picked)


def _cross_entropy_grad(g: Array, x: Array, labels: Array, reduction: str = "mean") -> Array:
    if labels.size and not x.shape[-1]:
        raise IndexError("there are no classes")
    e = np.exp(x)
    hot = (labels[..., None] % x.shape[-1] == np.arange(x.shape[-1])) * 1.0
    scale = g[..., None] if reduction == "none" else g / (labels.size or 1) if reduction == "mean" else g
    return np.asarray((e / e.sum(-1, keepdims=True) - hot) * scale)


_ROWS = [((5,), ()), ((4, 3), (4,)), ((2, 3, 4), (2, 3)), ((3, 1), (3,))]
_CLASSES = [
    refuses(ShapeError, "labels need the shape [2] of the rows", real(2, 3), index(3, below=3)),
    refuses(ArgumentError, "labels are integers", real(2, 3), real(2)),
    refuses(BoundsError, "", real(2, 3), index(2, low=3, below=4)),
    refuses(BoundsError, "", real(2, 3), index(2, low=-5, below=-3)),
    refuses(ArgumentError, "reduction is 'mean', 'sum' or 'none'", real(2, 3), index(2, below=3), reduction="max"),
    refuses(ShapeError, "labels need the shape", real(), index(below=1)),
]  # fmt: skip
declare("cross_entropy", _reduced(_losses), [
    *(sample(real(*x), index(*labels, low=-x[-1], below=x[-1]), **how) for x, labels in _ROWS for how in HOW),
    sample(real(0, 3), index(0, below=3), reduction="sum"), sample(real(0, 3), index(0, below=3), reduction="none"),
], gradient=COMPLEX, result=floats, rounds=8, terms=2, refusals=_CLASSES,
   either_zero="of log 1, the sign is a matter of form")  # fmt: skip
declare("cross_entropy_grad", _cross_entropy_grad, [
    sample(real(*(labels if "none" in how.values() else ())), real(*x), index(*labels, low=-x[-1], below=x[-1]), **how)
    for x, labels in _ROWS[:3] for how in HOW
], gradient=COMPLEX, result=floats, rounds=8, terms=2, lax="where inf is the greatest, inf - inf is nan")  # fmt: skip

_PAIRS = [sample(real(*shape), real(*shape), **how) for shape in ((), (5,), (2, 3), (1, 4)) for how in HOW]
_NONE = [sample(real(0, 2), real(0, 2), reduction=how) for how in ("sum", "none")]
_DIFFER = [refuses(ShapeError, "prediction and target differ in shape", real(2, 3), real(3)),
           refuses(ArgumentError, "reduction is", real(2), real(2), reduction="max")]  # fmt: skip
_APART = [
    sample(real(*s.inputs[0].shape, low=1, high=3), real(*s.inputs[1].shape, low=-3, high=0.5), **s.attrs) for s in _PAIRS
]
declare(
    "mse_loss",
    _reduced(lambda x, t: (x - t) * (x - t)),
    [*_PAIRS, *_NONE],
    gradient=COMPLEX,
    result=floats,
    refusals=_DIFFER,
    either_zero=FROM_ZERO,
)
declare(
    "l1_loss", _reduced(lambda x, t: np.abs(x - t)), [*_APART, *_NONE], gradient=DIFFERENCES, result=floats, refusals=_DIFFER,
    either_zero=FROM_ZERO, kinks=[kink([1.0, -2.0], [1.0, -2.0], gives=[[0.0, 0.0], [0.0, 0.0]], reduction="sum")],
)  # fmt: skip
declare("bce_with_logits", _reduced(lambda x, t: t * np.log1p(np.exp(-x)) + (1 - t) * np.log1p(np.exp(x))), [*_PAIRS, *_NONE],
        gradient=COMPLEX, result=floats, rounds=8, refusals=_DIFFER, either_zero=FROM_ZERO,
        lax="of 0 * inf and inf - inf, each form has its own")  # fmt: skip
