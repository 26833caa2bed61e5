"""The checks of an op against its declaration. Each raises a MismatchError, or returns.

A computed value may differ from the reference y, elementwise, by

    u (c |y| + t) + gamma(k) sum_j |dy/dx_j| |x_j|,    gamma(k) = k u / (1 - k u)

where u is the unit roundoff of the dtype, c and t are the `rounds` and `terms` of the declaration, and k is the number of
elements of the inputs that y depends on. The last term is what rounding each input, or each partial sum, can do: for a sum of
products it is the classical bound gamma(k) sum |a| |b|. The Jacobian dy/dx is taken from the reference, by complex step or by
Richardson's differences. Inputs are rounded to the dtype before the reference sees them, so their rounding does not count.

A gradient for cotangents g is checked in float64 against g J. Its scale is the greatest element of |g| |J|: those of g J hide
cancellation.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

import numpy as np

import needle_core as ndl
from needle_core.op import OPS
from needle_core.spec import DTYPES, DType
from needle_core.testing.layouts import LAYOUTS
from needle_core.testing.samples import COMPLEX, Array, Case, MismatchError, Refusal, Sample

ROUNDOFF: Final = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
LEAST: Final = {"float64": 2.0**-1074, "float32": 2.0**-149, "float16": 2.0**-24, "bfloat16": 2.0**-133}  # subnormal
GREATEST: Final = {"float64": 1.797e308, "float32": 3.402e38, "float16": 65504.0, "bfloat16": 3.389e38}
SPECIAL: Final = (0.0, -0.0, 1.0, -1.0, 0.5, 2.0, -3.0, np.inf, -np.inf, np.nan)
GRADIENT_ROUNDS: Final = 2.0**10  # units in the last place of |g| |J| that a rule may lose in float64
STEP: Final = 2.0**-8  # of differences; their error is of order STEP^4, estimated from those of STEP and STEP / 2


# -- inputs and outputs -----------------------------------------------------------------------------------------------------


def rounded(x: Array, dtype: DType) -> Array:
    """A drawn input in the dtype under test; integers and masks that are not under test stay."""
    if x.dtype.kind != "f":
        return x
    if dtype.is_floating:
        with np.errstate(over="ignore"):
            return x.astype(dtype.numpy)
    whole = np.rint(x).astype(np.int64)
    return (np.abs(whole) if dtype.kind == "uint" else whole).astype(dtype.numpy)


def widened(x: Array, floating: bool) -> Array:
    """As the reference takes it: bool and int64 where the result is not floating, else float64."""
    if x.dtype.kind in "biu" and not floating:
        return x if x.dtype.kind == "b" else x.astype(np.int64)
    return x.astype(np.float64)


def refer(case: Case, sample: Sample, arrays: Sequence[Array]) -> list[Array]:
    """The outputs of the reference."""
    with np.errstate(all="ignore"):
        result = case.reference(*arrays, **sample.arguments)
    return [np.asarray(y) for y in (result if isinstance(result, tuple) else (result,))]


def outputs(result: Any) -> list[ndl.Tensor]:
    return list(result) if isinstance(result, tuple) else [result]


def jacobian(case: Case, sample: Sample, arrays: Sequence[Array]) -> tuple[Array, Array]:
    """The derivatives of all floating outputs by all floating inputs, a matrix, and a bound of each one's own error."""
    moving = [i for i, x in enumerate(arrays) if x.dtype.kind == "f"]
    start = np.concatenate([np.ravel(arrays[i]) for i in moving])
    cuts = np.cumsum([arrays[i].size for i in moving])[:-1]

    def f(v: Array) -> Array:
        moved = list(arrays)
        for i, part in zip(moving, np.split(v, cuts), strict=True):
            moved[i] = part.reshape(arrays[i].shape)
        return np.concatenate([np.ravel(y) for y in refer(case, sample, moved) if y.dtype.kind in "fc"])

    columns = [_derivative(f, start, unit, case.gradient == COMPLEX) for unit in np.eye(start.size)]
    shape = (f(start).size, start.size)
    return tuple(np.array([c[k] for c in columns]).reshape(shape[::-1]).T for k in (0, 1))  # type: ignore[return-value]


