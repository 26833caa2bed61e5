"""Tensors from nothing: constants, ranges, random numbers, and copies from device to device.

`dtype` is by default that of the number given, float32 for zeros and ones; `device` the default device.
"""

from __future__ import annotations

import functools
import math
from typing import Any, TypeAlias

import numpy as np

import needle_core as ndl  # the default device
from needle_core.doors import normalize_integer, normalize_shape
from needle_core.errors import ArgumentError, CompileError, DtypeError, ShapeError
from needle_core.op import composite, primitive
from needle_core.ops.elementary import sqrt
from needle_core.ops.elementwise import equal, less, logical_not, maximum, where
from needle_core.ops.shape import broadcast_to, reshape
from needle_core.record import mode
from needle_core.spec import DEFAULT, Device, DTypeLike, Spec, dtype as to_dtype, float32, float64, int64
from needle_core.tensor import Number, Operand, Tensor, constant, tensor_of

__all__ = [
    "arange", "eye", "full", "full_like", "iota", "linspace", "meshgrid", "one_hot", "ones", "ones_like", "random_bits",
    "random_normal", "random_uniform", "to_device", "tril", "triu", "zeros", "zeros_like",
]  # fmt: skip

DeviceLike: TypeAlias = Device | str | None


def _where(device: DeviceLike) -> Device:
    return ndl.default_device() if device is None else ndl.device(device)


# -- constants --------------------------------------------------------------------------------------------------------------


def full(shape: Any, value: Number, *, dtype: DTypeLike | None = None, device: DeviceLike = None) -> Tensor:
    """A tensor of this shape, every element `value`."""
    if type(value) not in DEFAULT:
        raise ArgumentError(f"full: the value is a Python number, not {value!r}", hint="broadcast_to repeats a tensor")
    d = DEFAULT[type(value)] if dtype is None else to_dtype(dtype)
    return broadcast_to(constant(value, d, _where(device)), shape=normalize_shape(shape))


def zeros(shape: Any, *, dtype: DTypeLike = float32, device: DeviceLike = None) -> Tensor:
    """A tensor of zeros."""
    return full(shape, 0, dtype=dtype, device=device)


def ones(shape: Any, *, dtype: DTypeLike = float32, device: DeviceLike = None) -> Tensor:
    """A tensor of ones."""
    return full(shape, 1, dtype=dtype, device=device)


def full_like(x: Tensor, value: Number, *, dtype: DTypeLike | None = None) -> Tensor:
    """A tensor of x's shape, device and (by default) dtype, every element `value`."""
    return full(x.shape, value, dtype=x.dtype if dtype is None else dtype, device=x.device)


def zeros_like(x: Tensor, *, dtype: DTypeLike | None = None) -> Tensor:
    """Zeros of x's shape, device and (by default) dtype."""
    return full_like(x, 0, dtype=dtype)


def ones_like(x: Tensor, *, dtype: DTypeLike | None = None) -> Tensor:
    """Ones of x's shape, device and (by default) dtype."""
    return full_like(x, 1, dtype=dtype)


# -- ranges -----------------------------------------------------------------------------------------------------------------


def _counted(*, n: int, device: Device) -> tuple[Spec, dict[str, Any]]:
    shape, where = normalize_shape(normalize_integer("n", n)), ndl.device(device)
    return Spec.of(shape, int64, where), {"n": shape[0], "device": where}


@primitive(_counted)
def iota(*, n: int, device: Device) -> Tensor:
    """The integers 0, 1, ..., n - 1.

    Shapes:   -> (n)
    Dtypes:   int64
    """


def arange(
    start: Number, stop: Number | None = None, step: Number = 1, *, dtype: DTypeLike | None = None, device: DeviceLike = None
) -> Tensor:
    """start, start + step, ... up to but without `stop`; arange(n) counts from 0 to n - 1.

    Dtypes:   int64 if all are ints, else float32; computed in float64 before rounding
    """
    first, last = (0, start) if stop is None else (start, stop)
    if step == 0:
        raise ArgumentError("arange: the step is zero")
    n = max(0, math.ceil((last - first) / step))
    counted = iota(n=n, device=_where(device))
    if all(isinstance(v, int | np.integer) for v in (first, last, step)):
        ramp = counted if (first, step) == (0, 1) else counted * step + first
        return ramp if dtype is None else ramp.astype(dtype)
    return (counted.astype(float64) * float(step) + float(first)).astype(float32 if dtype is None else dtype)


def linspace(start: float, stop: float, num: int, *, dtype: DTypeLike = float32, device: DeviceLike = None) -> Tensor:
    """`num` numbers at equal distances from `start` to `stop`, both included. Computed in float64 before rounding."""
    if num < 0:
        raise ArgumentError(f"linspace: num is {num}")
    counted = iota(n=num, device=_where(device))
    ramp = counted.astype(float64) * ((stop - start) / max(num - 1, 1)) + float(start)
    return where(equal(counted, max(num - 1, 1)), float(stop), ramp).astype(dtype)


