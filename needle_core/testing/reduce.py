"""Declarations of the reductions and cumulative ops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from needle_core.errors import ArgumentError, ShapeError
from needle_core.testing.samples import (
    COMPLEX,
    DIFFERENCES,
    Array,
    Reference,
    always,
    at,
    declare,
    floats,
    kink,
    real,
    reduced,
    refuses,
    sample,
    sums,
    whole,
)

ANY, APART, NONZERO = real(), real(distinct=True), real(kinks=(0.0,))
AXIS = [
    refuses(ShapeError, "axis 2 is out of range", real(2, 3), axis=2),
    refuses(ShapeError, "axis -3 is out of range", real(2, 3), axis=(0, -3)),
    refuses(ShapeError, "repeat an axis", real(2, 3), axis=(0, -2)),
    refuses(ArgumentError, "axis and axes are two names", real(2, 3), axis=0, axes=1),
    refuses(ArgumentError, "an axis is an integer, not float", real(2, 3), axis=0.5),
]
EMPTY = [
    refuses(ShapeError, "nothing has no extremum", real(0, 3), axis=0),
    refuses(ShapeError, "nothing has no extremum", real(2, 0)),
]


def over(f: Callable[..., Any]) -> Reference:
    """A NumPy reduction that takes `axes` for `axis`."""
    return lambda x, axis=None, axes=None, keepdims=False, **rest: f(
        x, axis=axis if axes is None else axes, keepdims=keepdims, **rest
    )


def _var(x: Array, axis: Any, keepdims: bool, correction: float = 0) -> Array:
    centred = x - x.mean(axis=axis, keepdims=True)
    count = centred.size // max(centred.sum(axis=axis).size, 1)
    total = (centred * centred).sum(axis=axis, keepdims=keepdims)
    return np.asarray(total / max(count - correction, 0) if total.size else total)


def _logsumexp(x: Array, axis: Any, keepdims: bool) -> Array:
    top = x.real.max(axis=axis, keepdims=True, initial=-np.inf)  # a constant, so that the logarithm of one term is exact
    top = np.where(np.isinf(top), 0, top)
    total = np.log(np.exp(x - top).sum(axis=axis, keepdims=True)) + top
    return np.asarray(total if keepdims else total.squeeze(axis))


def _first(f: Callable[..., Any]) -> Reference:
    return lambda x, axis=None, keepdims=False: f(x, axis=axis, keepdims=keepdims)


def _running(f: Callable[..., Any]) -> Reference:
    return lambda x, axis=0: f(x, axis=axis)


_MANY = [
    sample(real(2**17 + 3)),
    sample(real(2**16 + 3, 2), axis=1),
    sample(real(2, 2**16 + 3), axis=1),
    sample(real(2**16 + 3, 2), axis=0),
]
_WHOLE = (2**24 + 1, 1, 2**53 + 1)  # more than float32, and in the end than float64, can hold
FROM_ZERO = "a sum may begin with 0.0"
declare("sum", over(np.sum), [*reduced(ANY), sample(real(300, low=0)), whole(_WHOLE)], gradient=COMPLEX, result=sums, rounds=1,
        accumulates=True, large=_MANY, refusals=AXIS, either_zero=FROM_ZERO)  # fmt: skip
declare("prod", over(np.prod), reduced(NONZERO), gradient=COMPLEX, result=sums, refusals=AXIS, kinks=[
    kink([0.0, 2.0, 3.0], gives=[[6.0, 0.0, 0.0]]), kink([0.0, 2.0, 0.0], gives=[[0.0, 0.0, 0.0]]),
])  # fmt: skip
declare("max", over(np.max), reduced(APART, empty=False), gradient=DIFFERENCES, exact=True, large=_MANY,
        refusals=[*AXIS, *EMPTY], kinks=[kink([1.0, 3.0, 3.0], gives=[[0.0, 0.5, 0.5]])],
        either_zero="0.0 and -0.0 are equal")  # fmt: skip
declare("min", over(np.min), reduced(APART, empty=False), gradient=DIFFERENCES, exact=True, large=_MANY,
        refusals=[*AXIS, *EMPTY], kinks=[kink([1.0, 1.0, 3.0], gives=[[0.5, 0.5, 0.0]])],
        either_zero="0.0 and -0.0 are equal")  # fmt: skip
declare("mean", over(lambda x, **a: x.sum(**a) / (x.size // max(x.sum(a["axis"]).size, 1))), [
    *reduced(ANY, empty=False), sample(real(300, low=0)),
], gradient=COMPLEX, result=floats, accumulates=True, refusals=AXIS, either_zero=FROM_ZERO)  # fmt: skip
declare("var", over(_var), [
    *reduced(ANY, empty=False), sample(real(4, 3), axis=0, correction=1), sample(real(3, 4), correction=2, keepdims=True),
    sample(real(2, 3), axis=1, correction=0.5),
], gradient=COMPLEX, result=floats, rounds=8, refusals=AXIS)  # fmt: skip
declare("std", over(lambda x, **a: np.sqrt(_var(x, **a))), [
    sample(real(5)), sample(real(3, 4), axis=0), sample(real(3, 4), axis=-1, keepdims=True), sample(real(2, 3, 4), axes=(0, 2)),
    sample(real(4, 3), axis=0, correction=1), sample(real(0, 3), axis=1),
], gradient=COMPLEX, result=floats, rounds=8, refusals=AXIS)  # fmt: skip
declare(
    "logsumexp",
    over(_logsumexp),
    [
        *reduced(ANY),
        at([-np.inf, -np.inf]),
        at([1000, 1001, -1000]),
        at([-1000, -1001]),
        at([np.inf, 1]),
    ],
    gradient=COMPLEX,
    result=floats,
    rounds=8,
    terms=2,
    refusals=AXIS,
)
declare("all", over(np.all), reduced(real(low=-1, high=2)), result=always("bool"), refusals=AXIS)
declare("any", over(np.any), reduced(real(low=-0.6, high=0.6)), result=always("bool"), refusals=AXIS)
declare("count_nonzero", lambda x, axis=None, axes=None, keepdims=False: np.count_nonzero(
    x, axis=axis if axes is None else axes, keepdims=keepdims), reduced(real(low=-1, high=1)), result=always("int64"),
    refusals=AXIS)  # fmt: skip
_ONE_AXIS = [
    sample(real()), sample(real(6)), sample(real(3, 4)), sample(real(3, 4), axis=0), sample(real(3, 4), axis=-1, keepdims=True),
    sample(real(2, 3, 4), axis=1), sample(real(2, 3), keepdims=True), sample(real(0, 3), axis=1), sample(real(3, 1), axis=1),
]  # fmt: skip
declare("argmax", _first(np.argmax), _ONE_AXIS, result=always("int64"), refusals=EMPTY)
declare("argmin", _first(np.argmin), _ONE_AXIS, result=always("int64"), refusals=EMPTY)
_RUNNING = [
    sample(real(6)), sample(real(1)), sample(real(0)), sample(real(3, 4), axis=0), sample(real(3, 4), axis=-1),
    sample(real(2, 3, 4), axis=1), sample(real(2, 0, 3), axis=1), sample(real(9), axis=0),
]  # fmt: skip
_NEEDS_AXIS = [refuses(ArgumentError, "needs an axis", real(2, 3)), refuses(ShapeError, "out of range", real(2, 3), axis=2)]
declare(
    "cumsum",
    _running(np.cumsum),
    [*_RUNNING, sample(real(300, low=0)), whole(_WHOLE)],
    gradient=COMPLEX,
    result=sums,
    rounds=1,
    accumulates=True,
    large=[sample(real(2**17 + 3))],
    refusals=_NEEDS_AXIS,
    either_zero=FROM_ZERO,
)
declare("cumprod", _running(np.cumprod), _RUNNING, gradient=COMPLEX, result=sums, refusals=_NEEDS_AXIS,
        aliases="of one element it is the same value")  # fmt: skip