def _derivative(f: Callable[[Array], Array], x: Array, d: Array, holomorphic: bool) -> tuple[Array, Array]:
    """The derivative of f at x in the direction d, and a bound of its error."""
    if holomorphic:
        slope = f(x + 1e-30j * d).imag / 1e-30
        return slope, np.zeros_like(slope)
    coarse, fine = ((f(x + h * d) - f(x - h * d)) / (2 * h) for h in (STEP, STEP / 2))
    noise = 2.0**-50 / STEP * (np.abs(f(x)) + 1)
    return (4 * fine - coarse) / 3, np.abs(fine - coarse) / 16 + noise


# -- checks -----------------------------------------------------------------------------------------------------------------


def check_forward(case: Case, sample: Sample, dtype: str, layout: str = "contiguous", *, body: bool = False) -> None:
    """Values, shapes and dtypes of the results; inputs unchanged. With `body`, of a composite's body instead of its kernel."""
    place = f"{case.name}/{'body' if body else 'forward'}/{sample}/{dtype}/{layout}"
    tensors = [LAYOUTS[layout](rounded(x, DTYPES[dtype])) for x in sample.draw(case.name)]
    before = [np.array(t.numpy()) for t in tensors]
    results = outputs(call_body(case.name, tensors, sample.arguments) if body else OPS[case.name](*tensors, **sample.arguments))
    if any(t.numpy().tobytes() != x.tobytes() for t, x in zip(tensors, before, strict=True)):
        raise MismatchError(f"{place}: an input was written")
    dtypes = results_of(case, dtype)
    arrays = [widened(x, i.kind == "real" and dtypes[0].is_floating) for x, i in zip(before, sample.inputs, strict=True)]
    expected = refer(case, sample, arrays)
    if len(results) != len(expected):
        raise MismatchError(f"{place}: {len(results)} results for {len(expected)}")
    with np.errstate(all="ignore"):
        bounds = _bounds(case, sample, arrays, expected, dtypes[0])
    dtypes = dtypes * len(expected) if len(dtypes) == 1 else dtypes
    for y, reference, d, bound in zip(results, expected, dtypes, bounds, strict=True):
        compare(place, y, reference, d, bound)


def results_of(case: Case, dtype: str) -> tuple[DType, ...]:
    """The dtypes of the results for inputs of `dtype`; one may stand for all."""
    declared = case.result(DTYPES[dtype])
    return declared if isinstance(declared, tuple) else (declared,)


def call_body(name: str, tensors: Sequence[ndl.Tensor], attrs: Any) -> Any:
    """A composite computed by its body, also where a backend has a kernel for it."""
    op = OPS[name]
    assert op.body is not None
    ready = [t.astype(d) for t, d in zip(tensors, op._promoted([t.dtype for t in tensors]), strict=True)]
    return op.body(*ready, **op.door(*(t.spec for t in ready), **attrs)[1])


def _bounds(case: Case, sample: Sample, arrays: list[Array], expected: list[Array], dtype: DType) -> list[Array]:
    """For each output the error that is allowed, elementwise."""
    if case.exact or not dtype.is_floating:
        return [np.zeros(y.shape) for y in expected]
    u = ROUNDOFF[dtype.name]
    conditions = iter(())
    if case.gradient is not None and any(x.dtype.kind == "f" for x in arrays):
        slopes = np.nan_to_num(np.abs(jacobian(case, sample, arrays)[0]), nan=0.0, posinf=0.0)  # a pole allows no error
        k = np.count_nonzero(slopes, axis=1)
        x = np.nan_to_num(np.abs(np.concatenate([np.ravel(x) for x in arrays if x.dtype.kind == "f"])), posinf=0.0)
        conditions = iter(k * u / (1 - k * u) * np.sum(slopes * x, axis=1))
    found = []
    for y in expected:
        rest = np.fromiter(conditions, float, y.size) if y.dtype.kind == "f" and case.gradient else np.zeros(y.size)
        found.append(u * (case.rounds * np.abs(y) + case.terms) + rest.reshape(y.shape) + 4 * LEAST[dtype.name])
    return found


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
        raise MismatchError(f"{place}: {values[i]!r} for {reference[i]!r} at {list(i)}, bound {float(bound[i]):.3g}")


