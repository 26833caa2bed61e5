"""Kernels that rearrange elements. Where NumPy can return a view, they do: tensors are never written."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Shape = tuple[int, ...]


def reshape(x: Array, *, shape: Shape) -> Array:
    return x.reshape(shape)


def permute_dims(x: Array, *, axes: Shape) -> Array:
    return x.transpose(axes)


def broadcast_to(x: Array, *, shape: Shape) -> Array:
    if x.ndim == 0:  # five times as fast as NumPy's own
        return np.ndarray(shape, x.dtype, x, 0, (0,) * len(shape))
    return np.broadcast_to(x, shape)


def expand_as(x: Array, like: Array) -> Array:
    return broadcast_to(x, shape=like.shape)


def strided_slice(x: Array, *, start: Shape, stop: Shape, step: Shape) -> Array:
    key: Any = (..., *map(slice, start, stop, step))  # ... keeps a 0-d array an array
    return x[key]


def flip(x: Array, *, axes: Shape) -> Array:
    key: Any = (..., *(slice(None, None, -1 if i in axes else 1) for i in range(x.ndim)))
    return x[key]


def pad(x: Array, *, width: tuple[tuple[int, int], ...], value: float, dilation: Shape) -> Array:
    inner = [(n - 1) * d + 1 if n else 0 for n, d in zip(x.shape, dilation, strict=True)]
    y = np.full([a + n + b for (a, b), n in zip(width, inner, strict=True)], value, x.dtype)
    y[tuple(slice(a, a + n, d) for (a, _), n, d in zip(width, inner, dilation, strict=True))] = x
    return y


def concat(*arrays: Array, axis: int) -> Array:
    return np.concatenate(arrays, axis)
