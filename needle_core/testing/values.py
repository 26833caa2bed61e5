"""Checks of values: against the reference, in every dtype and layout, of special numbers, of nothing and of very much."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

import numpy as np

import needle_core as ndl
from needle_core.errors import KernelError, NeedleError
from needle_core.op import OPS
from needle_core.spec import DTYPES, DType
from needle_core.testing.bounds import (
    GREATEST,
    LEAST,
    bounds,
    compare,
    compare_classes,
    derivative,
    expect,
    gamma,
    outputs,
    refer,
    results_of,
    rounded,
    roundoff,
)
from needle_core.testing.layouts import LAYOUTS
from needle_core.testing.samples import COMPLEX, Array, Case, Input, MismatchError, Sample

SPECIAL: Final = (0.0, -0.0, 1.0, -1.0, 0.5, 2.0, -3.0, np.inf, -np.inf, np.nan)
MIXED: Final = ("repeated", "contiguous", "transposed")
"""The layouts of the first, second and third input."""
PLANTED: Final = (np.nan, np.inf, -np.inf, -0.0)


def check_forward(
    case: Case, sample: Sample, dtype: str, layout: str = "contiguous", *, body: bool = False, seed: int = 0
) -> None:
    """Values, shapes and dtypes of the results; inputs unchanged. With `body`, of a composite's body instead of its kernel."""
    place = f"{case.name}/{'body' if body else 'forward'}/{sample}/{dtype}/{layout}"
    names = (
        [layout] * len(sample.inputs)
        if layout != "mixed"
        else list(itertools.islice(itertools.cycle(MIXED), len(sample.inputs)))
    )
    drawn = [rounded(x, DTYPES[dtype]) for x in sample.draw(case.name, seed)]
    tensors = [LAYOUTS[name](x) for name, x in zip(names, drawn, strict=True)]
    before = [np.array(t.numpy()) for t in tensors]
    op = OPS[case.name]
    results = outputs((op.run_body if body else op)(*tensors, **sample.arguments))
    if any(t.numpy().tobytes() != x.tobytes() for t, x in zip(tensors, before, strict=True)):
        raise MismatchError(f"{place}: an input was written")
    expected = expect(case, sample, before, dtype)
    arrays = [x.astype(np.float64) if i.kind == "real" else x for x, i in zip(before, sample.inputs, strict=True)]
    allowed = bounds(case, sample, arrays, expected, dtype)
    for y, reference, d, bound in _paired(place, results, expected, results_of(case, sample, dtype), allowed):
        compare(place, y, reference, d, bound)


def _paired(
    place: str, results: list[ndl.Tensor], expected: list[Array], dtypes: tuple[DType, ...], bounds: Sequence[Any]
) -> Iterator[tuple[ndl.Tensor, Array, DType, Any]]:
    """Results with what is expected of each."""
    if len(results) != len(expected):
        raise MismatchError(f"{place}: {len(results)} results for {len(expected)}")
    return zip(results, expected, dtypes * len(expected) if len(dtypes) == 1 else dtypes, bounds, strict=True)


# -- special numbers --------------------------------------------------------------------------------------------------------


def check_special(case: Case, dtype: str) -> None:
    """Of a pointwise op: nan, infinities, zeros of both signs, the least and the greatest numbers, each with each.

    The results are of the same class as in the reference: nan, infinite, zero or another number, of the same sign.
    """
    place = f"{case.name}/special/each with each/{dtype}"
    first = case.samples[0]
    numbers = (*SPECIAL, *(sign * v for v in (LEAST[dtype], 64 * LEAST[dtype], GREATEST[dtype]) for sign in (1, -1)))
    tables = [(False, True) if i.kind == "mask" else numbers for i in first.inputs]
    columns = [
        np.array(column).astype(DTYPES[dtype].numpy if i.kind == "real" else bool)
        for column, i in zip(zip(*itertools.product(*tables), strict=True), first.inputs, strict=True)
    ]
    sample = Sample(tuple(Input((len(columns[0]),), kind=i.kind) for i in first.inputs), first.attrs, smooth=False)
    _compare_classes(place, case, sample, columns, dtype)


def check_planted(case: Case, sample: Sample, dtype: str, seed: int = 0) -> None:
    """Nan, infinities and -0.0, one at a time at a random place of each input, show in the results as in the reference."""
    numbers = [v for v in PLANTED if np.isfinite(v) or not (sample.finite or (case.lax and np.isinf(v)))]
    for i, given in enumerate(sample.inputs):
        for number in numbers if given.kind == "real" and np.prod(given.shape) else ():
            arrays = [rounded(x, DTYPES[dtype]) for x in sample.draw(case.name, seed)]
            target = arrays[i] = np.array(arrays[i])
            target.reshape(-1)[np.random.default_rng(seed).integers(target.size)] = number
            _compare_classes(f"{case.name}/special/{sample}/{dtype}: {number} in input {i}", case, sample, arrays, dtype)


def _compare_classes(place: str, case: Case, sample: Sample, arrays: list[Array], dtype: str) -> None:
    results = outputs(OPS[case.name](*map(ndl.Tensor, arrays), **sample.arguments))
    expected = expect(case, sample, arrays, dtype)
    for y, reference, _, _ in _paired(place, results, expected, results_of(case, sample, dtype), results):
        compare_classes(place, y, reference, either_zero=bool(case.either_zero), sums=not case.pointwise)


# -- nothing, and very much -------------------------------------------------------------------------------------------------