def _agree(values: Array, reference: Array, dtype: DType, bound: Array) -> Array:
    """Where a result is what it should be: whole numbers modulo their range, others within the bound."""
    if dtype.kind == "bool":
        return np.asarray(values == reference)
    if not dtype.is_floating:
        return np.asarray(values == reference.astype(np.int64).astype(dtype.numpy))
    with np.errstate(all="ignore"):
        found, expected = values.astype(np.float64), reference.astype(dtype.numpy).astype(np.float64)
        same = (found == expected) | (np.isnan(found) & np.isnan(expected))
        near = np.isfinite(expected) & (np.abs(found - reference) <= bound)
        overflow = (
            np.isinf(found) & (np.abs(reference) + bound >= GREATEST[dtype.name]) & (np.sign(found) == np.sign(reference))
        )
        return np.asarray(same | near | overflow)


def check_gradient(case: Case, sample: Sample) -> None:
    """The gradients for random cotangents, of every input and of every subset of inputs, in float64."""
    place = f"{case.name}/gradient/{sample}"
    arrays = sample.draw(case.name)
    moving = [i for i, x in enumerate(arrays) if x.dtype.kind == "f"]
    slopes, doubt = jacobian(case, sample, arrays)
    for chosen in _subsets(moving):
        value, pull = ndl.vjp(_of(case, sample, arrays, chosen), *(ndl.Tensor(arrays[i]) for i in chosen))
        gs = cotangents(place, outputs(value))
        gradients = pull(tuple(gs) if isinstance(value, tuple) else gs[0])
        g = np.concatenate([np.ravel(c.numpy()) for c in gs if c.dtype.is_floating])
        sizes = np.cumsum([0, *(arrays[i].size for i in moving)])
        for i, gradient in zip(chosen, gradients, strict=True):
            part = slice(*sizes[moving.index(i) :][:2])
            scale = np.max(np.abs(g) @ np.abs(slopes[:, part]), initial=0)
            bound = ROUNDOFF["float64"] * GRADIENT_ROUNDS * scale + np.abs(g) @ doubt[:, part]
            expected = (g @ slopes[:, part]).reshape(arrays[i].shape)
            compare(
                f"{place}/input {i} of {chosen}", gradient, expected, DTYPES["float64"], bound.reshape(expected.shape) + 1e-300
            )


def check_second_order(case: Case, sample: Sample) -> None:
    """The gradient of the gradient, by inputs and cotangents, against differences of the gradient in random directions."""
    place = f"{case.name}/second order/{sample}"
    arrays = sample.draw(case.name)
    moving = [i for i, x in enumerate(arrays) if x.dtype.kind == "f"]
    f = _of(case, sample, arrays, moving)
    probe = f(*(ndl.Tensor(arrays[i]) for i in moving))
    gs = cotangents(place, outputs(probe))
    floating = [c.dtype.is_floating for c in gs]

    def first(*xs: ndl.Tensor) -> tuple[ndl.Tensor, ...]:
        given = iter(xs[len(moving) :])
        cs = [next(given) if is_floating else c for c, is_floating in zip(gs, floating, strict=True)]
        _, pull = ndl.vjp(f, *xs[: len(moving)])
        gradients: tuple[ndl.Tensor, ...] = pull(tuple(cs) if isinstance(probe, tuple) else cs[0])
        return gradients

    start = [arrays[i] for i in moving] + [c.numpy() for c, is_floating in zip(gs, floating, strict=True) if is_floating]
    value, pull = ndl.vjp(first, *map(ndl.Tensor, start))
    weights = cotangents(place + "/weights", list(value))
    second = [h.numpy() for h in pull(tuple(weights))]
    rng = np.random.default_rng(7)

    def weighted(directions: Sequence[Array], t: Array) -> Array:
        moved = [ndl.Tensor(x + t * d) for x, d in zip(start, directions, strict=True)]
        return np.array(sum(float((w.numpy() * y.numpy()).sum()) for w, y in zip(weights, first(*moved), strict=True)))

    for _ in range(2):
        directions = [rng.uniform(-1, 1, x.shape) for x in start]
        slope, doubt = _derivative(partial(weighted, directions), np.array(0.0), np.array(1.0), False)
        found = sum(float((h * d).sum()) for h, d in zip(second, directions, strict=True))
        scale = sum(float(np.abs(h * d).sum()) for h, d in zip(second, directions, strict=True))
        mass = sum(float(np.abs(w.numpy() * y.numpy()).sum()) for w, y in zip(weights, value, strict=True))
        bound = ROUNDOFF["float64"] * (GRADIENT_ROUNDS * scale + 8 / STEP * mass) + float(doubt)
        if not abs(found - float(slope)) <= bound:
            raise MismatchError(f"{place}: {found!r} for {float(slope)!r}, bound {bound:.3g}")


