"""How far a computed value may be from its reference.

A computed value may differ from the reference y, elementwise, by

    u (c |y| + t) + gamma(k) sum_j |dy/dx_j| |x_j|,    gamma(k) = k u / (1 - k u)

where u is the unit roundoff of the dtype, c and t are the `rounds` and `terms` of the declaration, and k is the number of
elements of the inputs that y depends on. The last term is what rounding each input, or each partial sum, can do: for a sum of
products it is the classical bound gamma(k) sum |a| |b|, with the u of float32 where half precision accumulates in it. The
Jacobian dy/dx is taken from the reference, by complex step or by Romberg's differences; at a pole it counts as zero. Inputs
are rounded to the dtype before the reference sees them, so their rounding does not count.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import numpy as np

import needle_core as ndl
from needle_core.spec import DTYPES, DType
from needle_core.testing.samples import COMPLEX, Array, Case, MismatchError, Sample

ROUNDOFF: Final = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
LEAST: Final = {"float64": 2.0**-1074, "float32": 2.0**-149, "float16": 2.0**-24, "bfloat16": 2.0**-133}  # subnormal
GREATEST: Final = {
    "float64": (2 - 2.0**-52) * 2.0**1023, "float32": (2 - 2.0**-23) * 2.0**127, "float16": 65504.0,
    "bfloat16": (2 - 2.0**-7) * 2.0**127,
}  # fmt: skip
STEP: Final = 2.0**-7  # of differences, halved twice; the error that is left is of order STEP^6
NOISE: Final = 2.0**5 / STEP  # what roundings of f do to such a difference, in units of u (|f| + 1)
POLE: Final = 1e12  # a derivative greater than this, and than this times |y / x|, is a pole, a branch point or no real number

# -- the reference ----------------------------------------------------------------------------------------------------------


def rounded(x: Array, dtype: DType) -> Array:
    """A drawn input in the dtype under test; integers and masks that are not under test stay."""
    if x.dtype.kind != "f":
        return x
    if dtype.is_floating:
        with np.errstate(over="ignore"):
            return x.astype(dtype.numpy)
    whole = np.rint(x).astype(np.int64)
    return (np.abs(whole) if dtype.kind == "uint" else whole).astype(dtype.numpy)


def widened(x: Array, result: DType) -> Array:
    """As the reference takes it: float64 where the result is floating, else int64, or bool if the result is one."""
    if x.dtype.kind == "b" and not result.is_integer and not result.is_floating:
        return x
    return x.astype(np.int64 if x.dtype.kind in "biu" and not result.is_floating else np.float64)


def results_of(case: Case, sample: Sample, dtype: str) -> tuple[DType, ...]:
    """The dtypes of the results for inputs of `dtype`; one may stand for all. An attribute `dtype` says it itself."""
    declared = DTYPES[sample.attrs["dtype"]] if "dtype" in sample.attrs else case.result(DTYPES[dtype])
    return declared if isinstance(declared, tuple) else (declared,)


def refer(case: Case, sample: Sample, arrays: Sequence[Array]) -> list[Array]:
    """The outputs of the reference."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # "Mean of empty slice" is no matter of errstate
        result = case.reference(*arrays, **sample.arguments)
    return [np.asarray(y) for y in (result if isinstance(result, tuple) else (result,))]


def expect(case: Case, sample: Sample, arrays: Sequence[Array], dtype: str) -> list[Array]:
    """The outputs of the reference for inputs of an op as they are in `dtype`."""
    result = results_of(case, sample, dtype)[0]
    kinds = [i.kind for i in sample.inputs]
    return refer(case, sample, [widened(x, result) if k == "real" else x for x, k in zip(arrays, kinds, strict=True)])


def outputs(result: Any) -> list[ndl.Tensor]:
    return list(result) if isinstance(result, tuple) else [result]


# -- its derivatives --------------------------------------------------------------------------------------------------------


