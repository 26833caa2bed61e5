"""Pooling: each window of an image reduced to its maximum or mean, channel by channel."""

from __future__ import annotations

import builtins
import math
from itertools import chain
from typing import Any, TypeAlias

from needle_core.doors import promoting, to_floating
from needle_core.errors import ShapeError
from needle_core.op import composite
from needle_core.ops.convolution import Pairs, Sizes, fold, image, per_axis, slide, surround, trim, unfold, widened
from needle_core.ops.create import ones
from needle_core.ops.elementwise import equal, where
from needle_core.ops.index import take
from needle_core.ops.reduce import max, sum
from needle_core.ops.shape import broadcast_to, expand_dims
from needle_core.spec import Spec
from needle_core.tensor import Tensor

__all__ = [
    "adaptive_avg_pool", "adaptive_max_pool", "avg_pool", "avg_pool_grad", "max_pool", "max_pool_grad",
]  # fmt: skip

Attrs: TypeAlias = dict[str, Any]

# -- windows of one size ----------------------------------------------------------------------------------------------------


@promoting(to_floating)
def _pooled(x: Spec, *, size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1) -> tuple[Spec, Attrs]:
    n, *s, c = image(x)
    window = per_axis("size", size, len(s))
    t, attrs = slide(tuple(s), window, stride=window if stride is None else stride, padding=padding, dilation=dilation)
    sizes = zip(s, t, window, attrs["stride"], attrs["padding"], attrs["dilation"], strict=True)
    for length, places, k, step, (before, _), apart in sizes:
        starts = range(-before, places * step - before, step)
        # If the first `apart` windows reach the image, so do all that begin before it: each of these is a whole number of its
        # elements further on than one of those.
        if not all(_reaches(i, length, k, apart) for i in chain(starts[:apart], starts[-1:])):
            raise ShapeError("a window holds nothing of the image, only padding", details=attrs)
    return x.like(shape=(n, *t, c)), {"size": window, **attrs}