def check_gradient_dtypes(case: Case, sample: Sample, dtypes: Sequence[str]) -> None:
    """Inputs of these dtypes, one for each, get gradients of their own specs that are finite."""
    place = f"{case.name}/gradient dtypes/{sample}/{dtypes}"
    arrays = sample.draw(case.name)
    moving = [i for i, x in enumerate(arrays) if x.dtype.kind == "f"]
    tensors = [ndl.Tensor(arrays[i]).astype(d) for i, d in zip(moving, itertools.cycle(dtypes), strict=False)]
    value, pull = ndl.vjp(_of(case, sample, arrays, moving), *tensors)
    gs = cotangents(place, outputs(value))
    for t, gradient in zip(tensors, pull(tuple(gs) if isinstance(value, tuple) else gs[0]), strict=True):
        if gradient.spec is not t.spec or not np.isfinite(gradient.numpy().astype(np.float64)).all():
            raise MismatchError(f"{place}: the gradient of {t.spec} is {gradient}")


def check_special(case: Case, dtype: str) -> None:
    """Of an elementwise op: nan, infinities, zeros and numbers give the same class of result as in the reference."""
    place = f"{case.name}/special/{dtype}"
    count = len(case.samples[0].inputs)
    columns = [np.array(c, DTYPES[dtype].numpy) for c in zip(*itertools.product(SPECIAL, repeat=count), strict=True)]
    attrs = case.samples[0].arguments
    y = OPS[case.name](*map(ndl.Tensor, columns), **attrs).numpy()
    with np.errstate(all="ignore"):
        expected = np.asarray(case.reference(*(c.astype(np.float64) for c in columns), **attrs))
        narrow = expected.astype(y.dtype)
    for i in range(y.size):
        if _class(y[i]) != _class(narrow[i]):
            raise MismatchError(f"{place}: {y[i]!r} for {expected[i]!r} of {[c[i] for c in columns]}")


def _class(v: Any) -> tuple[bool, bool, float]:
    v = float(v)
    return np.isnan(v), np.isinf(v), 0.0 if np.isnan(v) or v == 0 else float(np.sign(v))


def check_refusal(name: str, refusal: Refusal) -> None:
    """A call that must fail does so with the right class, naming op and operands."""
    place = f"{name}/refusal/{refusal.sample}"
    tensors = [ndl.Tensor(rounded(x, DTYPES["float32"])) for x in refusal.sample.draw(name)]
    try:
        OPS[name](*tensors, **refusal.sample.arguments)
    except ndl.errors.NeedleError as error:
        text = str(error)
        if type(error) is not refusal.error or refusal.text not in text or not text.startswith(f"{name}: "):
            raise MismatchError(
                f"{place}: expected {refusal.error.__name__} {refusal.text!r}, got {type(error).__name__} {text}"
            ) from error
        if any(str(t.spec) not in text for t in tensors):
            raise MismatchError(f"{place}: the message does not show the operands: {text}") from error
    else:
        raise MismatchError(f"{place}: nothing was raised")


def _of(case: Case, sample: Sample, arrays: Sequence[Array], chosen: Sequence[int]) -> Callable[..., Any]:
    """The op as a function of the chosen inputs, the others fixed."""

    def f(*xs: ndl.Tensor) -> Any:
        full = [ndl.Tensor(x) for x in arrays]
        for i, x in zip(chosen, xs, strict=True):
            full[i] = x
        return OPS[case.name](*full, **sample.arguments)

    return f


def cotangents(seed: str, ys: Sequence[ndl.Tensor]) -> list[ndl.Tensor]:
    """Random tensors like `ys`; ones that are not floating, which have no cotangents, stand for themselves."""
    rng = np.random.default_rng(zlib.crc32(seed.encode()))
    return [ndl.Tensor(rng.standard_normal(y.shape)).astype(y.dtype) if y.dtype.is_floating else y for y in ys]


def _subsets(items: Sequence[int]) -> Iterator[list[int]]:
    """All non-empty ones."""
    for n in range(1, len(items) + 1):
        yield from map(list, itertools.combinations(items, n))
