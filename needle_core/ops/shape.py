"""The same elements in another shape or order: views, slices, padding, joining and splitting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

from needle_core.doors import (
    broadcast_shapes,
    normalize_axes,
    normalize_axis,
    normalize_integer,
    normalize_integers,
    normalize_number,
    normalize_shape,
    promoting,
    to_common,
)
from needle_core.errors import ArgumentError, ShapeError
from needle_core.op import composite, primitive
from needle_core.spec import Spec
from needle_core.tensor import Axes, Number, Operand, Tensor

__all__ = [
    "broadcast_arrays", "broadcast_to", "concat", "dilate", "expand_as", "expand_dims", "flip", "matrix_transpose", "moveaxis",
    "pad", "permute_dims", "repeat", "reshape", "roll", "split", "squeeze", "stack", "strided_slice", "swapaxes", "tile",
    "undilate", "unstack",
]  # fmt: skip

Attrs: TypeAlias = dict[str, Any]

# -- views ------------------------------------------------------------------------------------------------------------------


def _reshaped(x: Spec, *, shape: Any) -> tuple[Spec, Attrs]:
    sizes = list(normalize_integers("a shape", shape))
    if sizes.count(-1) > 1 or any(n < -1 for n in sizes):
        raise ShapeError(f"shape {sizes} has a negative size other than one -1")
    if -1 in sizes:
        known = math.prod(n for n in sizes if n != -1)
        if known == 0 or x.size % known:
            raise ShapeError(f"cannot put {x.size} elements into shape {sizes}")
        sizes[sizes.index(-1)] = x.size // known
    if math.prod(sizes) != x.size:
        raise ShapeError(f"cannot put {x.size} elements into shape {sizes}")
    return x.like(shape=sizes), {"shape": tuple(sizes)}


@primitive(_reshaped)
def reshape(x: Operand, *, shape: Any) -> Tensor:
    """The elements in row-major order in another shape; one size may be -1 and is worked out."""


reshape.vjp(lambda g, y, x, shape: reshape(g, shape=x.shape))


def _permuted(x: Spec, *, axes: Sequence[int] | None = None) -> tuple[Spec, Attrs]:
    listed = reversed(range(x.ndim)) if axes is None else normalize_integers("axes", axes)
    order = tuple(normalize_axis(a, x.ndim) for a in listed)
    if sorted(order) != list(range(x.ndim)):
        raise ShapeError(f"axes {order} are not a permutation of {x.ndim} axes")
    return x.like(shape=(x.shape[i] for i in order)), {"axes": order}


@primitive(_permuted)
def permute_dims(x: Operand, *, axes: Sequence[int] | None = None) -> Tensor:
    """The axes in another order: axis i of the result is axis axes[i] of x; reversed by default."""


permute_dims.vjp(lambda g, y, x, axes: permute_dims(g, axes=tuple(sorted(range(len(axes)), key=axes.__getitem__))))


def _broadcast(x: Spec, *, shape: Any) -> tuple[Spec, Attrs]:
    sizes = normalize_shape(shape)
    if len(sizes) < x.ndim or any(n != m and n != 1 for n, m in zip(reversed(x.shape), reversed(sizes), strict=False)):
        raise ShapeError(f"shape {list(x.shape)} does not broadcast to {list(sizes)}")
    return x.like(shape=sizes), {"shape": sizes}


@primitive(_broadcast)
def broadcast_to(x: Operand, *, shape: Any) -> Tensor:
    """x repeated along new axes in front and along axes of size 1, as NumPy broadcasts."""


broadcast_to.vjp(lambda g, y, x, shape: g)  # the engine undoes broadcasting


def _expanded(x: Spec, like: Spec) -> tuple[Spec, Attrs]:
    return _broadcast(x, shape=like.shape)[0], {}


@composite(_expanded)
def expand_as(x: Operand, like: Tensor) -> Tensor:
    """x broadcast to the shape of `like`."""
    return broadcast_to(x, shape=like.shape)


expand_as.vjp(lambda g, y, x, like: g, None)


def matrix_transpose(x: Tensor) -> Tensor:
    """The last two axes exchanged."""
    if x.ndim < 2:
        raise ShapeError("matrix_transpose: a matrix has at least two axes", details={"x": x.spec})
    n = x.ndim
    return permute_dims(x, axes=(*range(n - 2), n - 1, n - 2))


def swapaxes(x: Tensor, axis1: int, axis2: int) -> Tensor:
    """Two axes exchanged."""
    order = list(range(x.ndim))
    i, j = normalize_axis(axis1, x.ndim), normalize_axis(axis2, x.ndim)
    order[i], order[j] = order[j], order[i]
    return permute_dims(x, axes=tuple(order))


def moveaxis(x: Tensor, source: Any, destination: Any) -> Tensor:
    """Axes moved to new places, the others staying in their order."""
    come = [normalize_axis(a, x.ndim) for a in ([source] if isinstance(source, int) else source)]
    go = [normalize_axis(a, x.ndim) for a in ([destination] if isinstance(destination, int) else destination)]
    if len(come) != len(go) or len(set(come)) != len(come) or len(set(go)) != len(go):
        raise ShapeError(f"moveaxis: {source} to {destination} is not one-to-one", details={"x": x.spec})
    order = [a for a in range(x.ndim) if a not in come]
    for place, axis in sorted(zip(go, come, strict=True)):
        order.insert(place, axis)
    return permute_dims(x, axes=tuple(order))


def expand_dims(x: Tensor, axis: Any) -> Tensor:
    """New axes of size 1 at the given places of the result."""
    places = [axis] if isinstance(axis, int) else list(axis)
    new = normalize_axes(places, x.ndim + len(places))
    sizes = iter(x.shape)
    return reshape(x, shape=tuple(1 if i in new else next(sizes) for i in range(x.ndim + len(new))))


def squeeze(x: Tensor, axis: Axes = None) -> Tensor:
    """Without the given axes, which must be of size 1 (None: without all such)."""
    gone = [i for i, n in enumerate(x.shape) if n == 1] if axis is None else normalize_axes(axis, x.ndim)
    if any(x.shape[i] != 1 for i in gone):
        raise ShapeError(f"squeeze: axes {tuple(gone)} are not all of size 1", details={"x": x.spec})
    return reshape(x, shape=tuple(n for i, n in enumerate(x.shape) if i not in gone))


def broadcast_arrays(*tensors: Tensor) -> tuple[Tensor, ...]:
    """All tensors in the shape where they meet."""
    shape = broadcast_shapes(*(t.spec for t in tensors))
    return tuple(broadcast_to(t, shape=shape) for t in tensors)


# -- slices and padding -----------------------------------------------------------------------------------------------------


def _sliced(x: Spec, *, start: Sequence[int], stop: Sequence[int], step: Sequence[int] | None = None) -> tuple[Spec, Attrs]:
    first, last = normalize_shape(start), normalize_shape(stop)
    stride = (1,) * x.ndim if step is None else normalize_shape(step)
    if not len(first) == len(last) == len(stride) == x.ndim:
        raise ShapeError(f"start, stop and step need one number for each of {x.ndim} axes")
    if any(not 0 <= a <= b <= n or s < 1 for a, b, s, n in zip(first, last, stride, x.shape, strict=True)):
        raise ShapeError(f"0 <= start <= stop <= size and step > 0 do not hold for start {first}, stop {last}, step {stride}")
    shape = (-(-(b - a) // s) for a, b, s in zip(first, last, stride, strict=True))
    return x.like(shape=shape), {"start": first, "stop": last, "step": stride}


@primitive(_sliced)
def strided_slice(x: Operand, *, start: Sequence[int], stop: Sequence[int], step: Sequence[int] | None = None) -> Tensor:
    """Along each axis every step-th element from `start` up to but without `stop`. x[...] is the usual way to write it."""


def _sliced_gradient(g: Tensor, y: Tensor, x: Tensor, start: Any, stop: Any, step: Any) -> Tensor:
    ends = [a + (n - 1) * s + 1 if n else a for a, n, s in zip(start, y.shape, step, strict=True)]
    width = tuple((a, n - end) for a, end, n in zip(start, ends, x.shape, strict=True))
    return pad(g, width=width, dilation=step)


strided_slice.vjp(_sliced_gradient)


def _padded(x: Spec, *, width: Any, value: Number = 0, dilation: Any = None) -> tuple[Spec, Attrs]:
    pairs = [(width, width)] * x.ndim if isinstance(width, int) else [normalize_shape(p) for p in width]
    apart = (1,) * x.ndim if dilation is None else normalize_shape(dilation)
    if any(len(p) != 2 or min(p) < 0 for p in pairs) or len(pairs) != x.ndim:
        raise ShapeError(f"width needs a pair (before, after) for each of {x.ndim} axes, all >= 0", details={"width": width})
    if len(apart) != x.ndim or min(apart, default=1) < 1:
        raise ShapeError(f"dilation needs a number of at least 1 for each of {x.ndim} axes", details={"dilation": dilation})
    shape = (a + max((n - 1) * d + 1, 0) + b for (a, b), n, d in zip(pairs, x.shape, apart, strict=True))
    return x.like(shape=shape), {"width": tuple(pairs), "value": normalize_number(value, x.dtype), "dilation": apart}


@primitive(_padded)
def pad(x: Operand, *, width: Any, value: Number = 0, dilation: Any = None) -> Tensor:
    """x with `value` around it, and between its elements where `dilation` sets them apart.

    `width` is one number for all sides, or a pair (before, after) for each axis; `dilation` the distance of neighbours along
    each axis, 1 by default.
    """


def _padded_gradient(g: Tensor, y: Tensor, x: Tensor, width: Any, value: Any, dilation: Any) -> Tensor:
    start = tuple(a for a, _ in width)
    stop = tuple(a + max((n - 1) * d + 1, 0) for a, n, d in zip(start, x.shape, dilation, strict=True))
    return strided_slice(g, start=start, stop=stop, step=dilation)


pad.vjp(_padded_gradient)


def _spread(x: Spec, axes: Axes, dilation: int) -> tuple[tuple[int, ...], Attrs]:
    """How far apart elements are along each axis, and the attributes of dilate and undilate."""
    over, between = normalize_axes(axes, x.ndim), normalize_integer("dilation", dilation)
    if between < 0:
        raise ShapeError(f"{between} zeros cannot stand after each element")
    return tuple(between + 1 if i in over else 1 for i in range(x.ndim)), {"axes": over, "dilation": between}


def _dilated(x: Spec, *, axes: Axes = None, dilation: int) -> tuple[Spec, Attrs]:
    apart, attrs = _spread(x, axes, dilation)
    return x.like(shape=(n * d for n, d in zip(x.shape, apart, strict=True))), attrs


@composite(_dilated)
def dilate(x: Tensor, *, axes: Axes = None, dilation: int) -> Tensor:
    """x with `dilation` zeros after each element along `axes`."""
    apart = _spread(x.spec, axes, dilation)[0]
    return pad(x, width=tuple((0, d - 1 if n else 0) for n, d in zip(x.shape, apart, strict=True)), dilation=apart)


def _undilated(x: Spec, *, axes: Axes = None, dilation: int) -> tuple[Spec, Attrs]:
    apart, attrs = _spread(x, axes, dilation)
    return x.like(shape=(-(-n // d) for n, d in zip(x.shape, apart, strict=True))), attrs


@composite(_undilated)
def undilate(x: Tensor, *, axes: Axes = None, dilation: int) -> Tensor:
    """x without the `dilation` elements after each one that is kept, along `axes`. The inverse of `dilate`."""
    return strided_slice(x, start=(0,) * x.ndim, stop=x.shape, step=_spread(x.spec, axes, dilation)[0])


def _flipped(x: Spec, *, axis: Axes = None) -> tuple[Spec, Attrs]:
    return x, {"axes": normalize_axes(axis, x.ndim)}


@primitive(_flipped)
def flip(x: Operand, *, axis: Axes = None) -> Tensor:
    """The elements in reverse order along `axis`."""


flip.vjp(lambda g, y, x, axes: flip(g, axis=axes))


# -- joining and splitting --------------------------------------------------------------------------------------------------


@promoting(to_common)
def _joined(*arrays: Spec, axis: int = 0) -> tuple[Spec, Attrs]:
    if not arrays:
        raise ArgumentError("nothing to join")
    first = arrays[0]
    i = normalize_axis(axis, first.ndim)
    for other in arrays[1:]:
        if other.ndim != first.ndim or any(
            n != m for k, (n, m) in enumerate(zip(first.shape, other.shape, strict=True)) if k != i
        ):
            raise ShapeError(f"shapes differ apart from axis {i}, {list(first.shape)} and {list(other.shape)}")
    return first.like(shape=(*first.shape[:i], sum(a.shape[i] for a in arrays), *first.shape[i + 1 :])), {"axis": i}


@primitive(_joined)
def concat(*arrays: Any, axis: int = 0) -> Tensor:
    """Tensors joined along an existing axis: concat([a, b], axis=0) or concat(a, b, axis=0)."""


def _joined_gradient(g: Tensor, y: Tensor, *arrays: Tensor, axis: int) -> list[Tensor]:
    return list(split(g, [a.shape[axis] for a in arrays], axis=axis))


concat.vjp_joint(_joined_gradient)


@promoting(to_common)
def _stacked(*arrays: Spec, axis: int = 0) -> tuple[Spec, Attrs]:
    if not arrays:
        raise ArgumentError("nothing to stack")
    for other in arrays[1:]:
        if other.shape != arrays[0].shape:
            raise ShapeError(f"shapes differ, {list(arrays[0].shape)} and {list(other.shape)}")
    i = normalize_axis(axis, arrays[0].ndim + 1)
    shape = arrays[0].shape
    return arrays[0].like(shape=(*shape[:i], len(arrays), *shape[i:])), {"axis": i}


@composite(_stacked)
def stack(*arrays: Any, axis: int = 0) -> Tensor:
    """Tensors of one shape joined along a new axis: stack([a, b], axis=0) or stack(a, b, axis=0)."""
    return concat(*(expand_dims(a, axis) for a in arrays), axis=axis)


def split(x: Tensor, sizes: int | Sequence[int], axis: int = 0) -> tuple[Tensor, ...]:
    """x cut along an axis: into `sizes` equal parts, or into parts of the sizes listed, which must add up."""
    i = normalize_axis(axis, x.ndim)
    n = x.shape[i]
    if isinstance(sizes, int):
        if sizes < 1 or n % sizes:
            raise ShapeError(f"split: {n} elements along axis {i} do not make {sizes} equal parts", details={"x": x.spec})
        sizes = [n // sizes] * sizes
    if sum(sizes) != n or min(sizes, default=0) < 0:
        raise ShapeError(f"split: sizes {list(sizes)} do not add up to {n}, the size of axis {i}", details={"x": x.spec})
    parts, place = [], 0
    for size in sizes:
        start = tuple(place if k == i else 0 for k in range(x.ndim))
        stop = tuple(place + size if k == i else m for k, m in enumerate(x.shape))
        parts.append(strided_slice(x, start=start, stop=stop))
        place += size
    return tuple(parts)


def unstack(x: Tensor, axis: int = 0) -> tuple[Tensor, ...]:
    """The tensors along an axis, without it."""
    return tuple(squeeze(part, axis) for part in split(x, [1] * x.shape[normalize_axis(axis, x.ndim)], axis=axis))


def _tiled(x: Spec, *, repetitions: Any) -> tuple[Spec, Attrs]:
    times = normalize_shape(repetitions)
    ndim = max(x.ndim, len(times))
    times, shape = (1,) * (ndim - len(times)) + times, (1,) * (ndim - x.ndim) + x.shape
    return x.like(shape=(n * t for n, t in zip(shape, times, strict=True))), {"repetitions": times}


@composite(_tiled)
def tile(x: Tensor, *, repetitions: Any) -> Tensor:
    """x repeated as a whole along each axis; repetitions and axes are aligned at the last."""
    shape = (1,) * (len(repetitions) - x.ndim) + x.shape
    apart = reshape(x, shape=tuple(v for n in shape for v in (1, n)))
    wide = broadcast_to(apart, shape=tuple(v for n, t in zip(shape, repetitions, strict=True) for v in (t, n)))
    return reshape(wide, shape=tuple(n * t for n, t in zip(shape, repetitions, strict=True)))


def _repeated(x: Spec, *, repeats: int, axis: int) -> tuple[Spec, Attrs]:
    i, (times,) = normalize_axis(axis, x.ndim), normalize_shape(normalize_integer("repeats", repeats))
    return x.like(shape=(n * times if k == i else n for k, n in enumerate(x.shape))), {"repeats": times, "axis": i}


@composite(_repeated)
def repeat(x: Tensor, *, repeats: int, axis: int) -> Tensor:
    """Each element repeated `repeats` times along an axis."""
    wide = expand_dims(x, axis + 1)
    shape = (*x.shape[: axis + 1], repeats, *x.shape[axis + 1 :])
    return reshape(broadcast_to(wide, shape=shape), shape=(*x.shape[:axis], x.shape[axis] * repeats, *x.shape[axis + 1 :]))


def _rolled(x: Spec, *, shift: int, axis: int) -> tuple[Spec, Attrs]:
    i = normalize_axis(axis, x.ndim)
    return x, {"shift": normalize_integer("a shift", shift) % max(x.shape[i], 1), "axis": i}


@composite(_rolled)
def roll(x: Tensor, *, shift: int, axis: int) -> Tensor:
    """The elements moved `shift` places along an axis, around the end."""
    head, tail = split(x, [x.shape[axis] - shift, shift], axis=axis)
    return concat(tail, head, axis=axis)


Tensor.reshape = reshape.of_shape  # type: ignore[method-assign]
Tensor.broadcast_to = broadcast_to.of_shape  # type: ignore[method-assign]
