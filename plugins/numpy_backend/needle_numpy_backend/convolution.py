"""Kernels of convolution: the windows as strided views, one copy of them, and one matrix product."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

Array = npt.NDArray[Any]
Sizes = tuple[int, ...]
Pairs = tuple[tuple[int, int], ...]
Key = tuple[Any, ...]  # of slices or integers, one for each spatial axis


BLOCK = 2**22  # bytes of windows to copy at a time: 1.5 times as fast as 75 MB at once, which no cache holds


def conv(x: Array, weight: Array, *, stride: Sizes, padding: Pairs, dilation: Sizes, groups: int) -> Array:
    windows, reached = _windows(_wide(x), weight.shape[1:-1], stride, padding, dilation, groups)
    o, places = weight.shape[0], windows.shape[1 : x.ndim]
    kernels = _wide(weight)[:, *reached]
    kernels = kernels.reshape(groups, o // groups, math.prod(kernels.shape[1:])).mT
    y = np.empty((math.prod(places), groups, o // groups), kernels.dtype)
    for rows, block in _rows(windows):
        np.matmul(block, kernels, out=y[rows].swapaxes(0, 1))
    return y.reshape(*places, o).astype(x.dtype, copy=False)


def conv_weight_grad(g: Array, x: Array, *, size: Sizes, stride: Sizes, padding: Pairs, dilation: Sizes, groups: int) -> Array:
    windows, reached = _windows(_wide(x), size, stride, padding, dilation, groups)
    o, kernels = g.shape[-1], windows.shape[x.ndim :]
    wide = _wide(g).reshape(math.prod(g.shape[:-1]), groups, o // groups).transpose(1, 2, 0)
    total = np.zeros((groups, o // groups, math.prod(kernels)), wide.dtype)
    for rows, block in _rows(windows):
        total += wide[:, :, rows] @ block
    y = np.zeros((o, *size, kernels[-1]), x.dtype)
    y[:, *reached] = total.reshape(o, *kernels)
    return y


def conv_transpose(
    x: Array, weight: Array, *, stride: Sizes, padding: Pairs, dilation: Sizes, groups: int, size: Sizes
) -> Array:
    n, c, t = x.shape[0], x.shape[-1], x.shape[1:-1]
    window, o = weight.shape[1:-1], weight.shape[-1] * groups
    rows = _wide(x).reshape(n * math.prod(t), groups, c // groups).swapaxes(0, 1)
    kernels = _wide(weight).reshape(groups, c // groups, *weight.shape[1:])
    y = np.zeros((n, *size, o), rows.dtype)
    for offset, source, target in _meetings(size, t, window, stride, padding, dilation):
        part = (rows @ kernels[:, :, *offset]).swapaxes(0, 1).reshape(n, *t, o)
        y[:, *target] += part[:, *source]
    return y.astype(x.dtype, copy=False)


def unfold(x: Array, *, size: Sizes, stride: Sizes, dilation: Sizes) -> Array:
    windows, _ = _windows(x, size, stride, ((0, 0),) * len(size), dilation, 1)
    return windows[0].copy()


def fold(x: Array, *, shape: Sizes, stride: Sizes, dilation: Sizes) -> Array:
    axes, wide = len(shape), _wide(x)
    t, window, each = x.shape[1 : axes + 1], x.shape[axes + 1 : -1], (slice(None),) * (axes + 1)
    y = np.zeros((x.shape[0], *shape, x.shape[-1]), wide.dtype)
    for offset, source, target in _meetings(shape, t, window, stride, ((0, 0),) * axes, dilation):
        y[:, *target] += wide[*each, *offset][:, *source]
    return y.astype(x.dtype, copy=False)


def _wide(x: Array) -> Array:
    """`x` in the dtype to compute in: float32 for half precision."""
    return x.astype(np.float32) if x.dtype.itemsize == 2 else x


def _rows(windows: Array) -> Iterator[tuple[slice, Array]]:
    """The windows as the rows of a matrix, (groups, n prod(t), prod(k) c / groups), some samples at a time, and which rows.

    This is the one copy of the image's elements, prod(k) / prod(stride) times as many; none for 1 x 1 with stride 1.
    """
    groups, n = windows.shape[:2]
    axes = windows.ndim // 2
    each, length = math.prod(windows.shape[2 : axes + 1]), math.prod(windows.shape[axes + 1 :])
    step = max(1, BLOCK // max(1, groups * each * length * windows.itemsize))
    for i in range(0, n, step):
        part = windows[:, i : i + step]
        yield slice(i * each, (i + part.shape[1]) * each), part.reshape(groups, part.shape[1] * each, length)


def _windows(x: Array, window: Sizes, stride: Sizes, padding: Pairs, dilation: Sizes, groups: int) -> tuple[Array, Key]:
    """The windows of x in its padding, a view (groups, n, *t, *k, c / groups), and what part of the window k is.

    Elements that never meet more than padding are left out: of 3 x 3 on 1 x 1 one is left.
    """
    n, *s, c = x.shape
    places, reached, spans, source, target = [], [], [], [], []
    for size, k, step, (before, after), apart in zip(s, window, stride, padding, dilation, strict=True):
        t = (size + before + after - (k - 1) * apart - 1) // step + 1
        met = [j for j in range(k) if _meeting(j, size, t, step, before, apart)] or [0]
        start, span = met[0] * apart - before, (t - 1) * step + (met[-1] - met[0]) * apart + 1
        inside = slice(max(start, 0), max(min(start + span, size), max(start, 0)))
        places.append(t)
        reached.append(slice(met[0], met[-1] + 1))
        spans.append(span)
        source.append(inside)
        target.append(slice(inside.start - start, inside.stop - start))
    if any(b.stop - b.start < span for b, span in zip(source, spans, strict=True)):
        around = np.zeros((n, *spans, c), x.dtype)
        around[:, *target] = x[:, *source]
        x = around
    else:
        x = x[:, *source]
    ks = [r.stop - r.start for r in reached]
    first, *along, last = x.strides
    steps = (*(a * b for a, b in zip(along, stride, strict=True)), *(a * b for a, b in zip(along, dilation, strict=True)))
    shape = (groups, n, *places, *ks, c // groups)
    return as_strided(x, shape, (c // groups * last, first, *steps, last), writeable=False), tuple(reached)


def _meeting(j: int, size: int, places: int, stride: int, before: int, dilation: int) -> tuple[slice, slice] | None:
    """At which places the j-th element of a window is in the image and not in the padding, and what is there."""
    first = j * dilation - before
    start, stop = max(0, -(first // stride)), min(places, (size - 1 - first) // stride + 1)
    if start >= stop:
        return None
    return slice(start, stop), slice(first + start * stride, first + (stop - 1) * stride + 1, stride)


def _meetings(
    size: Sizes, places: Sizes, window: Sizes, stride: Sizes, padding: Pairs, dilation: Sizes
) -> Iterator[tuple[Key, Key, Key]]:
    """For each element of a window that somewhere is in the image: the element, the places where, and what is there."""
    axes = zip(window, size, places, stride, padding, dilation, strict=True)
    met = [[(j, m) for j in range(k) if (m := _meeting(j, s, t, step, b, d))] for k, s, t, step, (b, _), d in axes]
    for found in product(*met):
        yield tuple(j for j, _ in found), tuple(m[0] for _, m in found), tuple(m[1] for _, m in found)