def jacobian(case: Case, sample: Sample, arrays: Sequence[Array]) -> tuple[Array, Array]:
    """The derivatives of all floating outputs by all floating inputs, a matrix, and a bound of each one's own error.

    The last ones are remembered, for the checks of a sample in its layouts need the same.
    """
    key = (case.reference, case.gradient, str(sample), *((x.dtype.str, x.shape, x.tobytes()) for x in arrays))
    if key not in _jacobians:
        if len(_jacobians) >= 64:
            _jacobians.clear()
        _jacobians[key] = _differentiated(case, sample, arrays)
    return _jacobians[key]


_jacobians: dict[Any, tuple[Array, Array]] = {}


def _differentiated(case: Case, sample: Sample, arrays: Sequence[Array]) -> tuple[Array, Array]:
    moving = [i for i, x in enumerate(arrays) if x.dtype.kind == "f"]
    start = np.concatenate([np.ravel(arrays[i]) for i in moving])
    cuts = np.cumsum([arrays[i].size for i in moving])[:-1]

    def f(v: Array) -> Array:
        moved = list(arrays)
        for i, part in zip(moving, np.split(v, cuts), strict=True):
            moved[i] = part.reshape(arrays[i].shape)
        return np.concatenate([np.ravel(y) for y in refer(case, sample, moved) if y.dtype.kind in "fc"])

    columns = [derivative(f, start, unit, case.gradient == COMPLEX) for unit in np.eye(start.size)]
    shape = (f(start).size, start.size)
    return tuple(np.array([c[k] for c in columns]).reshape(shape[::-1]).T for k in (0, 1))  # type: ignore[return-value]


def derivative(f: Callable[[Array], Array], x: Array, d: Array, holomorphic: bool) -> tuple[Array, Array]:
    """The derivative of f at x in the direction d, and a bound of its error."""
    if holomorphic:
        slope = f(x + 1e-30j * d).imag / 1e-30
        return slope, np.zeros_like(slope)
    first, second, third = ((f(x + h * d) - f(x - h * d)) / (2 * h) for h in (STEP, STEP / 2, STEP / 4))
    coarse, fine = (4 * second - first) / 3, (4 * third - second) / 3
    slope = (16 * fine - coarse) / 15
    return slope, np.abs(slope - fine) + NOISE * ROUNDOFF["float64"] * (np.abs(f(x)) + 1)


# -- the bound --------------------------------------------------------------------------------------------------------------


def gamma(k: Any, u: float) -> Any:
    """What k roundings, one after the other, can do."""
    return k * u / (1 - k * u)


def bounds(case: Case, sample: Sample, arrays: Sequence[Array], expected: Sequence[Array], dtype: str) -> list[Array]:
    """For each output the error that is allowed, elementwise, where `arrays` are what the reference took."""
    result = results_of(case, sample, dtype)[0]
    if case.exact or not result.is_floating:
        return [np.zeros(y.shape) for y in expected]
    u = roundoff(case, result)
    conditions: Iterable[float] = ()
    with np.errstate(all="ignore"):
        if case.gradient is not None and any(x.dtype.kind == "f" for x in arrays):
            slopes = np.abs(jacobian(case, sample, arrays)[0])
            x = np.nan_to_num(np.abs(np.concatenate([np.ravel(x) for x in arrays if x.dtype.kind == "f"])), posinf=0.0)
            y = np.abs(np.concatenate([np.ravel(y) for y in expected if y.dtype.kind == "f"]))
            poles = ~np.isfinite(slopes) | (slopes > POLE) & (slopes > POLE * (y[:, None] / x))
            slopes[poles] = 0  # they allow no error
            k = np.count_nonzero(slopes, axis=1)[:, None]
            summing = min(u, ROUNDOFF["float32"]) if case.accumulates and result.name not in case.roundoff else u
            each = gamma(k, summing) * x  # first, for slopes * x may overflow
            conditions = np.sum(slopes * each, axis=1)
        rest, found = iter(conditions), []
        for y in expected:
            moved = y.dtype.kind == "f" and case.gradient is not None
            extra = np.fromiter(rest, float, y.size) if moved else np.zeros(y.size)
            found.append(u * case.rounds * np.abs(y) + u * case.terms + extra.reshape(y.shape) + 4 * LEAST[result.name])
    return found


