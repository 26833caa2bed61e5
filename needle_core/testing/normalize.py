"""Declarations of softmax and the normalisations."""

from __future__ import annotations

from typing import Any

import numpy as np

from needle_core.errors import ShapeError
from needle_core.spec import DTYPES, DType
from needle_core.testing.reduce import FROM_ZERO
from needle_core.testing.samples import COMPLEX, Array, Input, Sample, at, declare, floats, real, refuses, sample


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


def _batch_statistics(x: Array) -> Any:
    """One sample after the other."""
    n, total, squares = np.float64(np.prod(x.shape[:-1])), np.zeros(x.shape[-1:], x.dtype), np.zeros(x.shape[-1:], x.dtype)
    for i in np.ndindex(x.shape[:-1]):
        total += x[i]
    for i in np.ndindex(x.shape[:-1]):
        squares += (x[i] - total / n) ** 2
    return total / n, squares / n


def _batch_statistics_grad(by_mean: Array, by_var: Array, x: Array, mean: Array) -> Array:
    n = np.prod(x.shape[:-1])
    return np.asarray(by_mean / n + 2 * by_var * (x - mean) / n)


def _batch_norm(x: Array, mean: Array, var: Array, weight: Array, bias: Array, eps: float = 1e-5) -> Array:
    return np.asarray((x - mean) / np.sqrt(var + eps) * weight + bias)


def _batch_norm_grad(g: Array, x: Array, mean: Array, var: Array, weight: Array, eps: float = 1e-5) -> Any:
    deviation = np.sqrt(var + eps)
    total, along = g.sum(_first(x, 1)), (g * (x - mean)).sum(_first(x, 1)) / deviation
    return g * weight / deviation, -weight / deviation * total, -weight * along / (2 * deviation**2), along, total


def _layer_norm_grad(g: Array, x: Array, weight: Array, eps: float = 1e-5) -> Any:
    return _normalize_grad(g, x, weight, _last(x, weight), _first(x, weight.ndim), eps)


def _group_norm(x: Array, weight: Array, bias: Array, groups: int, eps: float = 1e-5) -> Array:
    """One sample and one group after the other."""
    y, size = np.zeros_like(x + weight), x.shape[-1] // groups
    for n in range(len(x)):
        for i in range(groups):
            part = np.s_[n, ..., i * size : (i + 1) * size]
            y[part] = _standard(x[part], tuple(range(x.ndim - 1)), eps)[0]
    return y * weight + bias


def _group_norm_grad(g: Array, x: Array, weight: Array, groups: int, eps: float = 1e-5) -> Any:
    h, dx, size = np.zeros_like(g + x + weight), np.zeros_like(g + x + weight), x.shape[-1] // groups
    for n in range(len(x)):
        for i in range(groups):
            channels = slice(i * size, (i + 1) * size)
            part = np.s_[n, ..., channels]
            h[part], deviation = _standard(x[part], tuple(range(x.ndim - 1)), eps)
            z = g[part] * weight[channels]
            dx[part] = (z - z.mean() - h[part] * (z * h[part]).mean()) / deviation
    return dx, (g * h).sum(_first(x, 1)), g.sum(_first(x, 1))


def _rms_norm(x: Array, weight: Array, eps: float = 1e-5) -> Array:
    return np.asarray(x * weight / np.sqrt((x * x).mean(_last(x, weight), keepdims=True) + eps))


def _rms_norm_grad(g: Array, x: Array, weight: Array, eps: float = 1e-5) -> Any:
    axes = _last(x, weight)
    mean_square = (x * x).mean(axes, keepdims=True) + eps
    along = (g * weight * x).mean(axes, keepdims=True)
    dx = (g * weight - x * along / mean_square) / np.sqrt(mean_square)
    return dx, (g * x / np.sqrt(mean_square)).sum(_first(x, weight.ndim))


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
_WRONG = [refuses(ShapeError, "weight and bias need the shape", real(2, 3), real(2), real(2)),
          refuses(ShapeError, "weight and bias need the shape", real(2, 3), real(3), real(2))]  # fmt: skip
_EPS: list[dict[str, Any]] = [{}, {"eps": 0.1}]
_ROUNDED: dict[str, Any] = {"gradient": COMPLEX, "result": floats, "rounds": 16, "either_zero": FROM_ZERO}
_CANCELLING = {**_ROUNDED, "terms": 32}  # g w / std cancels
declare("layer_norm", _layer_norm, [sample(real(*x), real(*w), real(*w), **eps) for x, w in _LAYERS for eps in _EPS],
        refusals=_WRONG, **_ROUNDED)  # fmt: skip
