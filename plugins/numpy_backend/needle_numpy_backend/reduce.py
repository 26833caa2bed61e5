"""Kernels of reductions and cumulative ops."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Axes = tuple[int, ...]


def _wide(x: Array) -> Any:
    """The dtype to accumulate in: half precision is summed in float32."""
    return np.float32 if x.dtype.itemsize == 2 else x.dtype


def sum(x: Array, *, axes: Axes, keepdims: bool) -> Array:
    return np.asarray(np.add.reduce(x, axis=axes, dtype=_wide(x), keepdims=keepdims)).astype(x.dtype, copy=False)


def mean(x: Array, *, axes: Axes, keepdims: bool) -> Array:
    total = np.add.reduce(x, axis=axes, dtype=_wide(x), keepdims=keepdims)
    count = np.prod([x.shape[i] for i in axes], dtype=np.int64)
    return np.asarray(total / total.dtype.type(count)).astype(x.dtype, copy=False)


def prod(x: Array, *, axes: Axes, keepdims: bool) -> Array:
    return np.asarray(np.multiply.reduce(x, axis=axes, dtype=_wide(x), keepdims=keepdims)).astype(x.dtype, copy=False)


def max(x: Array, *, axes: Axes, keepdims: bool) -> Array:
    return np.asarray(np.maximum.reduce(x, axis=axes, keepdims=keepdims))


def min(x: Array, *, axes: Axes, keepdims: bool) -> Array:
    return np.asarray(np.minimum.reduce(x, axis=axes, keepdims=keepdims))


def all(x: Array, *, axes: Axes, keepdims: bool) -> Array:
    return np.asarray(np.logical_and.reduce(x, axis=axes, keepdims=keepdims))


def any(x: Array, *, axes: Axes, keepdims: bool) -> Array:
    return np.asarray(np.logical_or.reduce(x, axis=axes, keepdims=keepdims))


def argmax(x: Array, *, axis: int | None, keepdims: bool) -> Array:
    return np.asarray(np.argmax(x, axis=axis, keepdims=keepdims))


def argmin(x: Array, *, axis: int | None, keepdims: bool) -> Array:
    return np.asarray(np.argmin(x, axis=axis, keepdims=keepdims))


def cumsum(x: Array, *, axis: int) -> Array:
    return np.add.accumulate(x, axis=axis, dtype=_wide(x)).astype(x.dtype, copy=False)