def eye(n: int, m: int | None = None, *, k: int = 0, dtype: DTypeLike = float32, device: DeviceLike = None) -> Tensor:
    """A matrix n x m (n x n) with ones on its k-th diagonal, counted upwards, and zeros elsewhere."""
    rows, columns = iota(n=n, device=_where(device)), iota(n=n if m is None else m, device=_where(device))
    return equal(reshape(rows, shape=(n, 1)) + k, columns).astype(dtype)


def meshgrid(*axes: Tensor, indexing: str = "xy") -> tuple[Tensor, ...]:
    """Coordinate grids of 1-d tensors; with "xy" the first two axes of the results are exchanged, with "ij" they are not."""
    if indexing not in ("xy", "ij"):
        raise ArgumentError(f"meshgrid: indexing is 'xy' or 'ij', not {indexing!r}")
    order = list(range(len(axes)))
    if indexing == "xy" and len(axes) > 1:
        order[:2] = [1, 0]
    shape = [1] * len(axes)
    for a, place in zip(axes, order, strict=True):
        shape[place] = a.size
    return tuple(
        broadcast_to(reshape(a, shape=[a.size if i == place else 1 for i in range(len(axes))]), shape=shape)
        for a, place in zip(axes, order, strict=True)
    )


def _triangular(x: Spec, *, k: int = 0) -> tuple[Spec, dict[str, Any]]:
    if x.ndim < 2:
        raise ShapeError("a triangle needs at least two axes")
    return x, {"k": normalize_integer("a diagonal", k)}


@composite(_triangular)
def tril(x: Tensor, *, k: int = 0) -> Tensor:
    """The lower triangle of matrices (..., n, m): zero above the k-th diagonal."""
    return where(logical_not(_above(x, k)), x, 0).astype(x.dtype)


@composite(_triangular)
def triu(x: Tensor, *, k: int = 0) -> Tensor:
    """The upper triangle of matrices (..., n, m): zero below the k-th diagonal."""
    return where(_above(x, k - 1), x, 0).astype(x.dtype)


def _above(x: Tensor, k: int) -> Tensor:
    rows, columns = iota(n=x.shape[-2], device=x.device), iota(n=x.shape[-1], device=x.device)
    return less(reshape(rows, shape=(-1, 1)) + k, columns)


def _hot(x: Spec, *, num_classes: int, dtype: DTypeLike = float32) -> tuple[Spec, dict[str, Any]]:
    if not x.dtype.is_integer:
        raise DtypeError(f"classes are integers, not {x.dtype}")
    n = normalize_integer("num_classes", num_classes)
    return x.like(shape=(*x.shape, n), dtype=to_dtype(dtype)), {"num_classes": n, "dtype": to_dtype(dtype)}


@composite(_hot)
def one_hot(x: Tensor, *, num_classes: int, dtype: DTypeLike = float32) -> Tensor:
    """1 at the place that each element names, 0 elsewhere; all 0 for a class outside of 0 ... num_classes - 1.

    Shapes:   x (*s) -> (*s, num_classes)
    """
    return equal(reshape(x, shape=(*x.shape, 1)), iota(n=num_classes, device=x.device)).astype(dtype)


# -- random numbers ---------------------------------------------------------------------------------------------------------


def _drawn(state: Spec, *, shape: Any, dtype: DTypeLike = int64) -> tuple[Spec, dict[str, Any]]:
    if state.shape != (2,) or state.dtype is not int64:
        raise ShapeError("the state of a generator is int64[2], its seed and its position")
    return state.like(shape=normalize_shape(shape), dtype=to_dtype(dtype)), {"shape": normalize_shape(shape)}


@primitive(_drawn)
def random_bits(state: Operand, *, shape: Any) -> Tensor:
    """Uniform integers in [0, 2^32), the words of a counter-based generator.

        word[i] = Philox4x32-10(key = seed, counter = (i // 4, position))[i % 4]

    The key is the seed, in two's complement, as (low, high) 32-bit words; the counter is (i // 4 low, i // 4 high,
    position low, position high).

    Shapes:   state (2) = (seed, position) -> `shape`, i counting in row-major order
    Dtypes:   int64 -> int64
    Source:   Salmon, Moraes, Dror & Shaw 2011, doi:10.1145/2063384.2063405
    """


def _drawn_floats(state: Spec, *, shape: Any, dtype: DTypeLike = float32) -> tuple[Spec, dict[str, Any]]:
    d = to_dtype(dtype)
    if d not in (float32, float64):
        raise DtypeError(f"random numbers are drawn in float32 or float64, not {d}", hint="draw float32, then astype")
    return _drawn(state, shape=shape, dtype=d)[0], {"shape": normalize_shape(shape), "dtype": d}


