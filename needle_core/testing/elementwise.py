"""Declarations of the elementwise ops."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from needle_core.errors import ArgumentError, DtypeError, ShapeError
from needle_core.testing.samples import (
    COMPLEX,
    DIFFERENCES,
    FLOATING,
    Array,
    always,
    at,
    binary,
    declare,
    floats,
    kink,
    mask,
    numbers,
    real,
    refuses,
    sample,
    unary,
    whole,
)

_declare = partial(declare, pointwise=True)

APART = [refuses(ShapeError, "shapes do not broadcast", real(2, 3), real(4))]
ANY = real(low=-3, high=3)
HALVES, WHOLES = (-2.5, -1.5, -0.5, 0.5, 1.5, 2.5), (-2.0, -1.0, 0.0, 1.0, 2.0)
UNLIKE = (
    real(low=-2.4, high=2.4, kinks=HALVES, margin=0.3),
    real(low=-2.4, high=2.4, kinks=WHOLES, margin=0.3),
)  # never near each other
NONZERO = real(low=-3, high=3, kinks=(0.0,), margin=0.5)
STEPS = real(low=-2.9, high=2.9, kinks=WHOLES)
MIDDLE = (-9e5, -700, -60, 41, 700, 3e4)  # between the drawn numbers and the special ones
PAIR = at(MIDDLE, (60, 3e4, -700, -9e5, 41, -60))
LONG = (2**53 + 1, 2**53, -(2**62) - 1, 2**62)  # int64 that float64 cannot hold, and sums that wrap around
LONGS = whole(LONG, (2**53, 2**53 + 1, 3, 2**62))


def _clip(x: Array, min: Any = None, max: Any = None) -> Array:
    low, high = (-np.inf if min is None else min), (np.inf if max is None else max)
    return np.minimum(np.maximum(x, low), high)


# -- arithmetic -------------------------------------------------------------------------------------------------------------

_declare("add", np.add, [*binary(ANY), PAIR, LONGS], gradient=COMPLEX, rounds=1, refusals=APART)
_declare("subtract", np.subtract, [*binary(ANY), PAIR, LONGS], gradient=COMPLEX, rounds=1, result=numbers, refusals=APART)
_declare("multiply", np.multiply, [*binary(ANY), PAIR, LONGS], gradient=COMPLEX, rounds=1, refusals=APART)
_declare("divide", np.true_divide, [*binary(ANY, NONZERO), PAIR], gradient=COMPLEX, rounds=1, result=floats, refusals=APART)
_declare("floor_divide", np.floor_divide, [*binary(ANY, NONZERO), LONGS], exact=True, result=numbers, refusals=APART)
_declare("remainder", np.remainder, binary(real(low=4.3, high=4.8), real(low=1.65, high=1.9)), gradient=DIFFERENCES,
        result=numbers, refusals=APART)  # fmt: skip
for _name, _extremum in {"maximum": np.maximum, "minimum": np.minimum}.items():
    _declare(_name, _extremum, [*binary(*UNLIKE), PAIR, LONGS], gradient=DIFFERENCES, exact=True, refusals=APART,
             kinks=[kink([1.0, -2.0, 0.0], [1.0, -2.0, 0.0], gives=[[0.5] * 3, [0.5] * 3])],
             either_zero="0.0 and -0.0 are equal")  # fmt: skip
_declare(
    "negative",
    np.negative,
    [*unary(ANY), at(MIDDLE), whole(LONG)],
    gradient=COMPLEX,
    exact=True,
    result=numbers,
    large=[sample(real(2**24 + 3))],
)
_declare("positive", np.copy, unary(ANY), gradient=COMPLEX, exact=True, aliases="it is the same value")
_declare(
    "abs",
    np.abs,
    [*unary(NONZERO), at(MIDDLE), whole(LONG)],
    gradient=DIFFERENCES,
    exact=True,
    result=numbers,
    kinks=[kink([0.0, -0.0], gives=[[0.0, 0.0]])],
)
_declare("sign", np.sign, [*unary(NONZERO), at(MIDDLE), whole(LONG)], gradient=DIFFERENCES, exact=True, result=numbers,
         either_zero="the sign of -0.0 is 0")  # fmt: skip
_declare("square", lambda x: x * x, [*unary(ANY), at(MIDDLE), whole(LONG)], gradient=COMPLEX, result=numbers)
_declare("reciprocal", lambda x: 1 / x, [*unary(NONZERO), at(MIDDLE)], gradient=COMPLEX, result=floats)
for _name, _round in {"floor": np.floor, "ceil": np.ceil, "trunc": np.trunc}.items():
    _declare(_name, _round, [*unary(STEPS), at(MIDDLE)], gradient=DIFFERENCES, exact=True, result=numbers)
_declare("round", np.rint, unary(real(low=-2.4, high=2.4, kinks=HALVES)), gradient=DIFFERENCES, exact=True, result=numbers)
_declare("clip", _clip, [
    *unary(real(low=-2, high=2, kinks=(-1.0, 0.5)), min=-1, max=0.5), sample(real(5, kinks=(0.25,)), max=0.25),
    sample(real(5, kinks=(-0.5,)), min=-0.5), sample(real(5)), sample(real(5), min=3.0, max=-3.0),
], gradient=DIFFERENCES, exact=True, dtypes=FLOATING, kinks=[kink([-1.0, 0.0, 0.5], gives=[[1.0, 1.0, 1.0]], min=-1, max=0.5)],
    aliases="without bounds it is the same value",
    refusals=[refuses(ArgumentError, "min and max are Python numbers", real(2), min="a")])  # fmt: skip

# -- comparison and logic ---------------------------------------------------------------------------------------------------

for _name, _compare in {
    "equal": np.equal, "not_equal": np.not_equal, "less": np.less, "less_equal": np.less_equal, "greater": np.greater,
    "greater_equal": np.greater_equal,
}.items():  # fmt: skip
    _declare(_name, _compare, [*binary(real(low=-1, high=1)), PAIR, LONGS], result=always("bool"), refusals=APART)
for _name, _join in {"logical_and": np.logical_and, "logical_or": np.logical_or, "logical_xor": np.logical_xor}.items():
    _declare(_name, _join, binary(real(low=-1, high=1)), result=always("bool"), refusals=APART)
for _name, _test in {"logical_not": np.logical_not, "isnan": np.isnan, "isinf": np.isinf, "isfinite": np.isfinite}.items():
    _declare(_name, _test, unary(real(low=-1, high=1)), result=always("bool"))
_declare("where", np.where, [
    sample(mask(), real(), real()), sample(mask(3, 4), real(3, 4), real(3, 4)), sample(mask(3, 1), real(4), real()),
    sample(mask(), real(2, 3), real(3)), sample(mask(0, 2), real(2), real(1, 2)), sample(mask(2, 1, 3), real(4, 1), real()),
    replace(LONGS, inputs=(mask(4), *LONGS.inputs)),
], gradient=COMPLEX, exact=True,
    kinks=[kink([True, False], [math.inf, 1.0], [2.0, math.nan], gives=[None, [1.0, 0.0], [0.0, 1.0]])],
    refusals=[refuses(ShapeError, "shapes do not broadcast", mask(2), real(3), real())])  # fmt: skip

# -- dtype ------------------------------------------------------------------------------------------------------------------

_declare("astype", lambda x, dtype: x != 0 if dtype == "bool" else np.copy(x), [
    *unary(ANY, dtype="float64"), at([0.1, -3.14159265, 1.00390625, 1e-40], dtype="bfloat16"),
    at([0, -0.0, 0.5, 1.7, 2.5, 200.9], dtype="uint8"),
    at([0, -0.7, 1.7, -1.7, 2.5, -3000.9], dtype="int64"), at([0, -0.0, 0.3, -2], dtype="bool"),
    at([1e-3, 3.14159265, -1e5, 65519.9], dtype="float16"), at([0.1, -3.14159265], dtype="float32"),
], gradient=COMPLEX, exact=True,
    refusals=[refuses(DtypeError, "no dtype 'complex64'", real(2), dtype="complex64")])  # fmt: skip
