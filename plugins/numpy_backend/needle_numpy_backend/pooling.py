"""Kernels of pooling: one pass over the image for each element of a window, none over a copy of the windows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from needle_numpy_backend.convolution import Key, Pairs, Sizes, _meetings

Array = npt.NDArray[Any]


def max_pool(x: Array, *, size: Sizes, stride: Sizes, padding: Pairs, dilation: Sizes) -> Array:
    t, steps = _passes(x.shape[1:-1], size, stride, padding, dilation)
    y = np.full((x.shape[0], *t, x.shape[-1]), -math.inf, x.dtype)
    for places, elements in steps:
        part = y[:, *places]
        np.maximum(part, x[:, *elements], out=part)
    return y


def max_pool_grad(g: Array, x: Array, *, size: Sizes, stride: Sizes, padding: Pairs, dilation: Sizes) -> Array:
    top = max_pool(x, size=size, stride=stride, padding=padding, dilation=dilation)
    _, steps = _passes(x.shape[1:-1], size, stride, padding, dilation)
    held = [x[:, *elements] == top[:, *places] for places, elements in steps]
    count = np.zeros(g.shape, np.float32 if g.dtype.itemsize == 2 else g.dtype)
    for (places, _), holds in zip(steps, held, strict=True):
        count[:, *places] += holds
    share = np.divide(g, count, out=count)
    y = np.zeros(x.shape, count.dtype)
    for (places, elements), holds in zip(steps, held, strict=True):
        y[:, *elements] += holds * share[:, *places]
    return y.astype(x.dtype, copy=False)


def avg_pool(x: Array, *, size: Sizes, stride: Sizes, padding: Pairs, dilation: Sizes, count_include_pad: bool) -> Array:
    t, steps = _passes(x.shape[1:-1], size, stride, padding, dilation)
    y = np.zeros((x.shape[0], *t, x.shape[-1]), np.float32 if x.dtype.itemsize == 2 else x.dtype)
    for places, elements in steps:
        y[:, *places] += x[:, *elements]
    y /= _counts(t, steps, size, y.dtype, count_include_pad)
    return y.astype(x.dtype, copy=False)


def avg_pool_grad(
    g: Array, *, shape: Sizes, size: Sizes, stride: Sizes, padding: Pairs, dilation: Sizes, count_include_pad: bool
) -> Array:
    t, steps = _passes(shape, size, stride, padding, dilation)
    wide = np.float32 if g.dtype.itemsize == 2 else g.dtype
    share = g / _counts(t, steps, size, wide, count_include_pad)
    y = np.zeros((g.shape[0], *shape, g.shape[-1]), share.dtype)
    for places, elements in steps:
        y[:, *elements] += share[:, *places]
    return y.astype(g.dtype, copy=False)


def _passes(shape: Sizes, size: Sizes, stride: Sizes, padding: Pairs, dilation: Sizes) -> tuple[Sizes, list[tuple[Key, Key]]]:
    """How many places the window has; and for each of its elements the places where it is in the image, and what is there."""
    axes = zip(shape, size, stride, padding, dilation, strict=True)
    t = tuple((n + sum(p) - (k - 1) * d - 1) // step + 1 for n, k, step, p, d in axes)
    return t, [(places, elements) for _, places, elements in _meetings(shape, t, size, stride, padding, dilation)]


def _counts(t: Sizes, steps: list[tuple[Key, Key]], size: Sizes, dtype: Any, count_include_pad: bool) -> Any:
    """How many elements the mean of each window is over."""
    if count_include_pad:
        return np.asarray(math.prod(size), dtype)
    counts = np.zeros((*t, 1), dtype)
    for places, _ in steps:
        counts[places] += 1
    return counts