def _reaches(start: int, length: int, size: int, apart: int) -> bool:
    """Whether a window holds something of an image of `length`."""
    outside = builtins.max(0, -(start // apart))  # how many of its elements are before the image
    return outside < size and start + outside * apart < length


def _gradient_fits(g: Spec, pooled: Spec) -> None:
    if g.shape != pooled.shape:
        raise ShapeError(f"g needs the shape {list(pooled.shape)} of what pooling returns, not {list(g.shape)}")


@promoting(to_floating)
def _max_pooled_gradient(g: Spec, x: Spec, **attrs: Any) -> tuple[Spec, Attrs]:
    pooled, canonical = _pooled(x, **attrs)
    _gradient_fits(g, pooled)
    return x, canonical


@composite(_max_pooled_gradient)
def max_pool_grad(g: Tensor, x: Tensor, *, size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1) -> Tensor:
    """The gradient of max_pool for x."""
    windows, axes = _windows(x, -math.inf, size, stride, padding, dilation)
    held = equal(windows, max(windows, axes=axes, keepdims=True)).astype(widened(x).dtype)
    shares = held * (expand_dims(g, axes) / sum(held, axes=axes, keepdims=True))
    return _merge(shares, x.shape[1:-1], stride, padding, dilation).astype(x.dtype)


@composite(_pooled)
def max_pool(x: Tensor, *, size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1) -> Tensor:
    """The greatest element of each window; nan if one is nan. `stride` is the size of the window by default.

    `padding` is as in `conv`, but nothing in it is ever the greatest.

    Shapes:   x (n, *s, c) -> (n, *t, c), t = (s + padding - (size - 1) dilation - 1) // stride + 1
    Gradient: shared equally by equal elements
    Raises:   ShapeError if the window does not fit, or somewhere holds nothing but padding
    """
    windows, axes = _windows(x, -math.inf, size, stride, padding, dilation)
    return max(windows, axes=axes)


max_pool.vjp(lambda g, y, x, **attrs: max_pool_grad(g, x, **attrs))


@promoting(to_floating)
def _avg_pooled(x: Spec, *, count_include_pad: bool = True, **attrs: Any) -> tuple[Spec, Attrs]:
    pooled, canonical = _pooled(x, **attrs)
    return pooled, {**canonical, "count_include_pad": bool(count_include_pad)}


@promoting(to_floating)
def _avg_pooled_gradient(g: Spec, *, shape: Any, **attrs: Any) -> tuple[Spec, Attrs]:
    n, *t, c = image(g)
    s = per_axis("shape", shape, len(t))
    x = g.like(shape=(n, *s, c))
    pooled, canonical = _avg_pooled(x, **attrs)
    _gradient_fits(g, pooled)
    return x, {"shape": s, **canonical}


@composite(_avg_pooled_gradient)
def avg_pool_grad(
    g: Tensor,
    *,
    shape: Any,
    size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    count_include_pad: bool = True,
) -> Tensor:
    """The gradient of avg_pool for images with spatial axes of this shape.

    Shapes:   g (n, *t, c) -> (n, *shape, c)
    """
    n, *t, c = g.shape
    wide = widened(g)
    axes = tuple(range(len(t) + 1, 2 * len(t) + 1))
    shares = expand_dims(wide / _counts(wide, shape, size, stride, padding, dilation, count_include_pad), axes)
    return _merge(broadcast_to(shares, shape=(n, *t, *size, c)), shape, stride, padding, dilation).astype(g.dtype)


@composite(_avg_pooled)
def avg_pool(
    x: Tensor, *, size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, count_include_pad: bool = True
) -> Tensor:
    """The mean of each window. `stride` is the size of the window by default.

    `padding` is as in `conv`; its zeros count as elements unless `count_include_pad` is False.

    Shapes:   x (n, *s, c) -> (n, *t, c), t = (s + padding - (size - 1) dilation - 1) // stride + 1
    Dtypes:   floating; float16 and bfloat16 accumulate in float32
    Raises:   ShapeError if the window does not fit, or somewhere holds nothing but padding
    """
    wide = widened(x)
    windows, axes = _windows(wide, 0.0, size, stride, padding, dilation)
    counts = _counts(wide, x.shape[1:-1], size, stride, padding, dilation, count_include_pad)
    return (sum(windows, axes=axes) / counts).astype(x.dtype)


avg_pool.vjp(lambda g, y, x, **attrs: avg_pool_grad(g, shape=x.shape[1:-1], **attrs))
avg_pool_grad.vjp(lambda h, y, g, shape, **attrs: avg_pool(h, **attrs))


def _windows(
    x: Tensor, outside: float, size: Sizes, stride: Sizes, padding: Pairs, dilation: Sizes
) -> tuple[Tensor, tuple[int, ...]]:
    """The windows of x in a padding of `outside`, and their axes."""
    axes = tuple(range(len(size) + 1, 2 * len(size) + 1))
    return unfold(surround(x, padding, outside), size=size, stride=stride, dilation=dilation), axes


def _merge(windows: Tensor, shape: Sizes, stride: Sizes, padding: Pairs, dilation: Sizes) -> Tensor:
    """The image of this shape whose windows, in its padding, are given."""
    wide = tuple(n + builtins.sum(p) for n, p in zip(shape, padding, strict=True))
    return trim(fold(windows, shape=wide, stride=stride, dilation=dilation), padding)


def _counts(
    like: Tensor, shape: Sizes, size: Sizes, stride: Sizes, padding: Pairs, dilation: Sizes, count_include_pad: bool
) -> Tensor | int:
    """How many elements each window has, of an image of this shape, in the dtype and on the device of `like`."""
    if count_include_pad or not builtins.any(map(builtins.any, padding)):
        return math.prod(size)
    inside = ones((1, *shape, 1), dtype=like.dtype, device=like.device)
    windows, axes = _windows(inside, 0.0, size, stride, padding, dilation)
    return sum(windows, axes=axes)


# -- windows that share an axis evenly --------------------------------------------------------------------------------------


@promoting(to_floating)
def _adapted(x: Spec, *, size: Any) -> tuple[Spec, Attrs]:
    n, *s, c = image(x)
    slide(tuple(s), 1)  # refuses empty axes
    t = per_axis("size", size, len(s))
    return x.like(shape=(n, *t, c)), {"size": t}


@composite(_adapted)
def adaptive_avg_pool(x: Tensor, *, size: Any) -> Tensor:
    """The means of as many windows as `size` says along each axis: window i has the elements from i s / t to (i + 1) s / t.

    The first bound is rounded down, the second up, so that neighbours share an element where s / t is not whole.

    Shapes:   x (n, *s, c) -> (n, *t, c), t = size
    Dtypes:   floating; float16 and bfloat16 accumulate in float32
    Raises:   ShapeError if a spatial axis is empty
    """
    if window := _even(x, size):
        return avg_pool(x, size=window)
    y = widened(x)
    for axis, t in enumerate(size, 1):
        windows, lengths = _shared(y, axis, t)
        inside = [[j < n for j in range(windows.shape[axis + 1])] for n in lengths]
        y = sum(where(_along(inside, windows, axis), windows, 0.0), axes=axis + 1) / _along(lengths, y, axis)
    return y.astype(x.dtype)


@composite(_adapted)
def adaptive_max_pool(x: Tensor, *, size: Any) -> Tensor:
    """The greatest element of each of the windows of `adaptive_avg_pool`; nan if one is nan.

    Shapes:   x (n, *s, c) -> (n, *t, c), t = size
    Raises:   ShapeError if a spatial axis is empty
    """
    if window := _even(x, size):
        return max_pool(x, size=window)
    for axis, t in enumerate(size, 1):
        x = max(_shared(x, axis, t)[0], axes=axis + 1)
    return x


def _even(x: Tensor, size: Sizes) -> Sizes | None:
    """The size of adaptive windows if all are equal, side by side."""
    whole = all(s % t == 0 for s, t in zip(x.shape[1:-1], size, strict=True))
    return tuple(s // t for s, t in zip(x.shape[1:-1], size, strict=True)) if whole else None


def _shared(x: Tensor, axis: int, t: int) -> tuple[Tensor, list[int]]:
    """The t windows along an axis, whose elements make a new axis behind it, and how many each has; the last one repeats."""
    s = x.shape[axis]
    bounds = [(i * s // t, -(-(i + 1) * s // t)) for i in range(t)]
    lengths = [stop - start for start, stop in bounds]
    places = [[builtins.min(start + j, stop - 1) for j in range(builtins.max(lengths))] for start, stop in bounds]
    return take(x, Tensor(places, device=x.device), axis=axis), lengths


def _along(values: list[Any], like: Tensor, axis: int) -> Tensor:
    """Values as a tensor whose first axis stands where `axis` of `like` does."""
    y = Tensor(values, device=like.device)
    return y.reshape(*y.shape, *(1,) * (like.ndim - axis - y.ndim))
