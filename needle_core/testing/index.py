"""Declarations of gathering, scattering and sorting."""

from __future__ import annotations

from typing import Any

import numpy as np

from needle_core.errors import ArgumentError, BoundsError, DtypeError, ShapeError
from needle_core.spec import DTYPES
from needle_core.testing.samples import COMPLEX, Array, always, declare, index, real, refuses, sample


def _scatter_add(x: Array, indices: Array, updates: Array, axis: int = 0) -> Array:
    y = np.moveaxis(np.array(x, np.result_type(x, updates)), axis, 0)
    source = np.moveaxis(updates, range(axis % x.ndim, axis % x.ndim + indices.ndim), range(indices.ndim))
    for place in np.ndindex(indices.shape):
        y[indices[place]] += source[place]
    return np.moveaxis(y, 0, axis)


def _embedding_grad(g: Array, indices: Array, count: int) -> Array:
    return _scatter_add(np.zeros((count, *g.shape[indices.ndim :]), g.dtype), indices, g)


def _take_along(x: Array, indices: Array, axis: int = -1) -> Array:
    axis %= x.ndim
    shape = np.broadcast_shapes(*((*a.shape[:axis], 1, *a.shape[axis + 1 :]) for a in (x, indices)))
    wide = [np.broadcast_to(a, (*shape[:axis], a.shape[axis], *shape[axis + 1 :])) for a in (x, indices)]
    return np.take_along_axis(wide[0], wide[1], axis)


def _argsort(x: Array, axis: int = -1, descending: bool = False) -> Array:
    """Stable, one line after the other, by Python's sort; nan is the greatest."""
    lines = np.moveaxis(x, axis, -1)
    places = np.zeros(lines.shape, np.int64)
    for i in np.ndindex(lines.shape[:-1]):
        line = [(bool(np.isnan(v)), float(v)) for v in lines[i].real]
        places[i] = sorted(range(len(line)), key=line.__getitem__, reverse=descending)  # keeps equal elements in order
    return np.moveaxis(places, -1, axis)


def _sort(x: Array, axis: int = -1, descending: bool = False) -> Array:
    return np.take_along_axis(x, _argsort(x, axis, descending), axis)


def _topk(x: Array, k: int, axis: int = -1, largest: bool = True) -> tuple[Array, Array]:
    places = np.take(_argsort(x, axis, largest), np.arange(k), axis)
    return np.take_along_axis(x, places, axis), places


