"""Kernels of reductions and cumulative ops."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Axes = tuple[int, ...]

_sum: Any = np.add.reduce  # half the time of np.sum on small arrays
_prod: Any = np.multiply.reduce
_max: Any = np.maximum.reduce
_min: Any = np.minimum.reduce
_all: Any = np.logical_and.reduce
_any: Any = np.logical_or.reduce


def _wide(x: Array) -> Any:
    """The dtype to accumulate in: half precision is summed in float32."""
    return np.float32 if x.dtype.itemsize == 2 else x.dtype


def sum(x: Array, *, axes: Axes, keepdims: bool) -> Array:
    if x.dtype.itemsize == 2:
        return np.asarray(_sum(x, axis=axes, dtype=np.float32, keepdims=keepdims)).astype(x.dtype)
    return _sum(x, axis=axes, keepdims=keepdims, out=...)


def mean(x: Array, *, axes: Axes, keepdims: bool) -> Array:
    total = _sum(x, axis=axes, dtype=_wide(x), keepdims=keepdims)
    count = np.prod([x.shape[i] for i in axes], dtype=np.int64)
    return np.asarray(total / total.dtype.type(count)).astype(x.dtype, copy=False)


def prod(x: Array, *, axes: Axes, keepdims: bool) -> Array:
    return np.asarray(_prod(x, axis=axes, dtype=_wide(x), keepdims=keepdims)).astype(x.dtype, copy=False)


def max(x: Array, *, axes: Axes, keepdims: bool) -> Array:
    return np.asarray(_max(x, axis=axes, keepdims=keepdims))


def min(x: Array, *, axes: Axes, keepdims: bool) -> Array:
    return np.asarray(_min(x, axis=axes, keepdims=keepdims))


def all(x: Array, *, axes: Axes, keepdims: bool) -> Array:
    return np.asarray(_all(x, axis=axes, keepdims=keepdims))


def any(x: Array, *, axes: Axes, keepdims: bool) -> Array:
    return np.asarray(_any(x, axis=axes, keepdims=keepdims))


def argmax(x: Array, *, axis: int | None, keepdims: bool) -> Array:
    return np.asarray(np.argmax(x, axis=axis, keepdims=keepdims))


def argmin(x: Array, *, axis: int | None, keepdims: bool) -> Array:
    return np.asarray(np.argmin(x, axis=axis, keepdims=keepdims))


def cumsum(x: Array, *, axis: int) -> Array:
    return np.add.accumulate(x, axis=axis, dtype=_wide(x)).astype(x.dtype, copy=False)
