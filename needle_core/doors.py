"""The front doors that most ops share.

A door meets what the user wrote. It takes the operands' Specs and the attributes, refuses what does not fit, and returns the
output's Spec and the attributes in their canonical form, which is all that kernels and gradient rules ever see: axes are
sorted tuples of non-negative ints, shapes are tuples of ints, dtypes are DTypes.

`promoting(rule)` gives a door its dtype rule: from the operands' dtypes (Python's bool, int, float for Python numbers) to the
dtypes in which the kernel will get them. Without one, operands keep theirs.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

from needle_core.convert import zero_dimensional
from needle_core.errors import ArgumentError, DtypeError, ShapeError, brief
from needle_core.op import Door
from needle_core.spec import DEFAULT, DType, Spec, bool_, float32, int64, promote

D = TypeVar("D", bound=Door)

Result: TypeAlias = tuple[Spec, dict[str, Any]]


def promoting(rule: Callable[..., Sequence[DType]]) -> Callable[[D], D]:
    """Give a door its dtype rule."""

    def give(door: D) -> D:
        door.promotion = rule  # type: ignore[attr-defined]
        return door

    return give


# -- dtype rules ------------------------------------------------------------------------------------------------------------


def to_common(*dtypes: DType | type) -> list[DType]:
    """All operands in the dtype where they meet."""
    return [promote(*dtypes)] * len(dtypes)


def to_floating(*dtypes: DType | type) -> list[DType]:
    """All operands in the floating dtype where they meet; integers and bools become float32."""
    met = promote(*dtypes)
    return [met if met.is_floating else float32] * len(dtypes)


def to_number(*dtypes: DType | type) -> list[DType]:
    """All operands in the dtype where they meet; bools become int64."""
    met = promote(*dtypes)
    return [int64 if met is bool_ else met] * len(dtypes)


def to_accumulator(*dtypes: DType | type) -> list[DType]:
    """Bools and small integers become int64, so that a sum does not overflow; floats stay."""
    met = promote(*dtypes)
    return [met if met.is_floating else int64] * len(dtypes)


def to_bool(*dtypes: DType | type) -> list[DType]:
    """All operands as bools."""
    return [bool_] * len(dtypes)


def as_choice(condition: DType | type, *dtypes: DType | type) -> list[DType]:
    """A bool, and the rest in the dtype where they meet."""
    return [bool_, *to_common(*dtypes)]


# -- doors ------------------------------------------------------------------------------------------------------------------


def elementwise(x: Spec) -> Result:
    """One operand; the output is like it."""
    return x, {}


@promoting(to_floating)
def floating(x: Spec) -> Result:
    """One operand of floating dtype; the output is like it."""
    return x, {}


@promoting(to_number)
def number(x: Spec) -> Result:
    """One operand that is a number, not a bool; the output is like it."""
    return x, {}


@promoting(to_common)
def broadcasted(*operands: Spec) -> Result:
    """Operands broadcast against each other."""
    return operands[0].like(shape=broadcast_shapes(*operands)), {}


@promoting(to_number)
def broadcasted_number(*operands: Spec) -> Result:
    """Numbers, not bools, broadcast against each other."""
    return operands[0].like(shape=broadcast_shapes(*operands)), {}


@promoting(to_floating)
def broadcasted_floating(*operands: Spec) -> Result:
    """Operands of floating dtype broadcast against each other."""
    return operands[0].like(shape=broadcast_shapes(*operands)), {}


@promoting(to_common)
def compared(a: Spec, b: Spec) -> Result:
    """Two operands broadcast against each other; the output is bool."""
    return a.like(shape=broadcast_shapes(a, b), dtype=bool_), {}


@promoting(to_bool)
def logical(*operands: Spec) -> Result:
    """Operands as bools, broadcast against each other."""
    return operands[0].like(shape=broadcast_shapes(*operands)), {}


def tested(x: Spec) -> Result:
    """One operand; the output is bool."""
    return x.like(dtype=bool_), {}


def reduced(x: Spec, *, axis: Any = None, axes: Any = None, keepdims: bool = False, **rest: Any) -> Result:
    """One operand reduced over `axis` (or `axes`, as the course spells it; None means all). Other attributes pass unchanged."""
    if axis is not None and axes is not None:
        raise ArgumentError("axis and axes are two names of one attribute", details={"axis": axis, "axes": axes})
    over = normalize_axes(axes if axis is None else axis, x.ndim)
    shape = (
        (1 if i in over else n for i, n in enumerate(x.shape))
        if keepdims
        else (n for i, n in enumerate(x.shape) if i not in over)
    )
    return x.like(shape=shape), {"axes": over, "keepdims": bool(keepdims), **rest}


@promoting(to_floating)
def reduced_floating(x: Spec, *, axis: Any = None, axes: Any = None, keepdims: bool = False, **rest: Any) -> Result:
    """As `reduced`, of floating dtype."""
    return reduced(x, axis=axis, axes=axes, keepdims=keepdims, **rest)


def along(x: Spec, *, axis: int = -1, **rest: Any) -> Result:
    """One operand and one of its axes; the output is like it. Other attributes pass unchanged."""
    return x, {"axis": normalize_axis(axis, x.ndim), **rest}


@promoting(to_floating)
def along_floating(x: Spec, *, axis: Any = -1, axes: Any = None, **rest: Any) -> Result:
    """One operand of floating dtype and some of its axes, over which a function like softmax runs; the output is like it."""
    return x, {"axes": normalize_axes(axis if axes is None else axes, x.ndim), **rest}


@promoting(to_common)
def contracted(a: Spec, b: Spec) -> Result:
    """Matrix product: the last axis of `a` with the one before the last of `b`; axes before are broadcast."""
    if a.dtype is bool_:
        raise DtypeError("matrices hold numbers, not bools", hint="x.astype(ndl.float32)")
    if not a.ndim or not b.ndim:
        raise ShapeError("a 0-d tensor has no matrix product", hint="a * b multiplies by a number")
    inner = b.shape[-2] if b.ndim > 1 else b.shape[0]
    if a.shape[-1] != inner:
        turned = b.shape[-1] == a.shape[-1] and b.ndim == 2 and a.ndim >= 1
        hint = f"a @ b.mT has shape {[*a.shape[:-1], b.shape[-2]]}" if turned else None
        raise ShapeError(f"inner dimensions differ, {a.shape[-1]} != {inner}", hint=hint)
    batch = broadcast_shapes(a.like(shape=a.shape[:-2]), b.like(shape=b.shape[:-2]))
    return a.like(shape=batch + a.shape[-2:-1] + (b.shape[-1:] if b.ndim > 1 else ())), {}


# -- canonical forms --------------------------------------------------------------------------------------------------------


def broadcast_shapes(*operands: Spec) -> tuple[int, ...]:
    """The shape in which operands meet: aligned at the last axis, sizes equal or 1."""
    ndim = max((s.ndim for s in operands), default=0)
    shape = [1] * ndim
    for s in operands:
        for i, n in enumerate(s.shape, ndim - s.ndim):
            if n != 1 and shape[i] not in (1, n):
                raise ShapeError(f"shapes do not broadcast, {shape[i]} != {n} at axis {i - ndim}")
            if n != 1:
                shape[i] = n
    return tuple(shape)


def normalize_axis(axis: Any, ndim: int) -> int:
    """A non-negative axis of a tensor with `ndim` axes."""
    try:
        i = operator.index(axis)
    except TypeError:
        raise ArgumentError(f"an axis is an integer, not {type(axis).__name__} {axis!r}") from None
    if not -ndim <= i < ndim:
        raise ShapeError(f"axis {i} is out of range for a tensor with {ndim} axes")
    return i % ndim


def normalize_axes(axes: Any, ndim: int) -> tuple[int, ...]:
    """Sorted, distinct, non-negative axes; None means all."""
    if axes is None:
        return tuple(range(ndim))
    try:
        listed = [operator.index(axes)]
    except TypeError:
        listed = list(axes) if isinstance(axes, Sequence) else [axes]
    found = sorted(normalize_axis(a, ndim) for a in listed)
    if len(set(found)) != len(found):
        raise ShapeError(f"axes {tuple(listed)} repeat an axis")
    return tuple(found)


def normalize_integers(what: str, value: Any) -> tuple[int, ...]:
    """A tuple of ints from an int or a sequence."""
    try:
        return tuple(map(operator.index, [value] if isinstance(value, int) or not hasattr(value, "__iter__") else value))
    except TypeError:
        raise ArgumentError(f"{what} is an integer or a sequence of integers, not {brief(value)}") from None


def normalize_integer(what: str, value: Any) -> int:
    """An int."""
    try:
        return operator.index(value)
    except TypeError:
        raise ArgumentError(f"{what} is an integer, not {brief(value)}") from None


def normalize_shape(shape: Any) -> tuple[int, ...]:
    """A tuple of non-negative ints from an int or a sequence."""
    sizes = normalize_integers("a shape", shape)
    if any(n < 0 for n in sizes):
        raise ShapeError(f"shape {sizes} has a negative size")
    return sizes


def normalize_number(value: Any, dtype: DType) -> bool | int | float:
    """A Python number that `dtype` can hold."""
    if type(value) not in DEFAULT:
        raise ArgumentError(f"not a Python number: {value!r}")
    if isinstance(value, float) and not dtype.is_floating:
        raise DtypeError(f"{value!r} is not a value of {dtype}")
    number: bool | int | float = zero_dimensional(value, dtype).tolist()
    return number


def require_integers(what: str, spec: Spec) -> None:
    """Refuse indices that are not integers."""
    if not spec.dtype.is_integer:
        raise DtypeError(f"{what} must be integers, not {spec.dtype}")
