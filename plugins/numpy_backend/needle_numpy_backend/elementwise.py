"""Kernels of elementwise ops. Most are NumPy's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from needle_core.spec import DType

Array = npt.NDArray[Any]

add = np.add
subtract = np.subtract
multiply = np.multiply
floor_divide = np.floor_divide
remainder = np.remainder
maximum = np.maximum
minimum = np.minimum
negative = np.negative
abs = np.abs
sign = np.sign
square = np.square
equal = np.equal
not_equal = np.not_equal
less = np.less
less_equal = np.less_equal
greater = np.greater
greater_equal = np.greater_equal
logical_not = np.logical_not
logical_and = np.logical_and
logical_or = np.logical_or
logical_xor = np.logical_xor
isnan = np.isnan
isinf = np.isinf
isfinite = np.isfinite
divide = np.true_divide


def floor(x: Array) -> Array:
    return np.floor(x, out=...) if x.dtype.kind not in "iu" else x


def round(x: Array) -> Array:
    return np.rint(x, out=...) if x.dtype.kind not in "iu" else x


def where(condition: Array, a: Array, b: Array) -> Array:
    bits = _BITS.get(a.itemsize)
    if bits and b.ndim == 0 and not b.view(bits):  # a mask, as in most gradients: a product of bits takes a fifth of the time
        return np.multiply(a.view(bits), condition, out=...).view(a.dtype)
    return np.where(condition, a, b)


_BITS: dict[int, Any] = {4: np.int32, 8: np.int64}


def astype(x: Array, *, dtype: DType) -> Array:
    return x.astype(dtype.numpy)
