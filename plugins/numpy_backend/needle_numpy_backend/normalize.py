"""Kernels of softmax and the normalisations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from needle_numpy_backend.reduce import mean, sum

Array = npt.NDArray[Any]
Axes = tuple[int, ...]


def softmax(x: Array, *, axes: Axes) -> Array:
    if not x.size:
        return x
    wide = _wide(x)
    y = wide - wide.max(axes, keepdims=True)
    np.exp(y, out=y)
    y /= y.sum(axes, keepdims=True)
    return y.astype(x.dtype, copy=False)


def layer_norm(x: Array, weight: Array, bias: Array, *, eps: float) -> Array:
    return _layer_norm(x, weight, bias, eps=eps)[0]


def layer_norm_grad(g: Array, x: Array, weight: Array, *, eps: float) -> tuple[Array, Array, Array]:
    return _layer_norm_grad(_standard(_wide(x), eps, _last(x, weight)), g, weight, eps=eps)


def group_norm(x: Array, weight: Array, bias: Array, *, groups: int, eps: float) -> Array:
    y, _ = _standard(_grouped(_wide(x), groups), eps, (1, 3))
    y = y.reshape(x.shape)
    y *= weight
    y += bias
    return y.astype(x.dtype, copy=False)


def group_norm_grad(g: Array, x: Array, weight: Array, *, groups: int, eps: float) -> tuple[Array, ...]:
    h, deviation = _standard(_grouped(_wide(x), groups), eps, (1, 3))
    g, axes = _wide(g), tuple(range(x.ndim - 1))
    gh = g * h.reshape(x.shape)
    by_weight, by_bias = sum(gh, axes=axes, keepdims=False), sum(g, axes=axes, keepdims=False)
    gh *= weight
    h *= mean(_grouped(gh, groups), axes=(1, 3), keepdims=True)
    by_x = _grouped(np.multiply(g, weight, out=gh), groups)
    by_x -= mean(by_x, axes=(1, 3), keepdims=True)
    by_x -= h
    by_x /= deviation
    return tuple(a.astype(x.dtype, copy=False) for a in (by_x.reshape(x.shape), by_weight, by_bias))


def rms_norm(x: Array, weight: Array, *, eps: float) -> Array:
    y = _wide(x) * _by_root_mean_square(_wide(x), weight, eps)
    y *= weight
    return y.astype(x.dtype, copy=False)


def rms_norm_grad(g: Array, x: Array, weight: Array, *, eps: float) -> tuple[Array, Array]:
    samples, axes = tuple(range(x.ndim - weight.ndim)), tuple(range(x.ndim - weight.ndim, x.ndim))
    r, g = _by_root_mean_square(_wide(x), weight, eps), _wide(g)
    h = _wide(x) * r
    gh = g * h
    by_weight = sum(gh, axes=samples, keepdims=False)
    gh *= weight
    h *= mean(gh, axes=axes, keepdims=True)
    by_x = np.multiply(g, weight, out=gh)
    by_x -= h
    by_x *= r
    return by_x.astype(x.dtype, copy=False), by_weight.astype(x.dtype, copy=False)


def batch_statistics(x: Array) -> tuple[Array, Array]:
    x, axes = _wide(x), tuple(range(x.ndim - 1))
    centre = mean(x, axes=axes, keepdims=False)
    squares = x - centre
    np.square(squares, out=squares)
    return centre, mean(squares, axes=axes, keepdims=False)


def batch_statistics_grad(by_mean: Array, by_var: Array, x: Array, mean: Array) -> Array:
    n = max(math.prod(x.shape[:-1]), 1)
    y = x - mean
    y *= by_var * (2 / n)
    y += by_mean / n
    return y.astype(x.dtype, copy=False)


def batch_norm(x: Array, mean: Array, var: Array, weight: Array, bias: Array, *, eps: float) -> Array:
    y = x - mean
    y *= weight / np.sqrt(var + eps)
    y += bias
    return y.astype(x.dtype, copy=False)


def batch_norm_grad(g: Array, x: Array, mean: Array, var: Array, weight: Array, *, eps: float) -> tuple[Array, ...]:
    axes = tuple(range(x.ndim - 1))
    deviation, wide = np.sqrt(var + eps), _wide(g)
    scale = weight / deviation
    gh = x - mean
    gh *= wide
    by_weight, by_bias = sum(gh, axes=axes, keepdims=False) / deviation, sum(wide, axes=axes, keepdims=False)
    by_x = np.multiply(wide, scale, out=gh)
    by_mean, by_var = -scale * by_bias, scale / deviation * by_weight * -0.5
    narrow = x.dtype
    return (
        by_x.astype(narrow, copy=False),
        by_mean,
        by_var,
        by_weight.astype(narrow, copy=False),
        by_bias.astype(narrow, copy=False),
    )


def _grouped(x: Array, groups: int) -> Array:
    """(n, *s, c) -> (n, product of s, groups, c / groups)."""
    return x.reshape(x.shape[0], math.prod(x.shape[1:-1]), groups, x.shape[-1] // groups)


def _by_root_mean_square(x: Array, weight: Array, eps: float) -> Array:
    squares = mean(np.square(x), axes=tuple(range(x.ndim - weight.ndim, x.ndim)), keepdims=True)
    return np.asarray(1 / np.sqrt(squares + x.dtype.type(eps)))


def _wide(x: Array) -> Array:
    """`x` in the dtype to compute in: float32 for half precision."""
    return x.astype(np.float32) if x.dtype.itemsize == 2 else x


def _standard(x: Array, eps: float, axes: Axes) -> tuple[Array, Array]:
    """A new array, x with mean 0 and variance 1 over `axes`, and the deviation that it was divided by."""
    y = x - mean(x, axes=axes, keepdims=True)
    deviation = np.sqrt(mean(np.square(y), axes=axes, keepdims=True) + x.dtype.type(eps))
    y /= deviation
    return y, deviation


def _last(x: Array, weight: Array) -> Axes:
    """The axes of `weight` in x."""
    return tuple(range(x.ndim - weight.ndim, x.ndim))


def _layer_norm(x: Array, weight: Array, bias: Array, *, eps: float) -> tuple[Array, tuple[Array, Array]]:
    """The op; x with mean 0 and variance 1, and its deviation."""
    h, deviation = _standard(_wide(x), eps, _last(x, weight))
    y = h * weight
    y += bias
    return y.astype(x.dtype, copy=False), (h, deviation)


def _layer_norm_grad(kept: tuple[Array, Array], g: Array, weight: Array, *, eps: float) -> tuple[Array, Array, Array]:
    """The gradients, given what `_layer_norm` has kept, which it writes over."""
    dtype, axes, samples = g.dtype, _last(g, weight), tuple(range(g.ndim - weight.ndim))
    (h, deviation), g = kept, _wide(g)
    gh = g * h
    by_weight, by_bias = sum(gh, axes=samples, keepdims=False), sum(g, axes=samples, keepdims=False)
    gh *= weight
    h *= mean(gh, axes=axes, keepdims=True)
    by_x = np.multiply(g, weight, out=gh)
    by_x -= mean(by_x, axes=axes, keepdims=True)
    by_x -= h
    by_x /= deviation
    return tuple(np.asarray(a).astype(dtype, copy=False) for a in (by_x, by_weight, by_bias))  # type: ignore[return-value]
