"""Sums, extrema and statistics over axes; cumulative ops.

`axis` (or `axes`) is an int, a sequence of ints, or None for all; `keepdims` keeps reduced axes with size 1.
"""

from __future__ import annotations

import builtins
import math
from typing import Any

from needle_core.doors import along, normalize_axis, promoting, reduced, reduced_floating, to_accumulator, to_floating
from needle_core.errors import ArgumentError, ShapeError, brief
from needle_core.op import composite, primitive
from needle_core.ops.create import arange, ones_like
from needle_core.ops.elementary import exp, log, sqrt
from needle_core.ops.elementwise import equal, isfinite, isnan, logical_not, logical_or, square, where
from needle_core.ops.shape import concat, expand_as, flip, moveaxis, reshape, strided_slice
from needle_core.spec import Spec, bool_, float32, int64
from needle_core.tensor import Axes, Operand, Tensor

__all__ = [
    "all", "any", "argmax", "argmin", "count_nonzero", "cumprod", "cumsum", "logsumexp", "max", "mean", "min", "prod", "std",
    "sum", "var",
]  # fmt: skip


def _spread(g: Tensor, like: Tensor, axes: tuple[int, ...], keepdims: bool) -> Tensor:
    """`g`, the result of a reduction of `like` over `axes`, with those axes again."""
    return expand_as.of_two(_kept(g, like, axes, keepdims) if g.spec.shape else g, like)


def _kept(g: Tensor, like: Tensor, axes: tuple[int, ...], keepdims: bool) -> Tensor:
    """`g` with the reduced axes as axes of size 1."""
    return g if keepdims else reshape(g, shape=tuple(1 if i in axes else n for i, n in enumerate(like.shape)))


@promoting(to_accumulator)
def _accumulated(x: Spec, **attrs: Any) -> tuple[Spec, dict[str, Any]]:
    return reduced(x, **attrs)


@primitive(_accumulated)
def sum(x: Operand, *, axis: Axes = None, axes: Axes = None, keepdims: bool = False) -> Tensor:
    """Sum over `axis`; 0 of nothing.

    Dtypes:   bools and integers give int64; float16 and bfloat16 accumulate in float32
    """


sum.vjp(lambda g, y, x, axes, keepdims: _spread(g, x, axes, keepdims))


@primitive(_accumulated)
def prod(x: Operand, *, axis: Axes = None, axes: Axes = None, keepdims: bool = False) -> Tensor:
    """Product over `axis`; 1 of nothing. Bools and integers give int64."""


def _prod_gradient(g: Tensor, y: Tensor, x: Tensor, axes: tuple[int, ...], keepdims: bool) -> Tensor:
    """g times the product of all others, exact where an element is zero."""
    if x.size == 0:
        return x
    rest = tuple(i for i in range(x.ndim) if i not in axes)
    flat = reshape(x.transpose((*rest, *axes)), shape=(*(x.shape[i] for i in rest), -1))
    one = ones_like(strided_slice(flat, start=(0,) * flat.ndim, stop=(*flat.shape[:-1], 1)))
    before = cumprod(concat(one, flat[..., :-1], axis=-1), axis=-1)
    after = flip(cumprod(concat(one, flip(flat[..., 1:], axis=-1), axis=-1), axis=-1), axis=-1)
    others = reshape(before * after, shape=tuple(x.shape[i] for i in (*rest, *axes)))
    back = tuple(sorted(range(x.ndim), key=(*rest, *axes).__getitem__))
    return _kept(g, x, axes, keepdims) * others.transpose(back)


prod.vjp(_prod_gradient)


def _extremum(x: Spec, **attrs: Any) -> tuple[Spec, dict[str, Any]]:
    spec, attrs = reduced(x, **attrs)
    if builtins.any(x.shape[i] == 0 for i in attrs["axes"]):
        raise ShapeError("nothing has no extremum: an axis to reduce is empty")
    return spec, attrs


@primitive(_extremum)
def max(x: Operand, *, axis: Axes = None, axes: Axes = None, keepdims: bool = False) -> Tensor:
    """The greatest element over `axis`; nan if one is nan.

    Gradient: shared equally by equal elements
    Raises:   ShapeError if an axis to reduce is empty
    """