declare("layer_norm_grad", _layer_norm_grad, [sample(real(*x), real(*x), real(*w), **eps) for x, w in _LAYERS for eps in _EPS],
        **_CANCELLING)  # fmt: skip

_BATCHES = [(4, 3), (2, 3, 2), (4, 1), (1, 2), (6, 0), (2, 3, 2, 3)]


def _statistics(c: int) -> tuple[Input, Input]:
    return real(c), real(c, low=0.5)


def _wide(d: DType) -> DType:
    return DTYPES["float32"] if floats(d).itemsize == 2 else floats(d)


declare("batch_statistics", _batch_statistics, [sample(real(*x)) for x in _BATCHES], **{**_ROUNDED, "result": _wide},
        refusals=[refuses(ShapeError, "channels are the last axis", real(3))])  # fmt: skip
declare("batch_statistics_grad", _batch_statistics_grad,
        [sample(real(x[-1]), real(x[-1]), real(*x), real(x[-1])) for x in _BATCHES],
        refusals=[refuses(ShapeError, "need the shape [3] of x's last axis", real(3), real(3), real(2, 3), real(2))],
        **_ROUNDED)  # fmt: skip
declare("batch_norm", _batch_norm,
        [sample(real(*x), *_statistics(x[-1]), real(x[-1]), real(x[-1]), **eps) for x in (*_BATCHES, (0, 3)) for eps in _EPS],
        refusals=[refuses(ShapeError, "need the shape [3] of x's last axis", real(2, 3), *(real(n) for n in sizes))
                  for sizes in ((2, 3, 3, 3), (3, 3, 3, 2))], **_ROUNDED)  # fmt: skip
declare("batch_norm_grad", _batch_norm_grad,
        [sample(real(*x), real(*x), *_statistics(x[-1]), real(x[-1]), **eps) for x in _BATCHES for eps in _EPS],
        **{**_CANCELLING, "result": lambda d: (floats(d), _wide(d), _wide(d), floats(d), floats(d))})  # fmt: skip

_GROUPS: list[tuple[tuple[int, ...], int]] = [((2, 8), 2), ((2, 3, 6), 3), ((2, 2, 2, 4), 1), ((1, 3, 2), 2), ((0, 2, 4), 2)]
_NOT_GROUPS = [
    *_WRONG,
    refuses(ShapeError, "weight and bias need the shape", real(3), real(3), real(3)),
]
declare("group_norm", _group_norm,
        [sample(real(*x), real(x[-1]), real(x[-1]), groups=k, **eps) for x, k in _GROUPS for eps in _EPS],
        refusals=[*(refuses(r.error, r.text, *r.sample.inputs, groups=1) for r in _NOT_GROUPS),
                  *(refuses(ShapeError, f"4 channels do not make {k} groups", real(2, 4), real(4), real(4), groups=k)
                    for k in (3, 0, -2))], **_ROUNDED)  # fmt: skip
declare("group_norm_grad", _group_norm_grad,
        [sample(real(*x), real(*x), real(x[-1]), groups=k, **eps) for x, k in _GROUPS for eps in _EPS],
        **_CANCELLING)  # fmt: skip
declare("instance_norm", lambda x, weight, bias, **eps: _group_norm(x, weight, bias, x.shape[-1] or 1, **eps),
        [sample(real(*x), real(x[-1]), real(x[-1]), **eps) for x in ((2, 3, 2), (2, 3, 2, 2), (0, 2, 2)) for eps in _EPS],
        refusals=_NOT_GROUPS, **_ROUNDED)  # fmt: skip
declare("rms_norm", _rms_norm, [sample(real(*x), real(*w), **eps) for x, w in _LAYERS for eps in _EPS],
        refusals=[refuses(ShapeError, "weight needs the shape of x's last axes, not [2]", real(2, 3), real(2)),
                  refuses(ShapeError, "weight needs the shape", real(2, 3), real())], **_ROUNDED)  # fmt: skip
declare("rms_norm_grad", _rms_norm_grad, [sample(real(*x), real(*x), real(*w), **eps) for x, w in _LAYERS for eps in _EPS],
        **_CANCELLING)  # fmt: skip
