"""Kernels of softmax and the normalisations."""

from __future__ import annotations

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
    return _normalize(x, weight, bias, eps, tuple(range(x.ndim - weight.ndim, x.ndim)))


def layer_norm_grad(g: Array, x: Array, weight: Array, *, eps: float) -> tuple[Array, Array, Array]:
    return _normalize_grad(g, x, weight, eps, tuple(range(x.ndim - weight.ndim, x.ndim)), tuple(range(x.ndim - weight.ndim)))


def batch_norm(x: Array, weight: Array, bias: Array, *, eps: float) -> Array:
    return _normalize(x, weight, bias, eps, tuple(range(x.ndim - 1)))


def batch_norm_grad(g: Array, x: Array, weight: Array, *, eps: float) -> tuple[Array, Array, Array]:
    axes = tuple(range(x.ndim - 1))
    return _normalize_grad(g, x, weight, eps, axes, axes)


def _wide(x: Array) -> Array:
    """`x` in the dtype to compute in: float32 for half precision."""
    return x.astype(np.float32) if x.dtype.itemsize == 2 else x


def _standard(x: Array, eps: float, axes: Axes) -> tuple[Array, Array]:
    """A new array, x with mean 0 and variance 1 over `axes`, and the deviation that it was divided by."""
    y = x - mean(x, axes=axes, keepdims=True)
    deviation = np.sqrt(mean(np.square(y), axes=axes, keepdims=True) + x.dtype.type(eps))
    y /= deviation
    return y, deviation


def _normalize(x: Array, weight: Array, bias: Array, eps: float, axes: Axes) -> Array:
    y, _ = _standard(_wide(x), eps, axes)
    y *= weight
    y += bias
    return y.astype(x.dtype, copy=False)


def _normalize_grad(g: Array, x: Array, weight: Array, eps: float, axes: Axes, samples: Axes) -> tuple[Array, Array, Array]:
    h, deviation = _standard(_wide(x), eps, axes)
    g = _wide(g)
    gh = g * h
    by_weight, by_bias = sum(gh, axes=samples, keepdims=False), sum(g, axes=samples, keepdims=False)
    gh *= weight
    h *= mean(gh, axes=axes, keepdims=True)
    by_x = g * weight
    by_x -= mean(by_x, axes=axes, keepdims=True)
    by_x -= h
    by_x /= deviation
    return tuple(np.asarray(a).astype(x.dtype, copy=False) for a in (by_x, by_weight, by_bias))  # type: ignore[return-value]
