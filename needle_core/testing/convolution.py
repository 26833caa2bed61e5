"""Declarations of convolution: one trilinear form and its three derivatives, summed term by term."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from needle_core.errors import ArgumentError, ShapeError
from needle_core.testing.reduce import FROM_ZERO
from needle_core.testing.samples import COMPLEX, Array, Input, Sample, Shape, declare, floats, numbers, real, refuses, sample


def pairs(padding: Any, size: Shape, window: Shape, stride: Shape, dilation: Shape) -> list[tuple[int, int]]:
    """Padding before and after each axis, from all ways to write it."""
    if padding == "same":
        lacking = []
        for n, k, step, apart in zip(size, window, stride, dilation, strict=True):
            lacking.append(max((math.ceil(n / step) - 1) * step + (k - 1) * apart + 1 - n, 0))
        return [(n // 2, (n + 1) // 2) for n in lacking]
    if padding == "valid":
        padding = 0
    sides = [padding] * len(size) if isinstance(padding, int) else padding
    return [(p, p) if isinstance(p, int) else tuple(p) for p in sides]


def each(value: Any, axes: int) -> Shape:
    """A number for each axis."""
    return (value,) * axes if isinstance(value, int) else tuple(value)


def places(
    size: Shape, window: Shape, stride: Any = 1, padding: Any = 0, dilation: Any = 1
) -> tuple[Shape, list[tuple[Any, Any, Any]]]:
    """How many places a window has; and for each place and element of the window that is in the image, where that is."""
    axes = len(size)
    if not all((*size, *window)):
        raise ValueError("an empty image, or an empty window")
    stride, dilation = each(stride, axes), each(dilation, axes)
    sides = pairs(padding, size, window, stride, dilation)
    t = tuple(
        (n + sum(p) - (k - 1) * d - 1) // s + 1 for n, k, s, p, d in zip(size, window, stride, sides, dilation, strict=True)
    )
    found = []
    for i in np.ndindex(t):
        for j in np.ndindex(window):
            where = tuple(a * s + b * d - p[0] for a, b, s, d, p in zip(i, j, stride, dilation, sides, strict=True))
            if all(0 <= w < n for w, n in zip(where, size, strict=True)):
                found.append((i, j, where))
    return t, found


def _parts(groups: int, *channels: int) -> Iterator[tuple[slice, ...]]:
    for i in range(groups):
        yield tuple(slice(i * c // groups, (i + 1) * c // groups) for c in channels)


def _conv(x: Array, weight: Array, groups: int = 1, **attrs: Any) -> Array:
    t, found = places(x.shape[1:-1], weight.shape[1:-1], **attrs)
    y = np.zeros((x.shape[0], *t, weight.shape[0]), np.result_type(x, weight))
    for i, j, where in found:
        for inner, outer in _parts(groups, x.shape[-1], weight.shape[0]):
            y[:, *i, outer] += x[:, *where, inner] @ weight[outer, *j].T
    return y


def _conv_weight_grad(g: Array, x: Array, size: Any, groups: int = 1, **attrs: Any) -> Array:
    size = each(size, x.ndim - 2)
    y = np.zeros((g.shape[-1], *size, x.shape[-1] // groups), np.result_type(g, x))
    for i, j, where in places(x.shape[1:-1], size, **attrs)[1]:
        for inner, outer in _parts(groups, x.shape[-1], g.shape[-1]):
            y[outer, *j] += g[:, *i, outer].T @ x[:, *where, inner]
    return y


def _conv_transpose(
    x: Array, weight: Array, groups: int = 1, output_padding: Any = 0, size: Any = None, padding: Any = 0, **attrs: Any
) -> Array:
    axes, o = x.ndim - 2, weight.shape[-1] * groups
    window, stride, dilation = weight.shape[1:-1], each(attrs.get("stride", 1), axes), each(attrs.get("dilation", 1), axes)
    if size is None:
        more = each(output_padding, axes)
        sides = pairs(padding, (0,) * axes, window, stride, dilation) if padding != "same" else None
        size = [
            (n - 1) * s + (k - 1) * d + 1 - sum(sides[i]) + more[i] if sides else n * s + more[i]
            for i, (n, k, s, d) in enumerate(zip(x.shape[1:-1], window, stride, dilation, strict=True))
        ]
    size = each(size, axes)
    y = np.zeros((x.shape[0], *size, o), np.result_type(x, weight))
    for i, j, where in places(size, window, padding=padding, **attrs)[1]:
        for inner, outer in _parts(groups, x.shape[-1], o):
            width = outer.stop - outer.start
            y[:, *where, outer] += x[:, *i, inner] @ weight[inner, *j, :width]
    return y


def _unfold(x: Array, size: Any, **attrs: Any) -> Array:
    size = each(size, x.ndim - 2)
    t, found = places(x.shape[1:-1], size, **attrs)
    y = np.zeros((x.shape[0], *t, *size, x.shape[-1]), x.dtype)
    for i, j, where in found:
        y[:, *i, *j] = x[:, *where]
    return y


def _fold(x: Array, shape: Any, **attrs: Any) -> Array:
    axes = x.ndim // 2 - 1
    shape = each(shape, axes)
    y = np.zeros((x.shape[0], *shape, x.shape[-1]), x.dtype)
    for i, j, where in places(shape, x.shape[axes + 1 : -1], **attrs)[1]:
        y[:, *where] += x[:, *i, *j]
    return y


# -- windows ----------------------------------------------------------------------------------------------------------------

_UNFOLDED: list[tuple[Shape, dict[str, Any]]] = [
    ((1, 1, 1), {"size": 1}), ((2, 5, 1), {"size": 3}), ((1, 6, 2), {"size": 2, "stride": 2}),
    ((1, 7, 1), {"size": 2, "stride": 3, "dilation": 2}), ((1, 3, 4, 2), {"size": 2}),
    ((2, 4, 3, 1), {"size": (3, 1), "stride": (1, 2)}), ((1, 5, 3, 1), {"size": (2, 2), "dilation": (3, 1), "stride": 2}),
    ((1, 2, 3, 2, 1), {"size": (1, 2, 2)}), ((0, 3, 3, 1), {"size": 2}), ((1, 3, 0), {"size": 2}),
    ((1, 5, 1), {"size": 1, "stride": 3}),
]  # fmt: skip
declare("unfold", _unfold, [sample(real(*shape), **attrs) for shape, attrs in _UNFOLDED], gradient=COMPLEX, exact=True,
        aliases="a view, where strides can tell it", refusals=[
    refuses(ShapeError, "at least the axes (n, s, c)", real(2, 3), size=1),
    refuses(ShapeError, "does not fit", real(1, 3, 1), size=4),
    refuses(ShapeError, "does not fit", real(1, 3, 1), size=2, dilation=3),
    refuses(ShapeError, "stride is one number", real(1, 3, 1), size=2, stride=0),
    refuses(ShapeError, "size is one number for all 2", real(1, 3, 3, 1), size=(1, 2, 3)),
    refuses(ShapeError, "an image of 0 elements", real(1, 0, 1), size=1),
    refuses(ArgumentError, "dilation is an integer", real(1, 3, 1), size=1, dilation=1.5),
])  # fmt: skip


def _windows_of(shape: Shape, size: Any, **attrs: Any) -> Input:
    window = each(size, len(shape) - 2)
    return real(shape[0], *places(shape[1:-1], window, **attrs)[0], *window, shape[-1])


declare("fold", _fold, [
    sample(_windows_of(shape, **attrs), shape=shape[1:-1], **{k: v for k, v in attrs.items() if k != "size"})
    for shape, attrs in _UNFOLDED
], gradient=COMPLEX, result=numbers, rounds=1, accumulates=True, either_zero=FROM_ZERO, refusals=[
    refuses(ShapeError, "an even number of them", real(1, 2, 1), shape=2),
    refuses(ShapeError, "has [3] windows, not [2]", real(1, 2, 2, 1), shape=4),
    refuses(ShapeError, "shape is one number", real(1, 2, 2, 1), shape=(3, 3)),
    refuses(ShapeError, "does not fit", real(1, 2, 3, 1), shape=2),
])  # fmt: skip

# -- convolution ------------------------------------------------------------------------------------------------------------

_FORMS: list[tuple[Shape, Shape, dict[str, Any]]] = [  # x, weight
    ((1, 1, 1), (1, 1, 1), {}), ((2, 5, 2), (3, 3, 2), {}), ((1, 6, 1), (2, 3, 1), {"stride": 2, "padding": 1}),
    ((1, 4, 2), (4, 2, 1), {"groups": 2, "dilation": 2}), ((1, 5, 3), (3, 3, 1), {"groups": 3, "padding": "same"}),
    ((2, 3, 4, 1), (2, 2, 3, 1), {}), ((1, 3, 3, 2), (1, 3, 3, 2), {"padding": "same"}),
    ((1, 4, 3, 1), (2, 2, 2, 1), {"padding": "same", "stride": 2}), ((2, 1, 1, 2), (2, 3, 3, 2), {"padding": 1}),
    ((1, 2, 2, 1), (1, 3, 3, 1), {"padding": 1, "stride": 2}), ((1, 4, 4, 2), (3, 1, 1, 2), {"stride": (2, 3)}),
    ((1, 3, 2, 2), (2, 2, 1, 1), {"groups": 2, "stride": (1, 2), "padding": ((1, 0), (0, 2)), "dilation": (2, 1)}),
    ((1, 2, 3, 1), (1, 1, 1, 1), {"padding": "valid"}), ((1, 2, 1, 2, 1), (2, 2, 1, 1, 1), {"padding": (0, 1, 0)}),
    ((1, 1, 1), (1, 2, 1), {"padding": 1, "dilation": 2}), ((1, 7, 1), (1, 1, 1), {"stride": 5}),
    ((0, 3, 3, 2), (2, 2, 2, 2), {}), ((1, 3, 0), (2, 2, 0), {}), ((1, 3, 2), (0, 2, 2), {}),
]  # fmt: skip


def _padded(*inputs: Input, **attrs: Any) -> Sample:
    """A sample with a padding, whose zeros a kernel may skip: then a nan that would only meet them does not show."""
    return replace(sample(*inputs, **attrs), finite="padding" in attrs)


_MISFITS = [
    refuses(ShapeError, "does not fit", real(1, 2, 1), real(1, 3, 1)),
    refuses(ShapeError, "same number of axes", real(1, 2, 1), real(1, 1, 1, 1)),
    refuses(ShapeError, "at least the axes", real(1, 1), real(1, 1)),
    refuses(ShapeError, "x has 2 channels, weight is for 3", real(1, 2, 2), real(1, 1, 3)),
    refuses(ShapeError, "do not make 2 equal groups", real(1, 2, 2), real(3, 1, 1), groups=2),
    refuses(ShapeError, "do not make 0 equal groups", real(1, 2, 2), real(2, 1, 2), groups=0),
    refuses(ShapeError, "padding is one number", real(1, 2, 1), real(1, 1, 1), padding=-1),
    refuses(ShapeError, "padding is one number", real(1, 2, 1), real(1, 1, 1), padding=((1, 2, 3),)),
    refuses(ArgumentError, "padding is 'same', 'valid', or numbers, not 'full'", real(1, 2, 1), real(1, 1, 1), padding="full"),
    refuses(ShapeError, "dilation is one number", real(1, 2, 1), real(1, 1, 1), dilation=(1, 1)),
    refuses(ShapeError, "an image of 2 x 0 elements", real(1, 2, 0, 1), real(1, 1, 1, 1)),
]
declare("conv", _conv, [_padded(real(*x), real(*w), **attrs) for x, w, attrs in _FORMS], gradient=COMPLEX, result=floats,
        rounds=1, accumulates=True, either_zero=FROM_ZERO, refusals=_MISFITS,
        large=[sample(real(2**16 + 1, 2, 1), real(2, 2, 1))])  # fmt: skip


def _result_of(x: Shape, w: Shape, **attrs: Any) -> Shape:
    attrs = {k: v for k, v in attrs.items() if k != "groups"}
    return (x[0], *places(x[1:-1], w[1:-1], **attrs)[0], w[0])


declare("conv_weight_grad", _conv_weight_grad, [
    _padded(real(*_result_of(x, w, **attrs)), real(*x), size=w[1:-1], **attrs) for x, w, attrs in _FORMS
], gradient=COMPLEX, result=floats, rounds=1, accumulates=True, either_zero=FROM_ZERO, refusals=[
    refuses(ShapeError, "g needs the axes [1, 2]", real(1, 3, 1), real(1, 3, 1), size=2),
    refuses(ShapeError, "do not make 2 equal groups", real(1, 2, 3), real(1, 2, 2), size=1, groups=2),
    refuses(ShapeError, "does not fit", real(1, 1, 1), real(1, 2, 1), size=3),
])  # fmt: skip
declare("conv_transpose", _conv_transpose, [
    *(sample(real(*_result_of(x, w, **attrs)), real(*w), size=x[1:-1], **attrs) for x, w, attrs in _FORMS),
    sample(real(1, 3, 2), real(2, 3, 1)), sample(real(1, 2, 2, 1), real(1, 3, 3, 2), stride=2, padding=1, output_padding=1),
    sample(real(1, 2, 3, 2), real(2, 2, 2, 1), stride=(2, 1), padding="same", groups=2),
    sample(real(2, 2, 1), real(1, 2, 1), stride=3, output_padding=(2,), dilation=2),
], gradient=COMPLEX, result=floats, rounds=1, accumulates=True, either_zero=FROM_ZERO, refusals=[
    refuses(ShapeError, "x has 2 channels, weight is for 3", real(1, 2, 2), real(3, 1, 1)),
    refuses(ShapeError, "same number of axes", real(1, 2, 1), real(1, 1, 1, 1)),
    refuses(ShapeError, "do not make 2 equal groups", real(1, 2, 3), real(3, 1, 1), groups=2),
    refuses(ShapeError, "less than the stride", real(1, 2, 1), real(1, 1, 1), stride=2, output_padding=2),
    refuses(ShapeError, "conv makes [3] of the size [3], not [2]", real(1, 2, 1), real(1, 1, 1), size=3),
    refuses(ArgumentError, "in two ways", real(1, 2, 1), real(1, 1, 1), size=2, output_padding=1),
    refuses(ShapeError, "an image of 0 elements", real(1, 1, 1), real(1, 2, 1), padding=1),
])  # fmt: skip