@primitive(_extremum)
def min(x: Operand, *, axis: Axes = None, axes: Axes = None, keepdims: bool = False) -> Tensor:
    """The least element over `axis`; nan if one is nan.

    Gradient: shared equally by equal elements
    Raises:   ShapeError if an axis to reduce is empty
    """


def _extremum_gradient(g: Tensor, y: Tensor, x: Tensor, axes: tuple[int, ...], keepdims: bool) -> Tensor:
    holders = equal(x, _kept(y, x, axes, keepdims)).astype(x.dtype)
    return _kept(g, x, axes, keepdims) * (holders / sum(holders, axes=axes, keepdims=True))


max.vjp(_extremum_gradient)
min.vjp(_extremum_gradient)


@composite(reduced_floating)
def mean(x: Tensor, *, axis: Axes = None, axes: Axes = None, keepdims: bool = False) -> Tensor:
    """Arithmetic mean over `axis`; nan of nothing."""
    wide = x.astype(float32) if x.dtype.itemsize == 2 else x  # the sum of many half-precision numbers may be out of range
    return (sum(wide, axes=axes, keepdims=keepdims) / _count(x, axes)).astype(x.dtype)


mean.vjp(lambda g, y, x, axes, keepdims: _spread(g / _count(x, axes), x, axes, keepdims))


def _count(x: Tensor, axes: Any) -> int:
    return math.prod(x.shape[i] for i in axes)


@promoting(to_floating)
def _corrected(x: Spec, *, correction: Any = 0, **attrs: Any) -> tuple[Spec, dict[str, Any]]:
    if type(correction) not in (int, float):
        raise ArgumentError(f"the correction is a number, not {brief(correction)}")
    return reduced(x, correction=correction, **attrs)


@composite(_corrected)
def var(x: Tensor, *, axis: Axes = None, axes: Axes = None, correction: float = 0, keepdims: bool = False) -> Tensor:
    """Variance over `axis`: the sum of squared distances from the mean, divided by count - `correction`."""
    wide = x.astype(float32) if x.dtype.itemsize == 2 else x
    spread = square(wide - mean(wide, axes=axes, keepdims=True))
    return (sum(spread, axes=axes, keepdims=keepdims) / builtins.max(_count(x, axes) - correction, 0)).astype(x.dtype)


@composite(_corrected)
def std(x: Tensor, *, axis: Axes = None, axes: Axes = None, correction: float = 0, keepdims: bool = False) -> Tensor:
    """Standard deviation over `axis`, the square root of `var`."""
    return sqrt(var(x, axes=axes, correction=correction, keepdims=keepdims))


@composite(reduced_floating)
def logsumexp(x: Tensor, *, axis: Axes = None, axes: Axes = None, keepdims: bool = False) -> Tensor:
    """log(sum(exp(x))) over `axis`, computed without overflow.

    Numerics: all -inf gives -inf; of nothing, -inf
    Source:   Blanchard, Higham & Higham 2021, doi:10.1093/imanum/draa038
    """
    if _count(x, axes) == 0:
        return log(sum(x, axes=axes, keepdims=keepdims))
    top = max(x, axes=axes, keepdims=True)
    shift = where(isfinite(top), top, 0)
    total = log(sum(exp(x - shift), axes=axes, keepdims=True)) + shift
    return total if keepdims else reshape(total, shape=tuple(n for i, n in enumerate(x.shape) if i not in axes))  # type: ignore[operator]


def _logsumexp_gradient(g: Tensor, y: Tensor, x: Tensor, axes: tuple[int, ...], keepdims: bool) -> Tensor:
    level = _kept(y, x, axes, keepdims)
    return _kept(g, x, axes, keepdims) * exp(x - where(equal(level, -math.inf), 0, level))


logsumexp.vjp(_logsumexp_gradient)


def _judged(x: Spec, **attrs: Any) -> tuple[Spec, dict[str, Any]]:
    spec, attrs = reduced(x, **attrs)
    return spec.like(dtype=bool_), attrs


