"""Kernels of the family interpolation."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from needle_core.ops.interpolation import sources

Array = npt.NDArray[Any]
Shape = tuple[int, ...]


def interpolate(x: Array, *, size: Shape, mode: str, align_corners: bool) -> Array:
    y = x.astype(np.float32) if x.dtype.itemsize == 2 else x
    for axis, n in enumerate(size, 1):
        (places, low), *more = sources(x.shape[axis], n, mode, align_corners)
        part = y.take(places, axis)
        for others, high in more:
            part *= _along(axis, part, low)
            other = y.take(others, axis)
            other *= _along(axis, other, high)
            part += other
        y = part
    return y.astype(x.dtype, copy=False)


def interpolate_grad(g: Array, *, size: Shape, mode: str, align_corners: bool) -> Array:
    """What goes to one place stands side by side, and is added up there before it is put there."""
    y = g.astype(np.float32) if g.dtype.itemsize == 2 else g
    for axis, n in enumerate(size, 1):
        total = np.zeros((*y.shape[:axis], n, *y.shape[axis + 1 :]), y.dtype)
        for places, weights in sources(n, y.shape[axis], mode, align_corners):
            start = np.flatnonzero(np.diff(places, prepend=-1))
            part = y if weights is None else y * _along(axis, y, weights)
            total[(slice(None),) * axis + (places[start],)] += np.add.reduceat(part, start, axis)
        y = total
    return y.astype(g.dtype, copy=False)


def _along(axis: int, x: Array, weights: Any) -> Array:
    """Weights of the elements along an axis of x, which broadcast against it."""
    return np.asarray(weights, x.dtype).reshape(-1, *(1,) * (x.ndim - axis - 1))