@composite(_drawn_floats)
def random_uniform(state: Tensor, *, shape: Any, dtype: DTypeLike = float32) -> Tensor:
    """Uniform numbers in [0, 1): multiples of 2^-24 in float32, of 2^-53 in float64 (from two words each).

    Shapes:   state (2) = (seed, position) -> `shape`
    """
    if dtype is float32:
        return (random_bits(state, shape=shape) // 256).astype(float32) * 2.0**-24
    words = random_bits(state, shape=(*shape, 2))
    return ((words[..., 0] // 32) * 2**26 + words[..., 1] // 64).astype(float64) * 2.0**-53


random_uniform.vjp(None)

# Coefficients of Wichura's AS 241, PPND16: numerator and denominator of each of the three ranges, lowest power first.
_MIDDLE = (
    (
        3.3871328727963666080e0,
        1.3314166789178437745e2,
        1.9715909503065514427e3,
        1.3731693765509461125e4,
        4.5921953931549871457e4,
        6.7265770927008700853e4,
        3.3430575583588128105e4,
        2.5090809287301226727e3,
    ),
    (
        1.0,
        4.2313330701600911252e1,
        6.8718700749205790830e2,
        5.3941960214247511077e3,
        2.1213794301586595867e4,
        3.9307895800092710610e4,
        2.8729085735721942674e4,
        5.2264952788528545610e3,
    ),
)
_OUTER = (
    (
        1.42343711074968357734e0,
        4.63033784615654529590e0,
        5.76949722146069140550e0,
        3.64784832476320460504e0,
        1.27045825245236838258e0,
        2.41780725177450611770e-1,
        2.27238449892691845833e-2,
        7.74545014278341407640e-4,
    ),
    (
        1.0,
        2.05319162663775882187e0,
        1.67638483018380384940e0,
        6.89767334985100004550e-1,
        1.48103976427480074590e-1,
        1.51986665636164571966e-2,
        5.47593808499534494600e-4,
        1.05075007164441684324e-9,
    ),
)
_FAR = (
    (
        6.65790464350110377720e0,
        5.46378491116411436990e0,
        1.78482653991729133580e0,
        2.96560571828504891230e-1,
        2.65321895265761230930e-2,
        1.24266094738807843860e-3,
        2.71155556874348757815e-5,
        2.01033439929228813265e-7,
    ),
    (
        1.0,
        5.99832206555887937690e-1,
        1.36929880922735805310e-1,
        1.48753612908506148525e-2,
        7.86869131145613259100e-4,
        1.84631831751005468180e-5,
        1.42151175831644588870e-7,
        2.04426310338993978564e-15,
    ),
)


@composite(_drawn_floats)
def random_normal(state: Tensor, *, shape: Any, dtype: DTypeLike = float32) -> Tensor:
    """Standard normal numbers: the inverse of the normal distribution function at uniform numbers of 53 bits.

    Every step is one of + - * / sqrt, floor and a comparison in float64, in this order and without contraction, so that all
    backends return the same bits.

    Shapes:   state (2) = (seed, position) -> `shape`
    Numerics: the inverse is good to 1e-15 relative; |y| is at most 8.3
    Source:   Wichura 1988, algorithm AS 241, doi:10.2307/2347330
    """
    p = maximum(random_uniform(state, shape=shape, dtype=float64), 2.0**-54)
    q = p - 0.5
    central = 0.180625 - q * q
    r = sqrt(-_log(where(less(q, 0), p, 1.0 - p)))
    tail = where(less(5.0, r), _ratio(_FAR, r - 5.0), _ratio(_OUTER, r - 1.6))
    return where(less(central, 0), where(less(q, 0), -tail, tail), _ratio(_MIDDLE, central) * q).astype(dtype)


def _ratio(coefficients: tuple[tuple[float, ...], tuple[float, ...]], x: Tensor) -> Tensor:
    """A quotient of two polynomials, each by Horner's rule."""
    numerator, denominator = (
        functools.reduce(lambda y, c: y * x + c, reversed(cs[:-1]), x * 0 + cs[-1]) for cs in coefficients
    )
    return numerator / denominator


def _log(p: Tensor) -> Tensor:
    """The natural logarithm of numbers in [2^-54, 1), by the series of 2 artanh((m - 1) / (m + 1)) for p = m 2^-e."""
    m, e = p, 0.0 * p
    for shift in (32, 16, 8, 4, 2, 1):
        small = less(m, 2.0**-shift)
        m, e = where(small, m * 2.0**shift, m), where(small, e + float(shift), e)
    small = less(m, math.sqrt(0.5))
    m, e = where(small, m * 2.0, m), where(small, e + 1.0, e)
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    series = functools.reduce(lambda y, k: y * z + 1.0 / (2 * k + 1), range(10, -1, -1), 0.0 * z)
    return 2.0 * s * series - e * math.log(2)


random_normal.vjp(None)


# -- devices ----------------------------------------------------------------------------------------------------------------


def _moved(x: Spec, *, device: Device) -> tuple[Spec, dict[str, Any]]:
    where = ndl.device(device)
    return Spec.of(x.shape, x.dtype, where), {"device": where}


@composite(_moved)
def to_device(x: Tensor, *, device: Device) -> Tensor:
    """A copy of x on `device`, through the memory of the host."""
    if mode.trace is not None:
        raise CompileError("a compiled function runs on one device", hint="move the tensor before the call")
    buffer = device.backend.from_numpy(x.device.backend.to_numpy(x.buffer), device)
    return tensor_of(Spec.of(x.shape, x.dtype, device), buffer)


to_device.vjp(lambda g, y, x, device: to_device(g, device=x.device))