_OUT = [
    refuses(BoundsError, "", real(3), index(2, low=3, below=4)),
    refuses(BoundsError, "", real(2, 3), index(low=-4, below=-3), axis=1),
    refuses(BoundsError, "empty", real(0), index(2, below=1)),
    refuses(ArgumentError, "needs an axis", real(2, 2), index(2, below=1)),
    refuses(DtypeError, "indices must be integers", real(3), real(2)),
    refuses(ShapeError, "out of range", real(2), index(1, below=1), axis=1),
]  # fmt: skip
declare("take", lambda x, i, axis=0: np.take(x, i, axis), [
    sample(real(5), index(below=5)), sample(real(5), index(7, low=-5, below=5)),
    sample(real(3, 4), index(2, 3, below=4), axis=-1),
    sample(real(2, 3, 4), index(5, below=3), axis=1), sample(real(3, 4), index(below=3), axis=0),
    sample(real(3), index(0, below=3)),
    sample(real(0, 3), index(2, below=3), axis=1), sample(real(0), index(0, below=1)),
], gradient=COMPLEX, exact=True, refusals=_OUT)  # fmt: skip
declare("scatter_add", _scatter_add, [
    sample(real(5), index(7, low=-5, below=5), real(7)), sample(real(5), index(below=5), real()),
    sample(real(3, 4), index(2, 3, below=4), real(3, 2, 3), axis=-1),
    sample(real(2, 3, 2), index(3, 6, low=-3, below=3), real(2, 3, 6, 2), axis=1),
    sample(real(2, 3, 4), index(5, below=3), real(2, 5, 4), axis=1),
    sample(real(3), index(0, below=3), real(0)), sample(real(0, 3), index(2, below=3), real(0, 2), axis=1),
], gradient=COMPLEX, refusals=[
    refuses(ShapeError, "updates must have the shape [2]", real(3), index(2, below=3), real(3)),
    refuses(BoundsError, "", real(3), index(2, low=3, below=4), real(2)),
    refuses(DtypeError, "indices must be integers", real(3), real(2), real(2)),
])  # fmt: skip
declare("embedding", lambda i, weight: np.array([weight[k] for k in i.ravel()]).reshape(*i.shape, *weight.shape[1:]), [
    sample(index(below=5), real(5, 3)), sample(index(7, low=-5, below=5), real(5, 3)), sample(index(2, 3, below=4), real(4, 1)),
    sample(index(0, below=3), real(3, 2)), sample(index(2, below=3), real(3, 0)), sample(index(3, below=2), real(2, 2, 3)),
    sample(index(4, below=3), real(3)),
], gradient=COMPLEX, exact=True, refusals=[
    refuses(BoundsError, "", index(2, low=3, below=4), real(3, 2)),
    refuses(DtypeError, "indices must be integers", real(3), real(3, 2)),
    refuses(ShapeError, "weight needs an axis", index(3, below=1), real()),
    refuses(BoundsError, "empty", index(2, below=1), real(0, 3)),
])  # fmt: skip
declare("embedding_grad", _embedding_grad, [
    sample(real(3), index(below=5), count=5), sample(real(7, 3), index(7, low=-3, below=3), count=3),
    sample(real(2, 3, 2), index(2, 3, below=4), count=4), sample(real(0, 2), index(0, below=3), count=3),
    sample(real(6), index(6, low=-2, below=2), count=2), sample(real(2, 0), index(2, below=3), count=3),
    sample(real(3, 2, 2), index(3, below=2), count=2), sample(real(40, 2), index(40, below=1), count=2),
    sample(real(20, 2), index(20, low=-3, below=3), count=3),
], gradient=COMPLEX, refusals=[
    refuses(BoundsError, "", real(2, 3), index(2, low=3, below=4), count=3),
    refuses(ShapeError, "[2] rows of 3 have these axes first, not [3, 2]", real(3, 2), index(2, below=3), count=3),
    refuses(DtypeError, "indices must be integers", real(3, 2), real(3), count=3),
    refuses(BoundsError, "without rows", real(3, 2), index(3, below=1), count=0),
])  # fmt: skip
declare("take_along_axis", _take_along, [
    sample(real(5), index(3, low=-5, below=5)), sample(real(3, 4), index(3, 2, below=4)),
    sample(real(3, 4), index(2, 4, below=3), axis=0),
    sample(real(3, 4), index(1, 6, below=4), axis=1), sample(real(1, 4), index(3, 2, low=-4, below=4), axis=1),
    sample(real(2, 3, 4), index(2, 1, 1, below=4), axis=2), sample(real(0, 3), index(0, 2, below=3)),
    sample(real(3), index(0, below=1)),
], gradient=COMPLEX, exact=True, refusals=[
    refuses(BoundsError, "", real(3), index(2, low=3, below=4)),
    refuses(BoundsError, "", real(2, 3), index(2, 1, low=-5, below=-3)),
    refuses(ShapeError, "same number of axes", real(2, 3), index(2, below=3)),
    refuses(DtypeError, "integers", real(3), real(2)),
    refuses(ShapeError, "do not broadcast", real(2, 3), index(3, 1, below=3)),
])  # fmt: skip
_LINES: list[tuple[Any, dict[str, Any]]] = [
    (real(1), {}), (real(6), {}), (real(6), {"descending": True}), (real(3, 4), {"axis": 0}),
    (real(3, 4), {"axis": -1, "descending": True}),
    (real(2, 3, 4), {"axis": 1}), (real(0, 3), {}), (real(3, 0), {}), (real(9, low=-1, high=1), {"descending": True}),
]  # fmt: skip
_ALONG = [refuses(ShapeError, "out of range", real(2, 3), axis=2), refuses(ShapeError, "out of range", real())]
declare("argsort", _argsort, [sample(x, **attrs) for x, attrs in _LINES], result=always("int64"), refusals=_ALONG)
_DISTINCT = [sample(real(*x.shape, distinct=True), **attrs) for x, attrs in _LINES]
declare("sort", _sort, _DISTINCT, gradient=COMPLEX, exact=True, refusals=_ALONG)
declare("topk", _topk, [
    sample(real(6, distinct=True), k=3), sample(real(6, distinct=True), k=0),
    sample(real(3, 4, distinct=True), k=2, axis=0, largest=False),
    sample(real(2, 3, 4, distinct=True), k=4), sample(real(0, 3), k=1), sample(real(3, 4, distinct=True), k=2, axis=-2),
], gradient=COMPLEX, exact=True, result=lambda d: (d, DTYPES["int64"]), refusals=[
    refuses(ShapeError, "k = 4 of 3 elements", real(3), k=4), refuses(ShapeError, "k = -1", real(3), k=-1),
    refuses(ShapeError, "out of range", real(2, 3), k=1, axis=2),
])  # fmt: skip