def emptied(sample: Sample, size: int) -> Sample:
    """The sample with 0 in place of `size` in all shapes."""
    inputs = [replace(i, shape=tuple(0 if n == size else n for n in i.shape)) for i in sample.inputs]
    return replace(sample, inputs=tuple(inputs))


def check_empty(case: Case, sample: Sample, dtype: str, seed: int = 0) -> None:
    """A sample with empty axes is refused, if the reference refuses it, or else gives what the reference gives."""
    place = f"{case.name}/empty/{sample}/{dtype}"
    arrays = [rounded(x, DTYPES[dtype]) for x in sample.draw(case.name, seed)]
    try:
        refer(case, sample, [x.astype(np.float64) if x.dtype.kind == "f" else x for x in arrays])
    except (ValueError, IndexError, TypeError) as reason:
        _check_refused(place, case, sample, arrays, reason)
    else:
        check_forward(case, sample, dtype, seed=seed)


def _check_refused(place: str, case: Case, sample: Sample, arrays: list[Array], reason: Exception) -> None:
    try:
        OPS[case.name](*map(ndl.Tensor, arrays), **sample.arguments)
    except KernelError as error:
        raise MismatchError(f"{place}: the kernel failed, and the op should have refused: {error.summary}") from error
    except NeedleError:
        return
    if isinstance(reason, IndexError) and not ndl.default_device().backend.host:
        return  # indices are looked at where it costs nothing
    raise MismatchError(f"{place}: nothing was raised, and the reference says {reason}")


def check_large(case: Case, sample: Sample, dtype: str, seed: int = 0) -> None:
    """More elements than fit into 16 bits, against the reference.

    In place of the Jacobian's rows stand the derivatives at each place of a pointwise op, and the reference of absolute values
    of others, which for sums, means and products of matrices is the same.
    """
    place = f"{case.name}/large/{sample}/{dtype}"
    arrays = [rounded(x, DTYPES[dtype]) for x in sample.draw(case.name, seed)]
    results = outputs(OPS[case.name](*map(ndl.Tensor, arrays), **sample.arguments))
    expected = expect(case, sample, arrays, dtype)
    result = results_of(case, sample, dtype)[0]
    scales: list[Array] = [np.zeros(y.shape) for y in expected]
    if result.is_floating and not case.exact:
        u = roundoff(case, result)
        if case.pointwise:
            terms, sums = len(arrays), list(_sensitivities(case, sample, arrays))
        else:
            terms, sums = max(x.size for x in arrays), expect(case, sample, [np.abs(x) for x in arrays], dtype)
        own, sum_of = u * case.rounds, gamma(terms, u)
        scales = [own * np.abs(y) + u * case.terms + sum_of * s for y, s in zip(expected, sums, strict=True)]
    for y, reference, d, bound in _paired(place, results, expected, results_of(case, sample, dtype), scales):
        compare(place, y, reference, d, bound)


def _sensitivities(case: Case, sample: Sample, arrays: list[Array]) -> Array:
    """sum_i |dy/dx_i| |x_i| of a pointwise op at each place, a row for each output, 0 if it has no derivative."""
    total: Any = np.zeros((len(_moved(case, sample, arrays, 0, arrays[0])), 1))
    for i, x in enumerate(arrays):
        if case.gradient is not None and x.dtype.kind == "f":
            wide = x.astype(np.float64)
            slopes, _ = derivative(partial(_moved, case, sample, arrays, i), wide, np.ones(x.shape), case.gradient == COMPLEX)
            total = total + np.abs(slopes * wide)
    return np.asarray(total)


def _moved(case: Case, sample: Sample, arrays: list[Array], i: int, x: Array) -> Array:
    """The outputs of the reference, one on top of the other, with `x` in the place of input i."""
    return np.array(refer(case, sample, [*arrays[:i], x, *arrays[i + 1 :]]))


# -- dtypes -----------------------------------------------------------------------------------------------------------------


def check_undeclared(case: Case, dtype: str, seed: int = 0) -> None:
    """Inputs of a dtype that is not declared are refused."""
    sample = next(s for s in case.samples if any(i.kind == "real" for i in s.inputs))
    tensors = [ndl.Tensor(rounded(x, DTYPES[dtype])) for x in sample.draw(case.name, seed)]
    try:
        results = outputs(OPS[case.name](*tensors, **sample.arguments))
    except ndl.errors.DtypeError:
        return
    raise MismatchError(f"{case.name}/undeclared/{sample}/{dtype}: it gave {', '.join(str(y.spec) for y in results)}")


def check_scalar(case: Case, i: int, seed: int = 0) -> None:
    """A Python number in place of operand `i` takes the dtype of the tensors beside it: the results are the same."""
    first = case.samples[0]
    single = replace(first.inputs[i], shape=(), values=())
    sample = replace(first, inputs=(*first.inputs[:i], single, *first.inputs[i + 1 :]))
    for dtype, number in (("float16", 1.5), ("float64", 1.5), ("float32", 2), ("int32", 2), ("uint8", 1)):
        if dtype not in case.dtypes:
            continue
        tensors = [ndl.Tensor(rounded(x, DTYPES[dtype])) for x in sample.draw(case.name, seed)]
        results = []
        for operand in (number, ndl.Tensor(number, dtype=dtype)):
            given = [*tensors[:i], operand, *tensors[i + 1 :]]
            results.append(outputs(OPS[case.name](*given, **sample.arguments)))
        for weak, strong in zip(*results, strict=True):
            if weak.spec is not strong.spec or weak.numpy().tobytes() != strong.numpy().tobytes():
                place = f"{case.name}/scalars/operand {i}/{dtype}"
                raise MismatchError(f"{place}: {number!r} gives {weak}, and as a tensor {strong}")
