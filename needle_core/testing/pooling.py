"""Declarations of pooling, window by window."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from needle_core.errors import ShapeError
from needle_core.testing.convolution import each, places
from needle_core.testing.reduce import FROM_ZERO
from needle_core.testing.samples import COMPLEX, Array, Sample, Shape, declare, floats, real, refuses, sample


def _windows(shape: Shape, size: Any, stride: Any = None, **attrs: Any) -> tuple[Shape, dict[Any, list[Any]]]:
    """How many places the window has, and what it holds of the image at each of them."""
    window = each(size, len(shape))
    t, found = places(shape, window, size if stride is None else stride, **attrs)
    held: dict[Any, list[Any]] = {i: [] for i in np.ndindex(t)}
    for i, _, where in found:
        held[i].append(where)
    return t, held


def _greatest(values: Array) -> Array:
    """The greatest along the first axis, by its real part; nan if one is nan."""
    first = np.argmax(np.where(np.isnan(values.real), np.inf, values.real), axis=0)
    top = np.take_along_axis(values, first[None], 0)[0]
    return np.where(np.isnan(values).any(0), np.nan, top)


def _max_pool(x: Array, **attrs: Any) -> Array:
    t, held = _windows(x.shape[1:-1], **attrs)
    y = np.zeros((x.shape[0], *t, x.shape[-1]), x.dtype)
    for i, inside in held.items():
        y[:, *i] = _greatest(np.stack([x[:, *where] for where in inside]))
    return y


def _max_pool_grad(g: Array, x: Array, **attrs: Any) -> Array:
    y = np.zeros(x.shape, np.result_type(g, x))
    for i, inside in _windows(x.shape[1:-1], **attrs)[1].items():
        values = np.stack([x[:, *where] for where in inside]).real
        shares = values == values.max(0)
        for where, share in zip(inside, shares / shares.sum(0), strict=True):
            y[:, *where] += share * g[:, *i]
    return y


def _counts(held: dict[Any, list[Any]], size: Any, axes: int, count_include_pad: bool) -> dict[Any, int]:
    return {i: math.prod(each(size, axes)) if count_include_pad else len(inside) for i, inside in held.items()}


def _avg_pool(x: Array, size: Any, count_include_pad: bool = True, **attrs: Any) -> Array:
    t, held = _windows(x.shape[1:-1], size, **attrs)
    y = np.zeros((x.shape[0], *t, x.shape[-1]), x.dtype)
    for i, count in _counts(held, size, x.ndim - 2, count_include_pad).items():
        y[:, *i] = sum(x[:, *where] for where in held[i]) / count
    return y


def _avg_pool_grad(g: Array, shape: Any, size: Any, count_include_pad: bool = True, **attrs: Any) -> Array:
    shape = each(shape, g.ndim - 2)
    held = _windows(shape, size, **attrs)[1]
    y = np.zeros((g.shape[0], *shape, g.shape[-1]), g.dtype)
    for i, count in _counts(held, size, len(shape), count_include_pad).items():
        for where in held[i]:
            y[:, *where] += g[:, *i] / count
    return y


def _adaptive(x: Array, size: Any, pool: Any) -> Array:
    s, t = x.shape[1:-1], each(size, x.ndim - 2)
    if not all((*s, *t)):
        raise ValueError("an empty image, or no windows")
    y = np.zeros((x.shape[0], *t, x.shape[-1]), x.dtype)
    for i in np.ndindex(t):
        cut = [slice(math.floor(k * n / m), math.ceil((k + 1) * n / m)) for k, n, m in zip(i, s, t, strict=True)]
        part: Any = x[:, *cut]
        y[:, *i] = pool(part.reshape(len(x), math.prod(part.shape[1:-1]), x.shape[-1]).swapaxes(0, 1))
    return y


_FORMS: list[tuple[Shape, dict[str, Any]]] = [
    ((1, 1, 1), {"size": 1}), ((2, 6, 1), {"size": 2}), ((1, 5, 2), {"size": 3, "stride": 1}),
    ((1, 4, 1), {"size": 3, "stride": 2, "padding": 1}), ((1, 4, 5, 2), {"size": 2}),
    ((1, 3, 4, 1), {"size": (3, 2), "stride": (1, 2), "padding": (1, 0)}), ((2, 3, 3, 1), {"size": 2, "padding": "same"}),
    ((1, 5, 3, 1), {"size": 2, "dilation": (3, 2), "stride": 1, "padding": ((0, 1), (0, 0))}),
    ((1, 1, 2, 1), {"size": 3, "stride": 2, "padding": 1}), ((1, 2, 2, 2, 1), {"size": (1, 2, 2), "stride": 1}),
    ((1, 5, 1), {"size": 1, "stride": 3}), ((0, 4, 4, 1), {"size": 2}), ((1, 4, 0), {"size": 2}),
]  # fmt: skip
_WRONG = [
    refuses(ShapeError, "at least the axes", real(2, 2), size=1),
    refuses(ShapeError, "does not fit", real(1, 2, 1), size=3),
    refuses(ShapeError, "nothing of the image, only padding", real(1, 2, 1), size=1, padding=1),
    refuses(ShapeError, "nothing of the image, only padding", real(1, 2, 1), size=2, dilation=3, padding=1, stride=3),
    refuses(ShapeError, "size is one number for all 2", real(1, 2, 2, 1), size=(1, 1, 1)),
    refuses(ShapeError, "size is one number", real(1, 2, 1), size=0),
    refuses(ShapeError, "stride is one number", real(1, 2, 1), size=1, stride=0),
    refuses(ShapeError, "an image of 0 elements", real(1, 0, 1), size=1),
]
_NOT_ITS_OUTPUT = "of what pooling returns"


def _result_of(shape: Shape, count_include_pad: bool = True, **attrs: Any) -> Shape:
    return (shape[0], *_windows(shape[1:-1], **attrs)[0], shape[-1])


declare("max_pool", _max_pool, [sample(real(*s, distinct=True), **attrs) for s, attrs in _FORMS], gradient=COMPLEX,
        result=floats, exact=True, refusals=_WRONG)  # fmt: skip
declare("max_pool_grad", _max_pool_grad, [
    sample(real(*_result_of(s, **attrs)), real(*s, distinct=True), **attrs) for s, attrs in _FORMS
], gradient=COMPLEX, result=floats, rounds=4, accumulates=True, either_zero=FROM_ZERO,
   lax="a share of an infinite gradient is inf or nan", refusals=[
    refuses(ShapeError, f"g needs the shape [1, 2, 1] {_NOT_ITS_OUTPUT}", real(1, 3, 1), real(1, 4, 1), size=2),
])  # fmt: skip

_BARE: list[tuple[Shape, dict[str, Any]]] = [
    (s, {**attrs, "count_include_pad": False}) for s, attrs in _FORMS if "padding" in attrs
]
declare("avg_pool", _avg_pool, [sample(real(*s), **attrs) for s, attrs in _FORMS + _BARE], gradient=COMPLEX, result=floats,
        rounds=4, accumulates=True, either_zero=FROM_ZERO, refusals=_WRONG)  # fmt: skip
declare("avg_pool_grad", _avg_pool_grad, [
    sample(real(*_result_of(s, **attrs)), shape=s[1:-1], **attrs) for s, attrs in _FORMS + _BARE
], gradient=COMPLEX, result=floats, rounds=4, accumulates=True, either_zero=FROM_ZERO, refusals=[
    refuses(ShapeError, f"g needs the shape [1, 2, 1] {_NOT_ITS_OUTPUT}", real(1, 3, 1), shape=4, size=2),
    refuses(ShapeError, "shape is one number", real(1, 2, 1), shape=(2, 2), size=1),
])  # fmt: skip

_ADAPTED: list[tuple[Shape, Any]] = [
    ((1, 1, 1), 1), ((2, 6, 1), 3), ((1, 7, 2), 3), ((1, 4, 5, 1), (2, 1)), ((1, 3, 5, 2), (2, 4)), ((1, 2, 1), 5),
    ((0, 3, 3, 1), 2), ((1, 3, 0), 2), ((1, 2, 3, 2, 1), 2),
]  # fmt: skip


def _adapted(distinct: bool) -> list[Sample]:
    return [sample(real(*s, distinct=distinct), size=size) for s, size in _ADAPTED]


_UNFIT = [
    refuses(ShapeError, "size is one number", real(1, 3, 1), size=0),
    refuses(ShapeError, "an image of 2 x 0 elements", real(1, 2, 0, 1), size=1),
    refuses(ShapeError, "at least the axes", real(2, 2), size=1),
]
declare("adaptive_max_pool", lambda x, size: _adaptive(x, size, _greatest), _adapted(True), gradient=COMPLEX, result=floats,
        exact=True, refusals=_UNFIT)  # fmt: skip
declare("adaptive_avg_pool", lambda x, size: _adaptive(x, size, lambda values: values.mean(0)), _adapted(False),
        gradient=COMPLEX, result=floats, rounds=4, accumulates=True, either_zero=FROM_ZERO, refusals=_UNFIT)  # fmt: skip
