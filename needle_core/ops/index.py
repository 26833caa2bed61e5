"""Elements by their places: indexing, gathering, scattering, sorting.

Indices are integers in -n ... n - 1 along an axis of size n, counted from the end if negative; others raise BoundsError on
backends that compute on the host.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from needle_core.convert import as_array
from needle_core.doors import along, broadcast_shapes, normalize_axis, normalize_integer, promoting, require_integers
from needle_core.errors import ArgumentError, BoundsError, DeviceError, ShapeError, brief
from needle_core.op import composite, primitive
from needle_core.ops.create import iota, zeros, zeros_like
from needle_core.ops.elementwise import logical_or, positive, where
from needle_core.ops.shape import broadcast_to, flip, permute_dims, reshape, strided_slice
from needle_core.spec import DType, Spec, dtype, float32, int64, promote
from needle_core.tensor import Operand, Tensor

__all__ = [
    "argsort", "embedding", "embedding_grad", "getitem", "scatter_add", "sort", "take", "take_along_axis", "topk",
]  # fmt: skip

Attrs: TypeAlias = dict[str, Any]

# -- gathering and scattering -----------------------------------------------------------------------------------------------


def _taken(x: Spec, indices: Spec, *, axis: int | None = None) -> tuple[Spec, Attrs]:
    require_integers("indices", indices)
    if axis is None and x.ndim != 1:
        raise ArgumentError(f"needs an axis for a tensor with {x.ndim} axes")
    i = normalize_axis(0 if axis is None else axis, x.ndim)
    if x.shape[i] == 0 and indices.size:
        raise BoundsError(f"nothing can be taken from axis {i}, which is empty")
    return x.like(shape=x.shape[:i] + indices.shape + x.shape[i + 1 :]), {"axis": i}


@primitive(_taken)
def take(x: Operand, indices: Operand, *, axis: int | None = None) -> Tensor:
    """The elements of x at `indices` along `axis`, which only a 1-d tensor may leave out.

    Shapes:   x (*s, n, *t), indices (*i) -> (*s, *i, *t)
    Raises:   BoundsError for an index outside of the axis
    """


def _keep_indices(x: DType | type, indices: DType | type, updates: DType | type) -> list[DType]:
    """x and updates in the dtype where they meet; indices keep theirs."""
    met = promote(x, updates)
    return [met, promote(indices), met]


@promoting(_keep_indices)
def _scattered(x: Spec, indices: Spec, updates: Spec, *, axis: int | None = None) -> tuple[Spec, Attrs]:
    expected, attrs = _taken(x, indices, axis=axis)
    if updates.shape != expected.shape:
        raise ShapeError(f"updates must have the shape {list(expected.shape)} of what take returns, not {list(updates.shape)}")
    return x, attrs


@primitive(_scattered)
def scatter_add(x: Operand, indices: Operand, updates: Operand, *, axis: int | None = None) -> Tensor:
    """x with `updates` added at `indices` along `axis`; what meets in one place is summed. The adjoint of `take`.

    Shapes:   x (*s, n, *t), indices (*i), updates (*s, *i, *t) -> (*s, n, *t)
    Raises:   BoundsError for an index outside of the axis
    """


take.vjp(lambda g, y, x, indices, axis: scatter_add(zeros_like(x), indices, g, axis=axis), None)
scatter_add.vjp(
    lambda g, y, x, indices, updates, axis: g, None, lambda g, y, x, indices, updates, axis: take(g, indices, axis=axis)
)


def _embedded(indices: Spec, weight: Spec) -> tuple[Spec, Attrs]:
    if not weight.ndim:
        raise ShapeError("a table has rows: weight needs an axis")
    return _taken(weight, indices, axis=0)[0], {}


def _embedded_gradient(g: Spec, indices: Spec, *, count: int) -> tuple[Spec, Attrs]:
    require_integers("indices", indices)
    rows = normalize_integer("count", count)
    if g.shape[: indices.ndim] != indices.shape or rows < 0:
        raise ShapeError(f"gradients for {list(indices.shape)} rows of {rows} have these axes first, not {list(g.shape)}")
    if not rows and indices.size:
        raise BoundsError("a table without rows has no gradients")
    return g.like(shape=(rows, *g.shape[indices.ndim :])), {"count": rows}


@composite(_embedded_gradient)
def embedding_grad(g: Tensor, indices: Tensor, *, count: int) -> Tensor:
    """The gradient of embedding for a table of `count` rows: rows of g that belong to one row are summed.

    Shapes:   g (*i, *d), indices (*i) -> (count, *d)
    Dtypes:   float16 and bfloat16 accumulate in float32
    """
    wide = float32 if g.dtype.itemsize == 2 else g.dtype
    table = zeros((count, *g.shape[indices.ndim :]), dtype=wide, device=g.device)
    return scatter_add(table, indices, g.astype(wide), axis=0).astype(g.dtype)


@composite(_embedded)
def embedding(indices: Tensor, weight: Tensor) -> Tensor:
    """The rows of a table that integers name.

    Shapes:   indices (*i), weight (n, *d) -> (*i, *d)
    Raises:   BoundsError for an index outside of -n ... n - 1
    """
    return take(weight, indices, axis=0)


embedding.vjp(None, lambda g, y, indices, weight: embedding_grad(g, indices, count=weight.shape[0]))
embedding_grad.vjp(lambda g, y, rows, indices, count: embedding(indices, g), None)


def _taken_along(x: Spec, indices: Spec, *, axis: int = -1) -> tuple[Spec, Attrs]:
    require_integers("indices", indices)
    if x.ndim != indices.ndim:
        raise ShapeError(f"x and indices need the same number of axes, {x.ndim} != {indices.ndim}")
    i = normalize_axis(axis, x.ndim)
    one = (*x.shape[:i], 1, *x.shape[i + 1 :])
    met = list(broadcast_shapes(x.like(shape=one), indices.like(shape=(*indices.shape[:i], 1, *indices.shape[i + 1 :]))))
    met[i] = indices.shape[i]
    return x.like(shape=met), {"axis": i}


@composite(_taken_along)
def take_along_axis(x: Tensor, indices: Tensor, *, axis: int = -1) -> Tensor:
    """Along `axis`, element by element, what `indices` names; the other axes are broadcast against each other.

    Raises:   BoundsError for an index outside of the axis
    """
    shape = list(_taken_along(x.spec, indices.spec, axis=axis)[0].shape)
    indices = broadcast_to(indices, shape=shape)
    shape[axis] = x.shape[axis]
    x = broadcast_to(x, shape=shape)
    places = [iota(n=n, device=x.device).reshape(*(n if i == k else 1 for i in range(x.ndim))) for k, n in enumerate(x.shape)]
    places[axis] = indices
    return take(x.flatten(), _linear(places, x.shape), axis=0)


def _linear(places: list[Tensor], shape: tuple[int, ...]) -> Tensor:
    """Row-major places from indices along each axis; one that is out of bounds gives a place that is out of bounds."""
    total: Tensor | None = None
    outside: Tensor | None = None
    for place, n in zip(places, shape, strict=True):
        wide = place.astype(int64)
        beyond = logical_or(wide < -n, wide >= n)
        counted = where(wide < 0, wide + n, wide)
        total = counted if total is None else total * n + counted
        outside = beyond if outside is None else logical_or(outside, beyond)
    assert total is not None
    assert outside is not None
    return where(outside, math.prod(shape), total)


# -- sorting ----------------------------------------------------------------------------------------------------------------


def _sorted_places(x: Spec, *, axis: int = -1, descending: bool = False) -> tuple[Spec, Attrs]:
    return x.like(dtype=int64), {"axis": normalize_axis(axis, x.ndim), "descending": bool(descending)}


@primitive(_sorted_places)
def argsort(x: Operand, *, axis: int = -1, descending: bool = False) -> Tensor:
    """The indices that sort x along `axis`, as int64; equal elements keep their order, nan counts as the greatest."""


@composite(along)
def sort(x: Tensor, *, axis: int = -1, descending: bool = False) -> Tensor:
    """The elements in order along `axis`; nan counts as the greatest."""
    return take_along_axis(x, argsort(x, axis=axis, descending=descending), axis=axis)


def _largest(x: Spec, *, k: int, axis: int = -1, largest: bool = True) -> tuple[tuple[Spec, Spec], Attrs]:
    i, k = normalize_axis(axis, x.ndim), normalize_integer("k", k)
    if not 0 <= k <= x.shape[i]:
        raise ShapeError(f"k = {k} of {x.shape[i]} elements along axis {i}")
    out = x.like(shape=(*x.shape[:i], k, *x.shape[i + 1 :]))
    return (out, out.like(dtype=int64)), {"k": k, "axis": i, "largest": bool(largest)}


@composite(_largest)
def topk(x: Tensor, *, k: int, axis: int = -1, largest: bool = True) -> tuple[Tensor, Tensor]:
    """The k largest (or smallest) elements along `axis`, in order, and their indices as int64."""
    places = argsort(x, axis=axis, descending=largest)
    stop = tuple(k if i == axis else n for i, n in enumerate(x.shape))
    places = strided_slice(places, start=(0,) * x.ndim, stop=stop)
    return take_along_axis(x, places, axis=axis), places


# -- x[key] -----------------------------------------------------------------------------------------------------------------


def getitem(x: Tensor, key: Any) -> Tensor:
    """x[key], as NumPy indexes: integers, slices, None, Ellipsis, integer arrays, and masks on host devices.

    Raises: BoundsError for an index outside of its axis; ArgumentError for a key that is none of these.
    """
    given = x
    keys = _expand(x, key if isinstance(key, tuple) else (key,))
    start, stop, step, flipped = [], [], [], []
    shape: list[int] = []  # of the result of slicing, with new axes and without axes indexed by an integer
    arrays: list[tuple[int, Tensor]] = []  # axis of that result, indices
    axis = 0
    for k in keys:
        if k is None:
            shape.append(1)
            continue
        if k is Ellipsis:
            continue
        n = x.shape[axis]
        if isinstance(k, slice):
            first, last, stride = _range(k, n)
            count = len(range(first, last, stride))
            if stride < 0:
                flipped.append(axis)
                first, stride = n - 1 - first, -stride
            last = first + (count - 1) * stride + 1 if count else first
            shape.append(count)
        elif isinstance(k, Tensor):
            arrays.append((len(shape), k))
            first, last, stride = 0, n, 1
            shape.append(n)
        else:
            if not -n <= k < n:
                raise BoundsError(f"index {k} is out of range for axis {axis} with size {n}", details={"x": x.spec})
            first, last, stride = k % n, k % n + 1, 1
        start.append(min(first, n))
        stop.append(min(last, n))
        step.append(stride)
        axis += 1
    if flipped:
        x = flip(x, axis=tuple(flipped))
    if tuple(start) != (0,) * x.ndim or tuple(stop) != x.shape or any(s != 1 for s in step):
        x = strided_slice(x, start=tuple(start), stop=tuple(stop), step=tuple(step))
    if tuple(shape) != x.shape:
        x = reshape(x, shape=tuple(shape))
    if arrays:
        together = not any(isinstance(k, int) for k in keys) or _adjacent(keys)
        return _gather(x, arrays, together)
    return positive(x) if x is given else x


def _expand(x: Tensor, keys: tuple[Any, ...]) -> list[Any]:
    """The key as a list of integers, slices, Nones and integer tensors that covers every axis.

    An ellipsis stays before the slices that it stands for: also one that stands for none separates what is beside it.
    """
    found = [_read(x, k) for k in keys]
    if sum(k is Ellipsis for k in found) > 1:
        raise ArgumentError("an index has at most one ellipsis", details={"x": x.spec})
    used = sum(_width(k) for k in found)
    if used > x.ndim:
        raise BoundsError(f"{used} indices for {x.ndim} axes", details={"x": x.spec})
    place = next((i for i, k in enumerate(found) if k is Ellipsis), len(found))
    found[place + 1 : place + 1] = [slice(None)] * (x.ndim - used)
    expanded: list[Any] = []
    axis = 0
    for k in found:
        expanded += _mask_places(x, k, axis) if isinstance(k, np.ndarray) else [k]
        axis += _width(k)
    return expanded


def _range(k: slice, n: int) -> tuple[int, int, int]:
    try:
        return k.indices(n)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{k} is not an index: {error}") from None


def _width(k: Any) -> int:
    """How many axes of the tensor a part of its key speaks of."""
    if k is None or k is Ellipsis:
        return 0
    return k.ndim if isinstance(k, np.ndarray) else 1


def _read(x: Tensor, k: Any) -> Any:
    """One part of a key: None, Ellipsis, a slice, an int, a tensor of integers, or a mask as an array on the host."""
    if k is None or k is Ellipsis or isinstance(k, slice):
        return k
    if isinstance(k, int | np.integer) and not isinstance(k, bool):
        return int(k)
    if isinstance(k, np.ndarray) and not k.ndim and k.dtype.kind in "iu":
        return int(k)
    if not isinstance(k, Tensor | np.ndarray | list | tuple):
        raise ArgumentError(f"{brief(k)} is not an index", details={"x": x.spec})
    if not isinstance(k, Tensor):
        k = as_array(k if len(k) else np.array([], dtype=np.int64), None) if isinstance(k, list | tuple) else as_array(k, None)
    kind = dtype(k.dtype).kind
    if kind not in ("int", "uint") and (kind != "bool" or not k.ndim):
        raise ArgumentError(f"indices are integers, not {k.dtype}", details={"x": x.spec, "indices": brief(k)})
    if kind != "bool":
        return k if isinstance(k, Tensor) else Tensor(k, device=x.device)
    if isinstance(k, Tensor) and not k.device.backend.host:
        raise DeviceError("a mask's result has a shape that only its values tell", hint="ndl.where keeps the shape")
    return np.asarray(k)


def _mask_places(x: Tensor, mask: npt.NDArray[Any], axis: int) -> list[Tensor]:
    """The places where a mask is True, along each of its axes."""
    if mask.shape != x.shape[axis : axis + mask.ndim]:
        raise BoundsError(
            f"a mask from axis {axis} on must have the shape of those axes", details={"x": x.spec, "mask": list(mask.shape)}
        )
    return [Tensor(places, device=x.device) for places in np.nonzero(mask)]


def _adjacent(keys: list[Any]) -> bool:
    """Whether integers and integer arrays stand side by side: then the result's axes do too, else they come first."""
    advanced = [i for i, k in enumerate(keys) if isinstance(k, int | Tensor)]
    return advanced[-1] - advanced[0] + 1 == len(advanced)


def _gather(x: Tensor, arrays: list[tuple[int, Tensor]], together: bool) -> Tensor:
    """x with integer arrays in the place of some axes."""
    axes = [axis for axis, _ in arrays]
    adjacent = together and axes == list(range(axes[0], axes[0] + len(axes)))
    front = axes[0] if adjacent else 0
    rest = [i for i in range(x.ndim) if i not in axes]
    x = permute_dims(x, axes=(*rest[:front], *axes, *rest[front:]))
    sizes = x.shape[front : front + len(axes)]
    merged = reshape(x, shape=(*x.shape[:front], math.prod(sizes), *x.shape[front + len(axes) :]))
    places = arrays[0][1] if len(arrays) == 1 else _linear([indices for _, indices in arrays], sizes)
    return take(merged, places, axis=front)