def roundoff(case: Case, dtype: DType) -> float:
    """The unit roundoff of an op in `dtype`, which a plugin may have declared greater than the dtype's own."""
    return case.roundoff.get(dtype.name, ROUNDOFF[dtype.name])


# -- the comparison ---------------------------------------------------------------------------------------------------------


def compare(place: str, y: ndl.Tensor, reference: Array, dtype: DType, bound: Array) -> None:
    """One result against its reference: dtype and shape, infinities and nans alike, and no error above the bound."""
    if y.dtype is not dtype or y.shape != reference.shape:
        raise MismatchError(f"{place}: the result is {y.dtype}{list(y.shape)}, not {dtype}{list(reference.shape)}")
    values = y.numpy()
    if values.dtype != dtype.numpy or values.shape != y.shape:
        raise MismatchError(f"{place}: the buffer is {values.dtype}{list(values.shape)}, the spec {y.spec}")
    wrong = np.argwhere(~_agree(values, reference, dtype, bound))
    if len(wrong):
        i = tuple(wrong[0].tolist())
        raise MismatchError(f"{place}: {values[i]!s} for {reference[i]!s} at {list(i)}, bound {float(bound[i]):.3g}")


def _agree(values: Array, reference: Array, dtype: DType, bound: Array) -> Array:
    """Where a result is what it should be: whole numbers modulo their range, others within the bound."""
    return np.asarray(error_ratio(values, reference, dtype, bound) <= 1)


def error_ratio(values: Array, reference: Array, dtype: DType, bound: Array) -> Array:
    """Each error over its bound: 0 for what is the same, infinite for a wrong whole number, nan or infinity."""
    if dtype.kind == "bool":
        return np.where(values == reference, 0.0, np.inf)
    if not dtype.is_floating:
        return np.where(values == reference.astype(np.int64).astype(dtype.numpy), 0.0, np.inf)
    with np.errstate(all="ignore"):
        found, expected = values.astype(np.float64), reference.astype(dtype.numpy).astype(np.float64)
        same = (found == expected) | (np.isnan(found) & np.isnan(expected))
        overflow = (
            np.isinf(found) & (np.abs(reference) + bound >= GREATEST[dtype.name]) & (np.sign(found) == np.sign(reference))
        )
        ratio = np.where(np.isfinite(found) & np.isfinite(expected), np.abs(found - reference) / bound, np.inf)
        return np.where(same | overflow, 0.0, ratio)


def compare_classes(place: str, y: ndl.Tensor, reference: Array, *, either_zero: bool, sums: bool) -> None:
    """Each element is nan, infinite, zero or another number as in the reference, of the same sign.

    Next to the least and the greatest number of the dtype, rounding may carry it over. With `either_zero`, zeros may have
    any sign; with `sums`, terms may cancel, so that small numbers may be zero or have another sign.
    """
    values, name = y.numpy(), y.dtype.name
    if not y.dtype.is_floating:
        compare(place, y, reference, y.dtype, np.zeros(reference.shape))
        return
    with np.errstate(all="ignore"):
        found, expected = values.astype(np.float64), reference.astype(y.dtype.numpy).astype(np.float64)
    size = np.abs(np.nan_to_num(reference.astype(np.float64), posinf=np.inf, neginf=-np.inf))
    edge = 16 * ROUNDOFF[name]
    alike = np.isinf(found) == np.isinf(expected)
    alike |= np.isfinite(reference) & (GREATEST[name] * (1 - edge) <= size) & (size / (1 + edge) <= GREATEST[name])
    zeros = (found == 0) & (expected == 0)
    if sums:
        alike &= (np.signbit(found) == np.signbit(expected)) | (np.isfinite(found) & ~zeros) | (either_zero & zeros)
    else:
        alike &= ((found == 0) == (expected == 0)) | ((size > 0) & (size <= 4 * LEAST[name]))
        alike &= (np.signbit(found) == np.signbit(expected)) | (either_zero & zeros)
    wrong = np.argwhere(~np.where(np.isnan(found) | np.isnan(expected), np.isnan(found) & np.isnan(expected), alike))
    if len(wrong):
        i = tuple(wrong[0].tolist())
        raise MismatchError(f"{place}: {values[i]!s} for {reference[i]!s} at {list(i)}")
