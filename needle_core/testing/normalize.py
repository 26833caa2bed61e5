"""Declarations of softmax and the normalisations."""

from __future__ import annotations

from typing import Any

import numpy as np

from needle_core.errors import ShapeError
from needle_core.testing.reduce import FROM_ZERO
from needle_core.testing.samples import COMPLEX, Array, Sample, at, declare, floats, real, refuses, sample


def _softmax(x: Array, axis: Any = -1, axes: Any = None) -> Array:
    return np.exp(_log_softmax(x, axis, axes))


def _log_softmax(x: Array, axis: Any = -1, axes: Any = None) -> Array:
    over = axis if axes is None else axes
    low = x - x.real.max(axis=over, keepdims=True, initial=-2000)  # a constant
    return np.asarray(low - np.log(np.exp(low).sum(axis=over, keepdims=True)))


def _softmax_grad(g: Array, y: Array, axis: Any = -1, axes: Any = None) -> Array:
    return np.asarray(y * (g - (g * y).sum(axis=axis if axes is None else axes, keepdims=True)))


def _standard(x: Array, axes: tuple[int, ...], eps: float) -> tuple[Array, Array]:
    centred = x - x.mean(axes, keepdims=True)
    deviation = np.sqrt((centred * centred).mean(axes, keepdims=True) + eps)
    return centred / deviation, deviation


def _normalize_grad(g: Array, x: Array, weight: Array, axes: tuple[int, ...], samples: tuple[int, ...], eps: float) -> Any:
    h, deviation = _standard(x, axes, eps)
    z = g * weight
    dx = (z - z.mean(axes, keepdims=True) - h * (z * h).mean(axes, keepdims=True)) / deviation
    return dx, (g * h).sum(samples), g.sum(samples)


def _last(x: Array, weight: Array) -> tuple[int, ...]:
    return tuple(range(x.ndim - weight.ndim, x.ndim))


def _first(x: Array, n: int) -> tuple[int, ...]:
    return tuple(range(x.ndim - n))


def _layer_norm(x: Array, weight: Array, bias: Array, eps: float = 1e-5) -> Array:
    return _standard(x, _last(x, weight), eps)[0] * weight + bias


def _batch_norm(x: Array, weight: Array, bias: Array, eps: float = 1e-5) -> Array:
    return _standard(x, _first(x, 1), eps)[0] * weight + bias


def _layer_norm_grad(g: Array, x: Array, weight: Array, eps: float = 1e-5) -> Any:
    return _normalize_grad(g, x, weight, _last(x, weight), _first(x, weight.ndim), eps)


def _batch_norm_grad(g: Array, x: Array, weight: Array, eps: float = 1e-5) -> Any:
    return _normalize_grad(g, x, weight, _first(x, 1), _first(x, 1), eps)


_SOFT: list[Sample] = [
    sample(real(5)), sample(real(3, 4)), sample(real(3, 4), axis=0), sample(real(2, 3, 4), axis=(0, 2)),
    sample(real(2, 3, 4), axes=1),
    sample(real(1)), sample(real(0, 3)), sample(real(2, 0)), sample(real(2, 3), axis=(0, 1)),
    at([1000, 1001, -1000]), at([-1000, -1001]), at([0, 20, -100]),
]  # fmt: skip
_AXIS = [refuses(ShapeError, "out of range", real(2, 3), axis=2), refuses(ShapeError, "repeat", real(2, 3), axis=(1, -1)),
         refuses(ShapeError, "out of range", real())]  # fmt: skip
_INFINITE = "where inf is the greatest, inf - inf is nan"
declare("softmax", _softmax, _SOFT, gradient=COMPLEX, result=floats, rounds=8, lax=_INFINITE, refusals=_AXIS)
declare("softmax_grad", _softmax_grad, [sample(real(*s.inputs[0].shape), *s.inputs, **s.attrs) for s in _SOFT if s.smooth],
gradient=COMPLEX,
        result=floats, rounds=8, either_zero=FROM_ZERO,
        refusals=[refuses(ShapeError, "out of range", real(2), real(2), axis=1)])  # fmt: skip
declare(
    "log_softmax",
    _log_softmax,
    _SOFT,
    gradient=COMPLEX,
    result=floats,
    rounds=8,
    terms=2,
    lax=_INFINITE,
    refusals=_AXIS,
)

_LAYERS = [((4,), (4,)), ((3, 5), (5,)), ((2, 3, 4), (3, 4)), ((2, 3, 4), (4,)), ((0, 3), (3,))]
_BATCHES = [((4, 3), (3,)), ((2, 3, 2), (2,)), ((4, 1), (1,)), ((6, 0), (0,))]
_WRONG = [refuses(ShapeError, "weight and bias need the shape", real(2, 3), real(2), real(2)),
          refuses(ShapeError, "weight and bias need the shape", real(2, 3), real(3), real(2))]  # fmt: skip
for _name, _forward, _backward, _shapes in (
    ("layer_norm", _layer_norm, _layer_norm_grad, _LAYERS), ("batch_norm", _batch_norm, _batch_norm_grad, _BATCHES),
):  # fmt: skip
    declare(_name, _forward, [sample(real(*x), real(*w), real(*w), **a) for x, w in _shapes for a in ({}, {"eps": 0.1})],
            gradient=COMPLEX, result=floats, rounds=16, either_zero=FROM_ZERO, refusals=_WRONG)  # fmt: skip
    declare(_name + "_grad", _backward, [sample(real(*x), real(*x), real(*w), **a) for x,
    w in _shapes for a in ({}, {"eps": 0.1})],
            gradient=COMPLEX, result=floats, rounds=16, terms=32, either_zero=FROM_ZERO)  # fmt: skip  # g w / std cancels
