"""Kernels of elementary functions. Most are NumPy's own."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from needle_numpy_backend.blocks import blockwise

Array = npt.NDArray[Any]

pow = np.power
exp = np.exp
log = np.log
sqrt = np.sqrt
sin = np.sin
cos = np.cos
tanh = np.tanh
atan2 = np.arctan2
expm1 = np.expm1
log1p = np.log1p


@blockwise
def erf(x: Array) -> Array:
    """By rational functions: x R(x^2) near 0, and 1 - exp(-x^2) S(|x|) elsewhere; from 6 on it is 1 in float64.

    Source: Cody 1969, Mathematics of Computation 23; the coefficients as in his CALERF
    """
    z = x.astype(np.float64, copy=False)  # in float32 the error is 4.9 units of roundoff, and here 0.5
    size = np.minimum(np.abs(z), 6)
    squares = size * size
    far = np.negative(squares, out=...)
    np.exp(far, out=far)
    far *= _polynomial(_C, size)
    far /= _polynomial(_D, size)
    np.subtract(1, far, out=far)
    np.minimum(squares, 0.25, out=squares)
    near = _polynomial(_A, squares)
    near /= _polynomial(_B, squares)
    near *= z
    return np.where(size <= 0.46875, near, np.copysign(far, z)).astype(x.dtype, copy=False)


def _polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    """A polynomial by Horner's rule, its coefficients from that of the highest power down."""
    y = x * coefficients[0]
    for c in coefficients[1:-1]:
        y += c
        y *= x
    y += coefficients[-1]
    return y


_A: Final = (
    1.85777706184603153e-1, 3.16112374387056560e0, 1.13864154151050156e2, 3.77485237685302021e2, 3.20937758913846947e3,
)  # fmt: skip
_B: Final = (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3)
_C: Final = (
    2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594e0, 6.61191906371416295e1, 2.98635138197400131e2,
    8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3, 1.23033935479799725e3,
)  # fmt: skip
_D: Final = (
    1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3, 3.29079923573345963e3,
    4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3,
)  # fmt: skip
