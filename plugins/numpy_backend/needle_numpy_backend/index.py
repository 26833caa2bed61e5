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
    last = axis + indices.ndim
    rows = updates.transpose(*range(axis, last), *range(axis), *range(last, updates.ndim))
    _add_rows(np.moveaxis(y, axis, 0), indices, rows)
    return y


def embedding_grad(g: Array, indices: Array, *, count: int) -> Array:
    wide = np.float32 if g.dtype.itemsize == 2 else g.dtype
    y = np.zeros((count, *g.shape[indices.ndim :]), wide)
    _add_rows(y, indices, g)
    return y.astype(g.dtype, copy=False)


_ROUNDS = 32


def _add_rows(y: Array, indices: Array, rows: Array) -> None:
    """Adds `rows` to y where `indices` say; those of one place in their order, so that sums are the same every time.

    First goes the first row of every place, then the second, and so on: to a table of 10,000 rows of 100, 640 are added in
    0.05 ms, where np.add.at takes 0.4. A place that has many rows gets the rest as one sum.
    """
    if y.ndim == 1 or indices.size <= 16:
        np.add.at(y, indices, rows)  # faster for single numbers and for few rows
        return
    places = np.arange(len(y))[indices.ravel()]  # of which none is negative
    rows = rows.reshape(len(places), *y.shape[1:])
    order = np.argsort(places, kind="stable")
    sorted_places = places[order]
    start = np.flatnonzero(np.diff(sorted_places, prepend=-1))
    count = np.diff(start, append=len(places))
    for i in range(_ROUNDS):
        y[sorted_places[start]] += rows[order[start + i]]
        left = count > i + 1
        start, count = start[left], count[left]
        if not len(start):
            return
    for first, n in zip(start.tolist(), count.tolist(), strict=True):
        rest = rows[order[first + _ROUNDS : first + n]]
        y[sorted_places[first]] += np.add.reduce(rest, axis=0, dtype=y.dtype)


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
