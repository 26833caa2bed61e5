"""Kernels that gather, scatter and sort."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def take(x: Array, indices: Array, *, axis: int) -> Array:
    return np.asarray(np.take(x, indices, axis))


def scatter_add(x: Array, indices: Array, updates: Array, *, axis: int) -> Array:
    y = x.copy()
    place: Any = (slice(None),) * axis + (indices,)
    np.add.at(y, place, updates)
    return y


def take_along_axis(x: Array, indices: Array, *, axis: int) -> Array:
    shape = np.broadcast_shapes(*((*a.shape[:axis], 1, *a.shape[axis + 1 :]) for a in (x, indices)))
    x, indices = (np.broadcast_to(a, (*shape[:axis], a.shape[axis], *shape[axis + 1 :])) for a in (x, indices))
    return np.take_along_axis(x, indices, axis)


def argsort(x: Array, *, axis: int, descending: bool) -> Array:
    if x.dtype.itemsize == 2:  # the comparisons of bfloat16 do not order nan
        x = x.astype(np.float32)
    if not descending:
        return np.argsort(x, axis, kind="stable")
    turned = np.argsort(np.flip(x, axis), axis, kind="stable")  # equal elements keep their order
    return np.flip(x.shape[axis] - 1 - turned, axis)
