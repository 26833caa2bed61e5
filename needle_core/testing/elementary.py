"""Declarations of the elementary functions."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from needle_core.testing.elementwise import ANY, APART, MIDDLE, NONZERO, PAIR
from needle_core.testing.samples import (
    COMPLEX,
    DIFFERENCES,
    Array,
    Input,
    Reference,
    at,
    binary,
    declare,
    floats,
    numbers,
    real,
    unary,
)

_declare = partial(declare, pointwise=True)

POSITIVE, INSIDE = real(low=0.2, high=4), real(low=-0.9, high=0.9)

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _power(a: Array, b: Array) -> Array:
    return np.power(np.asarray(a, np.complex128), b) if np.iscomplexobj(a) or np.iscomplexobj(b) else np.power(a, b)


def _hypot(a: Array, b: Array) -> Array:
    return np.asarray(np.sqrt(a * a + b * b) if np.iscomplexobj(a) or np.iscomplexobj(b) else np.hypot(a, b))


# Of one tensor: reference, values of the samples, and numbers at which a formula may fail.
_UNARY: dict[str, tuple[Reference, Input, list[float]]] = {
    "exp": (np.exp, ANY, [-1e4, -80, -0.0, 1e-8, 80, 1e4]),
    "log": (np.log, POSITIVE, [0, 1e-30, 0.999, 1, 1.001, 1e30]),
    "sqrt": (np.sqrt, POSITIVE, [0, 1e-30, 1e30]),
    "rsqrt": (lambda x: 1 / np.sqrt(x), POSITIVE, [1e-30, 1e30]),
    "sin": (np.sin, ANY, [-1000, 0, 1e-8, 100]),
    "cos": (np.cos, ANY, [-1000, 0, 1e-8, 100]),
    "tan": (np.tan, real(low=-1.2, high=1.2), [-100, -1e-8, 0, 1.57, 10]),
    "asin": (np.arcsin, INSIDE, [-1, -1e-8, 0, 0.999, 1]),
    "acos": (np.arccos, INSIDE, [-1, -0.999, 0, 0.999, 1]),
    "atan": (np.arctan, ANY, [-1e8, -1e-8, 0, 1e-8, 1e8]),
    "sinh": (np.sinh, ANY, [-50, -1e-3, -1e-8, 0, 1e-3, 11.5, 88, 89, 89.4, 710]),
    "cosh": (np.cosh, ANY, [-50, 0, 1e-8, 11.5, 88, 89, 89.4, 710]),
    "tanh": (np.tanh, ANY, [-50, -1e-8, 0, 1e-3, 50]),
    "asinh": (np.arcsinh, ANY, [-1e30, -1e-8, 0, 1e-3, 300, 9e3, 1.1e4, 1e30]),
    "acosh": (np.arccosh, real(low=1.2, high=4), [1, 1.001, 300, 9e3, 1.1e4, 1e30]),
    "atanh": (np.arctanh, INSIDE, [-1, -0.999, -1e-8, 0, 1e-3, 1]),
    "exp2": (np.exp2, ANY, [-20, 0, 1e-8, 15]),
    "log2": (np.log2, POSITIVE, [1e-30, 0.999, 1, 8, 1e30]),
    "log10": (np.log10, POSITIVE, [1e-30, 0.999, 1, 1000, 1e30]),
    "expm1": (np.expm1, real(low=-1, high=1), [-50, -1e-3, -1e-8, 0, 1e-8, 1e-3, 50]),
    "log1p": (np.log1p, real(low=-0.5, high=1), [-0.999, -1e-8, 0, 1e-8, 1e-3, 1e10]),
}
for _name, (_reference, _x, _edges) in _UNARY.items():
    _declare(_name, _reference, [*unary(_x), at(_edges), at(MIDDLE)], gradient=COMPLEX, result=floats, rounds=8)
_declare("erf", _erf, [*unary(ANY), at([-6, -3, -1e-8, 0, 0.5, 3, 6]), at(MIDDLE)], gradient=DIFFERENCES, result=floats)

_declare("pow", _power, [
    *binary(POSITIVE, real(low=0, high=3)), at([0, 0, 2, -2, -3, 1, 7], [0, 2, 5, 3, 2, 100, 1]),
], gradient=COMPLEX, result=numbers, refusals=APART)  # fmt: skip
_declare("atan2", np.arctan2, [
    *binary(NONZERO, POSITIVE), at([0, 0, 1, -1, 2, -2, 1], [-1, 1, 0, 0, -3, -3, 1e20]), PAIR,
], gradient=DIFFERENCES, result=floats, refusals=APART)  # fmt: skip
_declare("hypot", _hypot, [
    *binary(NONZERO, POSITIVE), at([0, 3e30, 3e-30, 3, 1e20], [0, 4e30, -4e-30, 0, 1]), PAIR,
], gradient=COMPLEX, result=floats, refusals=APART)  # fmt: skip
_declare("logaddexp", np.logaddexp, [
    *binary(ANY), at([1000, -1000, 0, 50], [1000, -1001, 1000, -50]), PAIR,
], gradient=DIFFERENCES, result=floats, terms=2, refusals=APART)  # fmt: skip
