"""Declarations of the activations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from needle_core.errors import ArgumentError, ShapeError
from needle_core.testing.samples import COMPLEX, DIFFERENCES, Array, at, binary, declare, floats, kink, real, refuses, unary

ANY = real(low=-4, high=4)
EDGES = (-9e5, -3e3, -80, -30, -1e-3, -1e-6, 0, 1e-6, 1e-3, 30, 100, 3e3, 9e5)
BENT = real(low=-4, high=4, kinks=(0.0,))  # a kink at 0

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _elu(x: Array, alpha: float = 1.0) -> Array:
    return np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x)


def _gelu(x: Array, approximate: str = "none") -> Array:
    if approximate == "tanh":
        return np.asarray(0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))
    return np.asarray(0.5 * x * (1 + _erf(x / np.sqrt(2))))


def _gelu_grad(g: Array, x: Array, approximate: str = "none") -> Array:
    z = np.clip(x, -60, 60)  # beyond, it is 0 or 1
    if approximate == "tanh":
        c = np.sqrt(2 / np.pi)
        u = c * (z + 0.044715 * z**3)
        return np.asarray(g * (0.5 * (1 + np.tanh(u)) + 0.5 * z * c * (1 + 0.134145 * z**2) / np.cosh(u) ** 2))
    return np.asarray(g * (0.5 * (1 + _erf(z / np.sqrt(2))) + z * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)))


def _silu_grad(g: Array, x: Array) -> Array:
    z = np.clip(x, -1e4, 1e4)  # beyond, it is 0 or 1
    return np.asarray(g * (_sigmoid(x) + z * _sigmoid(z) * _sigmoid(-z)))


def _softplus(x: Array) -> Array:
    return np.logaddexp(0, x)


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _declare(name: str, reference: Any, samples: Any, gradient: str, **what: Any) -> None:
    declare(name, reference, samples, gradient=gradient, result=floats, pointwise=True, **{"rounds": 8.0, **what})


_APART = [refuses(ShapeError, "shapes do not broadcast", real(2), real(3))]

_declare("relu", lambda x: np.maximum(x, 0), [*unary(BENT), at(EDGES)], DIFFERENCES,
         kinks=[kink([0.0, -0.0], gives=[[0.0, 0.0]])], either_zero="it is the greater of -0.0 and 0.0")  # fmt: skip
declare(
    "relu_grad",
    lambda g, y: np.where(y > 0, g, 0),
    binary(ANY, BENT),
    gradient=DIFFERENCES,
    exact=True,
    pointwise=True,
    result=floats,
    refusals=_APART,
)
_declare("relu6", lambda x: np.clip(x, 0, 6), [*unary(real(low=-3, high=9, kinks=(0.0, 6.0))), at(EDGES)], DIFFERENCES)
_declare(
    "leaky_relu", lambda x, slope=0.01: np.where(x > 0, x, slope * x), [*unary(BENT), *unary(BENT, slope=0.2)], DIFFERENCES
)
_declare("elu", _elu, [*unary(BENT), *unary(BENT, alpha=0.5), at(EDGES)], DIFFERENCES)
_declare("selu", lambda x: 1.0507009873554804934 * _elu(x, 1.6732632423543772848), [*unary(BENT), at(EDGES)], DIFFERENCES)
_declare("sigmoid", _sigmoid, [*unary(ANY), at(EDGES)], COMPLEX)
_declare("log_sigmoid", lambda x: -_softplus(-x), [*unary(ANY), at(EDGES)], DIFFERENCES)
_declare("softplus", _softplus, [*unary(ANY), at(EDGES)], DIFFERENCES)
_declare("softsign", lambda x: x / (1 + np.abs(x)), [*unary(BENT), at(EDGES)], DIFFERENCES)
_declare("silu", lambda x: x * _sigmoid(x), [*unary(ANY), at(EDGES)], COMPLEX)
_declare("silu_grad", _silu_grad, binary(ANY), DIFFERENCES, terms=8.0, refusals=_APART,
         either_zero="a slope of 0 has no sign")  # fmt: skip
_declare("mish", lambda x: x * np.tanh(_softplus(x)), [*unary(ANY), at(EDGES)], DIFFERENCES)
_declare(
    "hard_sigmoid",
    lambda x: np.clip(x / 6 + 0.5, 0, 1),
    [*unary(real(low=-5, high=5, kinks=(-3.0, 3.0))), at(EDGES)],
    DIFFERENCES,
)
_declare("gelu", _gelu, [*unary(ANY), *unary(ANY, approximate="tanh"), at(EDGES)], DIFFERENCES, terms=8.0,
         refusals=[refuses(ArgumentError, "approximate is 'none' or 'tanh'", real(2), approximate="erf")])  # fmt: skip
_NEAR = real(low=-2, high=2)  # further out, poles beside the real axis spoil differences
_declare("gelu_grad", _gelu_grad, [*binary(ANY), *binary(ANY, _NEAR, approximate="tanh"),
                                   at([1, -2, 4, 4, 4, 3, 1], [-50, -9, -4, -3, 3, 9, 50], approximate="tanh")], DIFFERENCES,
         terms=64.0,  # 1 - tanh^2 cancels beside g x^3, which is up to 256
         either_zero="a slope of 0 has no sign",
         refusals=[*_APART, refuses(ArgumentError, "approximate is 'none' or 'tanh'", real(2), real(2), approximate="erf")],
)  # fmt: skip
