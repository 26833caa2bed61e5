"""Elementary functions, element by element: exponentials, logarithms, roots, trigonometric and hyperbolic functions.

Shapes: x (*s) -> (*s). Dtypes: floating; integers become float32.
"""

from __future__ import annotations

import math

from needle_core.doors import broadcasted_floating, broadcasted_number, floating
from needle_core.op import composite, primitive
from needle_core.ops.elementwise import abs, equal, less, logical_and, logical_or, maximum, minimum, sign, where
from needle_core.tensor import Operand, Tensor

__all__ = [
    "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cos", "cosh", "erf", "exp", "exp2", "expm1", "hypot", "log",
    "log10", "log1p", "log2", "logaddexp", "pow", "rsqrt", "sin", "sinh", "sqrt", "tan", "tanh"
]  # fmt: skip


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


@primitive(broadcasted_number)
def pow(a: Operand, b: Operand) -> Tensor:
    """Power a ** b; of integers, `b` must not be negative."""


def _pow_by_base(g: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return where(equal(b, 0), 0, g * b * pow(a, where(equal(b, 0), 1, b - 1)))


def _pow_by_exponent(g: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return g * y * log(where(equal(a, 0), 1, a))


pow.vjp(_pow_by_base, _pow_by_exponent)


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
    return _odd(x, where(less(u, math.inf), small, 0.5 * exp(0.5 * abs(x)) * exp(0.5 * abs(x))))


def _odd(x: Tensor, y: Tensor) -> Tensor:
    """An odd function of x from its value y for abs(x); zeros keep their sign."""
    return where(equal(x, 0), x, sign(x) * y)


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
    small, r = minimum(a, 1), 1 / maximum(a, 1)
    near = log1p(small + small * small / (1 + sqrt(small * small + 1)))
    return _odd(x, where(less(a, 1), near, log(maximum(a, 1)) + log(1 + sqrt(1 + r * r))))


asinh.vjp(lambda g, y, x: g / sqrt(x * x + 1))


@composite(floating)
def acosh(x: Tensor) -> Tensor:
    """Inverse hyperbolic cosine; nan below 1."""
    t, r = minimum(maximum(x, 0), 2) - 1, 1 / maximum(x, 2)
    return where(less(x, 2), log1p(t + sqrt(t * (t + 2))), log(maximum(x, 2)) + log(1 + sqrt((1 - r) * (1 + r))))


acosh.vjp(lambda g, y, x: g / sqrt((x - 1) * (x + 1)))


@composite(floating)
def atanh(x: Tensor) -> Tensor:
    """Inverse hyperbolic tangent; infinite at -1 and 1, nan outside."""
    a = abs(x)
    return _odd(x, 0.5 * log1p(2 * a / (1 - a)))


atanh.vjp(lambda g, y, x: g / ((1 - x) * (1 + x)))


@composite(broadcasted_floating)
def hypot(a: Tensor, b: Tensor) -> Tensor:
    """sqrt(a^2 + b^2) without overflow on the way; infinite if a or b is, also beside nan."""
    large, small = maximum(abs(a), abs(b)), minimum(abs(a), abs(b))
    ratio = where(equal(small, large), where(equal(large, 0), 0, 1), small / where(equal(large, 0), 1, large))
    infinite = logical_or(equal(abs(a), math.inf), equal(abs(b), math.inf))
    return where(infinite, math.inf, large * sqrt(1 + ratio * ratio))


hypot.vjp(lambda g, y, a, b: g * a / y, lambda g, y, a, b: g * b / y)


@composite(broadcasted_floating)
def logaddexp(a: Tensor, b: Tensor) -> Tensor:
    """log(exp(a) + exp(b)) without overflow on the way."""
    top = maximum(a, b)
    gap = where(equal(a, b), 0, minimum(a, b) - top)
    return top + log1p(exp(gap))


logaddexp.vjp(
    lambda g, y, a, b: g / (1 + exp(where(equal(a, b), 0, b - a))),
    lambda g, y, a, b: g / (1 + exp(where(equal(a, b), 0, a - b))),
)
