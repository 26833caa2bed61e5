"""Arithmetic, comparison, logic, elementary functions and activations, element by element.

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
    "abs", "acos", "acosh", "add", "asin", "asinh", "astype", "atan", "atan2", "atanh", "ceil", "clip", "cos", "cosh",
    "divide", "equal", "erf", "exp", "exp2", "expm1", "floor", "floor_divide", "greater", "greater_equal", "hypot",
    "isfinite", "isinf", "isnan", "less", "less_equal", "log", "log10", "log1p", "log2", "logical_and",
    "logical_not", "logical_or", "logical_xor", "maximum", "minimum", "multiply", "negative", "not_equal", "positive", "pow",
    "reciprocal", "remainder", "round", "rsqrt", "sign", "sin", "sinh", "sqrt", "square", "subtract", "tan", "tanh", "trunc",
    "where",
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
    """x in another dtype: floats are rounded to nearest, or truncated to integers; to bool, everything but zero is True."""


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


@primitive(broadcasted_number)
def pow(a: Operand, b: Operand) -> Tensor:
    """Power a ** b; of integers, `b` must not be negative."""


def _pow_by_base(g: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return where(equal(b, 0), 0, g * b * pow(a, where(equal(b, 0), 1, b - 1)))


def _pow_by_exponent(g: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return g * y * log(where(equal(a, 0), 1, a))


pow.vjp(_pow_by_base, _pow_by_exponent)


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


square.vjp(lambda g, y, x: g * (2 * x))


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
    return x, {"min": min, "max": max}


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


# -- elementary functions ---------------------------------------------------------------------------------------------------


@primitive(floating)
def exp(x: Operand) -> Tensor:
    """e to the power of x."""


exp.vjp(lambda g, y, x: g * y)


@primitive(floating)
def log(x: Operand) -> Tensor:
    """Natural logarithm; -inf at 0, nan below."""


log.vjp(lambda g, y, x: g / x)


@primitive(floating)
def sqrt(x: Operand) -> Tensor:
    """Square root, correctly rounded; nan below 0."""


sqrt.vjp(lambda g, y, x: g / (2 * y))


@primitive(floating)
def sin(x: Operand) -> Tensor:
    """Sine of x in radians."""


@primitive(floating)
def cos(x: Operand) -> Tensor:
    """Cosine of x in radians."""


sin.vjp(lambda g, y, x: g * cos(x))
cos.vjp(lambda g, y, x: -g * sin(x))


@primitive(floating)
def tanh(x: Operand) -> Tensor:
    """Hyperbolic tangent."""


tanh.vjp(lambda g, y, x: g * (1 - y * y))


@primitive(broadcasted_floating)
def atan2(a: Operand, b: Operand) -> Tensor:
    """The angle of the point (b, a) in radians, in [-pi, pi]."""


atan2.vjp(lambda g, y, a, b: g * b / (a * a + b * b), lambda g, y, a, b: -g * a / (a * a + b * b))


@primitive(floating)
def erf(x: Operand) -> Tensor:
    """Error function: 2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x."""


erf.vjp(lambda g, y, x: g * (2 / math.sqrt(math.pi)) * exp(-x * x))


@composite(floating)
def rsqrt(x: Tensor) -> Tensor:
    """1 / sqrt(x)."""
    return 1 / sqrt(x)


rsqrt.vjp(lambda g, y, x: -0.5 * g * y / x)


@composite(floating)
def exp2(x: Tensor) -> Tensor:
    """2 to the power of x."""
    return pow(2, x)


@composite(floating)
def log2(x: Tensor) -> Tensor:
    """Logarithm to base 2."""
    return log(x) * (1 / math.log(2))


@composite(floating)
def log10(x: Tensor) -> Tensor:
    """Logarithm to base 10."""
    return log(x) * (1 / math.log(10))


@composite(floating)
def expm1(x: Tensor) -> Tensor:
    """exp(x) - 1, exact to rounding also near 0.

    Numerics: exp(x) - 1 = (u - 1) x / log u with u = exp(x) rounded; the errors of u - 1 and log u cancel.
    Source:   Kahan; Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 1.14.1
    """
    u = exp(x)
    away = logical_and(u != 1, logical_and(u > 0, u < math.inf))
    ratio = (u - 1) * (x / log(where(away, u, 2)))
    return where(away, ratio, where(equal(u, 1), x, u - 1))


expm1.vjp(lambda g, y, x: g * (y + 1))


@composite(floating)
def log1p(x: Tensor) -> Tensor:
    """log(1 + x), exact to rounding also near 0.

    Numerics: log(1 + x) = log(u) x / (u - 1) with u = 1 + x rounded; the errors of log u and u - 1 cancel.
    Source:   Kahan; Higham, Accuracy and Stability of Numerical Algorithms, 2002, problem 1.5
    """
    u = x + 1
    away = logical_and(u != 1, u < math.inf)
    return where(away, log(u) * (x / where(away, u - 1, 1)), where(equal(u, 1), x, u))


log1p.vjp(lambda g, y, x: g / (1 + x))


@composite(floating)
def tan(x: Tensor) -> Tensor:
    """Tangent of x in radians."""
    return sin(x) / cos(x)


tan.vjp(lambda g, y, x: g * (1 + y * y))


@composite(floating)
def asin(x: Tensor) -> Tensor:
    """Inverse sine in radians; nan outside of [-1, 1]."""
    return atan2(x, sqrt((1 - x) * (1 + x)))


asin.vjp(lambda g, y, x: g / sqrt((1 - x) * (1 + x)))


@composite(floating)
def acos(x: Tensor) -> Tensor:
    """Inverse cosine in radians; nan outside of [-1, 1]."""
    return atan2(sqrt((1 - x) * (1 + x)), x)


acos.vjp(lambda g, y, x: -g / sqrt((1 - x) * (1 + x)))


@composite(floating)
def atan(x: Tensor) -> Tensor:
    """Inverse tangent in radians."""
    return atan2(x, 1)


atan.vjp(lambda g, y, x: g / (1 + x * x))


@composite(floating)
def sinh(x: Tensor) -> Tensor:
    """Hyperbolic sine."""
    u = expm1(abs(x))
    small = 0.5 * (u + u / (u + 1))
    return sign(x) * where(less(u, math.inf), small, 0.5 * exp(0.5 * abs(x)) * exp(0.5 * abs(x)))


@composite(floating)
def cosh(x: Tensor) -> Tensor:
    """Hyperbolic cosine."""
    half = exp(0.5 * abs(x))
    return 0.5 * half * half + 0.5 / half / half


sinh.vjp(lambda g, y, x: g * cosh(x))
cosh.vjp(lambda g, y, x: g * sinh(x))


@composite(floating)
def asinh(x: Tensor) -> Tensor:
    """Inverse hyperbolic sine."""
    a = abs(x)
    return sign(x) * where(less(a, 1e4), log1p(a + a * a / (1 + sqrt(a * a + 1))), log(a) + math.log(2))


asinh.vjp(lambda g, y, x: g / sqrt(x * x + 1))


@composite(floating)
def acosh(x: Tensor) -> Tensor:
    """Inverse hyperbolic cosine; nan below 1."""
    t = x - 1
    return where(less(x, 1e4), log1p(t + sqrt(t * (x + 1))), log(x) + math.log(2))


acosh.vjp(lambda g, y, x: g / sqrt((x - 1) * (x + 1)))


@composite(floating)
def atanh(x: Tensor) -> Tensor:
    """Inverse hyperbolic tangent; infinite at -1 and 1, nan outside."""
    a = abs(x)
    return 0.5 * sign(x) * log1p(2 * a / (1 - a))


atanh.vjp(lambda g, y, x: g / ((1 - x) * (1 + x)))


@composite(broadcasted_floating)
def hypot(a: Tensor, b: Tensor) -> Tensor:
    """sqrt(a^2 + b^2) without overflow on the way."""
    large, small = maximum(abs(a), abs(b)), minimum(abs(a), abs(b))
    ratio = where(equal(small, large), where(equal(large, 0), 0, 1), small / where(equal(large, 0), 1, large))
    return large * sqrt(1 + ratio * ratio)


hypot.vjp(lambda g, y, a, b: g * a / y, lambda g, y, a, b: g * b / y)