@composite(_judged)
def any(x: Tensor, *, axis: Axes = None, axes: Axes = None, keepdims: bool = False) -> Tensor:
    """Whether an element over `axis` is not zero; False of nothing."""
    return sum(x != 0, axes=axes, keepdims=keepdims) != 0


@composite(_judged)
def all(x: Tensor, *, axis: Axes = None, axes: Axes = None, keepdims: bool = False) -> Tensor:
    """Whether no element over `axis` is zero; True of nothing."""
    return logical_not(any(equal(x, 0), axes=axes, keepdims=keepdims))


def _counted(x: Spec, **attrs: Any) -> tuple[Spec, dict[str, Any]]:
    spec, attrs = reduced(x, **attrs)
    return spec.like(dtype=int64), attrs


@composite(_counted)
def count_nonzero(x: Tensor, *, axis: Axes = None, axes: Axes = None, keepdims: bool = False) -> Tensor:
    """The number of elements over `axis` that are not zero, as int64."""
    return sum(x != 0, axes=axes, keepdims=keepdims)


def _located(x: Spec, *, axis: int | None = None, keepdims: bool = False) -> tuple[Spec, dict[str, Any]]:
    spec, attrs = _extremum(x, axis=None if axis is None else normalize_axis(axis, x.ndim), keepdims=keepdims)
    return spec.like(dtype=int64), {"axis": None if axis is None else attrs["axes"][0], "keepdims": attrs["keepdims"]}


@composite(_located)
def argmax(x: Tensor, *, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """The index of the greatest element along `axis` (None: of the flattened tensor), the first of equals, as int64.

    Numerics: the first nan counts as the greatest
    Raises:   ShapeError if there is nothing to choose from
    """
    return _first(x, axis, keepdims, max)


@composite(_located)
def argmin(x: Tensor, *, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """The index of the least element along `axis` (None: of the flattened tensor), the first of equals, as int64.

    Numerics: the first nan counts as the least
    Raises:   ShapeError if there is nothing to choose from
    """
    return _first(x, axis, keepdims, min)


def _first(x: Tensor, axis: int | None, keepdims: bool, extremum: Any) -> Tensor:
    """The first index along `axis` where x equals its extremum."""
    if axis is None:
        index = _first(x.flatten(), 0, False, extremum)
        return reshape(index, shape=(1,) * x.ndim) if keepdims else index
    n = x.shape[axis]
    place = reshape(arange(n, device=x.device), shape=tuple(n if i == axis else 1 for i in range(x.ndim)))
    holds = logical_or(equal(x, extremum(x, axis=axis, keepdims=True)), isnan(x))
    return min(where(holds, place, n), axis=axis, keepdims=keepdims)


@promoting(to_accumulator)
def _accumulating(x: Spec, *, axis: int | None = None) -> tuple[Spec, dict[str, Any]]:
    if axis is None and x.ndim != 1:
        raise ArgumentError(f"needs an axis for a tensor with {x.ndim} axes")
    return along(x, axis=0 if axis is None else axis)


@primitive(_accumulating)
def cumsum(x: Operand, *, axis: int | None = None) -> Tensor:
    """Running sum along `axis`, which only a 1-d tensor may leave out. Bools and integers give int64."""


cumsum.vjp(lambda g, y, x, axis: flip(cumsum(flip(g, axis=axis), axis=axis), axis=axis))


@composite(_accumulating)
def cumprod(x: Tensor, *, axis: int | None = None) -> Tensor:
    """Running product along `axis`, which only a 1-d tensor may leave out. Bools and integers give int64.

    Numerics: log2(n) rounds of products of neighbours, so rounding errors grow with log n
    Source:   Hillis & Steele 1986, doi:10.1145/7902.7903
    """
    y = moveaxis(x, source=axis, destination=0)
    reach = 1
    while reach < y.shape[0]:
        y = concat(y[:reach], y[reach:] * y[:-reach], axis=0)
        reach *= 2
    return moveaxis(y, source=0, destination=axis)
