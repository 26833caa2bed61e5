"""Arithmetic, comparison and logic, element by element.

Shapes: operands (*s), broadcast against each other -> (*s), unless an op says otherwise.
"""

from __future__ import annotations

import math
from typing import Any

from needle_core.doors import (
    as_choice,
    broadcast_shapes,
    broadcasted,
    broadcasted_floating,
    broadcasted_number,
    compared,
    elementwise,
    floating,
    logical,
    normalize_number,
    number,
    promoting,
    tested,
    to_number,
)
from needle_core.errors import ArgumentError
from needle_core.op import composite, primitive
from needle_core.spec import DTypeLike, Spec, dtype as to_dtype
from needle_core.tensor import Operand, Tensor

__all__ = [
    "abs", "add", "astype", "ceil", "clip", "divide", "equal", "floor", "floor_divide", "greater", "greater_equal",
    "isfinite", "isinf", "isnan", "less", "less_equal", "logical_and", "logical_not", "logical_or", "logical_xor", "maximum",
    "minimum", "multiply", "negative", "not_equal", "positive", "reciprocal", "remainder", "round", "sign", "square",
    "subtract", "trunc", "where"
]  # fmt: skip

# -- comparison and logic ---------------------------------------------------------------------------------------------------


@primitive(compared)
def equal(a: Operand, b: Operand) -> Tensor:
    """a == b, elementwise; nan equals nothing."""


@primitive(compared)
def less(a: Operand, b: Operand) -> Tensor:
    """a < b."""


@composite(compared)
def not_equal(a: Operand, b: Operand) -> Tensor:
    """a != b; nan differs from everything."""
    return logical_not(equal(a, b))


@composite(compared)
def less_equal(a: Operand, b: Operand) -> Tensor:
    """a <= b."""
    return logical_or(less(a, b), equal(a, b))


@composite(compared)
def greater(a: Operand, b: Operand) -> Tensor:
    """a > b."""
    return less(b, a)


@composite(compared)
def greater_equal(a: Operand, b: Operand) -> Tensor:
    """a >= b."""
    return less_equal(b, a)


@composite(logical)
def logical_not(x: Operand) -> Tensor:
    """True where x is zero."""
    return equal(x, False)


@composite(logical)
def logical_and(a: Operand, b: Operand) -> Tensor:
    """True where both are not zero."""
    return multiply(a, b)


@composite(logical)
def logical_or(a: Operand, b: Operand) -> Tensor:
    """True where one or both are not zero."""
    return add(a, b)


@composite(logical)
def logical_xor(a: Operand, b: Operand) -> Tensor:
    """True where exactly one is not zero."""
    return not_equal(a, b)


@composite(tested)
def isnan(x: Tensor) -> Tensor:
    """True where x is not a number."""
    return not_equal(x, x)


@composite(tested)
def isinf(x: Tensor) -> Tensor:
    """True where x is infinite."""
    return equal(abs(x), math.inf) if x.dtype.is_floating else not_equal(x, x)


@composite(tested)
def isfinite(x: Tensor) -> Tensor:
    """True where x is neither infinite nor nan."""
    return less(abs(x), math.inf) if x.dtype.is_floating else equal(x, x)


@promoting(as_choice)
def _chosen(condition: Spec, a: Spec, b: Spec) -> tuple[Spec, dict[str, Any]]:
    return a.like(shape=broadcast_shapes(condition, a, b)), {}


@primitive(_chosen)
def where(condition: Operand, a: Operand, b: Operand) -> Tensor:
    """a where the condition holds, b elsewhere."""


where.vjp(None, lambda g, y, c, a, b: where(c, g, 0), lambda g, y, c, a, b: where(c, 0, g))


# -- dtype ------------------------------------------------------------------------------------------------------------------


def _cast(x: Spec, *, dtype: DTypeLike) -> tuple[Spec, dict[str, Any]]:
    d = to_dtype(dtype)
    return x.like(dtype=d), {"dtype": d}


@primitive(_cast)
def astype(x: Operand, *, dtype: DTypeLike) -> Tensor:
    """x in another dtype: floats are rounded to nearest, or truncated to integers; to bool, everything but zero is True.

    Numerics: a float that is nan or out of the range of an integer dtype gives an integer that depends on the machine
    """


astype.vjp(lambda g, y, x, dtype: g.astype(x.dtype))


# -- arithmetic -------------------------------------------------------------------------------------------------------------


@primitive(broadcasted)
def add(a: Operand, b: Operand) -> Tensor:
    """Sum a + b; of bools, logical or."""


add.vjp(lambda g, y, a, b: g, lambda g, y, a, b: g)


@primitive(broadcasted_number)
def subtract(a: Operand, b: Operand) -> Tensor:
    """Difference a - b."""


subtract.vjp(lambda g, y, a, b: g, lambda g, y, a, b: -g)


@primitive(broadcasted)
def multiply(a: Operand, b: Operand) -> Tensor:
    """Product a * b; of bools, logical and."""


multiply.vjp(lambda g, y, a, b: g * b, lambda g, y, a, b: g * a)


@primitive(broadcasted_floating)
def divide(a: Operand, b: Operand) -> Tensor:
    """Quotient a / b, of floating dtype; division by zero gives infinity or nan."""


divide.vjp(lambda g, y, a, b: g / b, lambda g, y, a, b: -g * y / b)


@primitive(broadcasted_number)
def floor_divide(a: Operand, b: Operand) -> Tensor:
    """The quotient rounded towards minus infinity. An integer divided by zero gives 0, as in NumPy."""


floor_divide.vjp(None, None)


@primitive(broadcasted_number)
def remainder(a: Operand, b: Operand) -> Tensor:
    """What floor_divide leaves, with the sign of `b`. An integer modulo zero gives 0, as in NumPy."""


remainder.vjp(lambda g, y, a, b: g, lambda g, y, a, b: -g * floor_divide(a, b))


@primitive(broadcasted)
def maximum(a: Operand, b: Operand) -> Tensor:
    """The greater of a and b; nan if either is nan.

    Gradient: where a = b, half to each.
    """


maximum.vjp(lambda g, y, a, b: g * _share(a, b, y), lambda g, y, a, b: g * _share(b, a, y))


@primitive(broadcasted)
def minimum(a: Operand, b: Operand) -> Tensor:
    """The smaller of a and b; nan if either is nan.

    Gradient: where a = b, half to each.
    """


minimum.vjp(lambda g, y, a, b: g * _share(a, b, y), lambda g, y, a, b: g * _share(b, a, y))


def _share(a: Tensor, b: Tensor, y: Tensor) -> Tensor:
    """How much of an extremum's gradient goes to `a`: all if it is the extremum alone, half if `b` is as well."""
    return where(equal(a, y), where(equal(a, b), 0.5, 1), 0).astype(y.dtype)


@primitive(number)
def negative(x: Operand) -> Tensor:
    """-x."""


negative.vjp(lambda g, y, x: -g)


@composite(elementwise)
def positive(x: Operand) -> Tensor:
    """x itself."""
    return x.detach()  # type: ignore[union-attr]


positive.vjp(lambda g, y, x: g)


@primitive(number)
def abs(x: Operand) -> Tensor:
    """|x|.

    Gradient: 0 at 0.
    """


@composite(number)
def sign(x: Tensor) -> Tensor:
    """-1, 0 or 1 as x is negative, zero or positive; nan of nan."""
    if x.dtype.kind == "uint":
        return (x != 0).astype(x.dtype)
    return where(less(0, x), 1, where(less(x, 0), -1, x * 0))


sign.vjp(None)
abs.vjp(lambda g, y, x: g * sign(x))


@composite(number)
def square(x: Tensor) -> Tensor:
    """x * x."""
    return x * x


square.vjp(lambda g, y, x: g * (x + x))


@composite(floating)
def reciprocal(x: Tensor) -> Tensor:
    """1 / x."""
    return 1 / x


reciprocal.vjp(lambda g, y, x: -g * y * y)


@primitive(number)
def floor(x: Operand) -> Tensor:
    """The greatest integer at most x, in x's dtype."""


floor.vjp(None)


@composite(number)
def ceil(x: Tensor) -> Tensor:
    """The least integer at least x, in x's dtype."""
    return -floor(-x) if x.dtype.is_floating else x


ceil.vjp(None)


@primitive(number)
def round(x: Operand) -> Tensor:
    """The nearest integer, the even one of two, in x's dtype."""


round.vjp(None)


@composite(number)
def trunc(x: Tensor) -> Tensor:
    """The integer part, in x's dtype."""
    return where(less(x, 0), ceil(x), floor(x))


trunc.vjp(None)


@promoting(to_number)
def _clipped(x: Spec, *, min: Any = None, max: Any = None) -> tuple[Spec, dict[str, Any]]:
    for bound in (min, max):
        if bound is not None and type(bound) not in (int, float):
            raise ArgumentError(f"min and max are Python numbers, not {bound!r}", hint="maximum and minimum take tensors")
    return x, {k: v if v is None else normalize_number(v, x.dtype) for k, v in (("min", min), ("max", max))}


@composite(_clipped)
def clip(x: Tensor, *, min: float | None = None, max: float | None = None) -> Tensor:
    """x, but `min` where it is less and `max` where it is greater; numbers are taken in x's dtype.

    Gradient: 1 at the bounds.
    """
    if min is not None:
        x = where(less(x, min), min, x).astype(x.dtype)
    if max is not None:
        x = where(less(max, x), max, x).astype(x.dtype)
    return x


Tensor.__add__ = add.of_two  # type: ignore[method-assign]
Tensor.__sub__ = subtract.of_two  # type: ignore[method-assign]
Tensor.__mul__ = multiply.of_two  # type: ignore[method-assign]
Tensor.__truediv__ = divide.of_two  # type: ignore[method-assign]
