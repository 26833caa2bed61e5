"""Which checks follow from a declaration.

    declaration      that the gradients of an op which has them are checked
    forward          values, shapes and dtypes of each sample in each dtype, and in each layout
    body             the same of a composite's body, where a backend may have a kernel instead
    special          nan, infinities, zeros of both signs, the least and the greatest numbers
    empty            each size of a sample in turn set to 0
    broadcast        two or three operands of all pairs of ranks up to 3, and gradients summed back
    large            more elements than fit into 16 bits (not in `quick`)
    undeclared       dtypes that are not declared are refused
    scalars          Python numbers are weak
    memory           nothing read or written that should not be; no shared memory
    repeat           the same bits every time, in every thread
    gradient         against the derivatives of the reference; `gradient dtypes`, `second order`, and `kink`
    refusal          what is declared to fail does; `arguments` and `devices` are refused by every op alike

Each kind has a generator here; how many checks it must make, promises.py says, which knows nothing of this module. `quick`
takes two dtypes, two layouts and fewer pairs of shapes. The checks of a backend apart from its ops are those of transfers.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Final, TypeAlias

from needle_core.op import OPS
from needle_core.spec import DTYPES
from needle_core.tensor_op import TensorOp
from needle_core.testing.bounds import results_of
from needle_core.testing.gradients import (
    check_gradient,
    check_gradient_dtypes,
    check_kink,
    check_second_order,
)
from needle_core.testing.layouts import LAYOUTS
from needle_core.testing.memory import check_memory, check_repeat
from needle_core.testing.refusals import check_arguments, check_devices, check_refusal
from needle_core.testing.samples import COMPLEX, DIFFERENCES, FLOATING, Case, Check, MismatchError, Sample, Shape
from needle_core.testing.transfers import checks_of_backend, other_device
from needle_core.testing.values import (
    check_empty,
    check_forward,
    check_large,
    check_planted,
    check_scalar,
    check_special,
    check_undeclared,
    emptied,
)

__all__ = ["checks_of_backend", "checks_of_op"]

QUICK_DTYPES: Final = ("float32", "float64")
QUICK_LAYOUTS: Final = ("transposed", "stepped")
MIXTURES: Final = (("float16",), ("float32", "bfloat16", "float64"))
LEFT: Final[tuple[Shape, ...]] = ((), (4,), (1, 4), (2, 1, 4))  # by rank
RIGHT: Final[tuple[Shape, ...]] = ((), (1,), (3, 1), (1, 3, 1))
THIRD: Final[tuple[Shape, ...]] = ((), (4,), (3, 4), (2, 1, 1))
MANY: Final = 2**17 + 3


Generator: TypeAlias = Callable[[Case, int, bool], Iterator[Check]]


def checks_of_op(case: Case, seed: int = 0, *, quick: bool = False) -> Iterator[Check]:
    """All checks of one op on the default device."""
    for make in GENERATORS:
        yield from make(case, seed, quick)


# -- choices of dtypes, layouts and samples -----------------------------------------------------------------------------------


def _dtypes(case: Case, sample: Sample, quick: bool) -> Sequence[str]:
    dtypes = case.dtypes_of(sample)
    return [d for d in dtypes if d in QUICK_DTYPES] or dtypes[:1] if quick else dtypes


def _main(case: Case, sample: Sample) -> str:
    """The dtype to check in what does not depend on it."""
    dtypes = case.dtypes_of(sample)
    return "float32" if "float32" in dtypes else dtypes[0]


def _layouts(sample: Sample, quick: bool) -> Sequence[str]:
    if not sample.inputs:
        return []
    names = QUICK_LAYOUTS if quick else [name for name in LAYOUTS if name != "contiguous"]
    return [*names, *(["mixed"] if len(sample.inputs) > 1 else [])]


def _reals(sample: Sample) -> int:
    """The number of inputs that take the dtype under test."""
    return sum(i.kind == "real" for i in sample.inputs)


def _smooth(case: Case) -> list[Sample]:
    return [s for s in case.samples if s.smooth and _reals(s)] if case.gradient else []


def _largest(case: Case) -> Sample:
    return max(case.samples, key=lambda s: s.size)


def _check(case: Case, kind: str, sample: object, *rest: str, run: Callable[[], None], size: int = 0) -> Check:
    return Check("/".join([case.name, kind, str(sample), *rest]), run, size or getattr(sample, "size", 0))


# -- the declaration --------------------------------------------------------------------------------------------------------


def _declaration(case: Case, seed: int, quick: bool) -> Iterator[Check]:
    yield _check(case, "declaration", "gradient", run=partial(check_declaration, case))


def check_declaration(case: Case) -> None:
    """Gradients that an op has are checked, or the case says why not."""
    place = f"{case.name}/declaration/gradient"
    if case.gradient is None:
        if (source := _source_of_gradients(case)) and not case.undifferentiated.strip():
            raise MismatchError(
                f"{place}: the op has {source}, and its case has no `gradient`, so that nobody checks it: COMPLEX or "
                "DIFFERENCES says how; or `undifferentiated` says why not"
            )
    elif case.gradient not in (COMPLEX, DIFFERENCES):
        raise MismatchError(f"{place}: `gradient` is {case.gradient!r}, and not COMPLEX or DIFFERENCES")
    elif case.undifferentiated:
        raise MismatchError(f"{place}: the case has a `gradient`, and says in `undifferentiated` that there is none")
    elif not _plantable(case):
        raise MismatchError(f"{place}: no sample has a gradient: one is needed that is drawn, with `real`, and not empty")


def _source_of_gradients(case: Case) -> str:
    """What gives the op gradients; empty if nothing does."""
    op = OPS[case.name]
    if isinstance(op, TensorOp):
        return "a `gradient`" if type(op).gradient is not TensorOp.gradient else ""
    if op.joint is not None:
        return "a joint rule"
    if op.rules is not None:
        return "gradient rules" if any(op.rules) else ""
    flows = any(d in FLOATING and any(r.is_floating for r in results_of(case, s, d))
                for s in case.samples if _reals(s) for d in case.dtypes)  # fmt: skip
    return "a body, through which gradients flow" if op.body is not None and flows else ""


# -- values -----------------------------------------------------------------------------------------------------------------


def _forward(case: Case, seed: int, quick: bool) -> Iterator[Check]:
    for s in case.samples:
        places = [(d, "contiguous") for d in _dtypes(case, s, quick)] + [(_main(case, s), name) for name in _layouts(s, quick)]
        for dtype, layout in places:
            run = partial(check_forward, case, s, dtype, layout, seed=seed)
            yield _check(case, "forward", s, dtype, layout, run=run)


def _body(case: Case, seed: int, quick: bool) -> Iterator[Check]:
    if OPS[case.name].body is None:
        return
    for s in case.samples:
        for dtype in _dtypes(case, s, quick):
            run = partial(check_forward, case, s, dtype, body=True, seed=seed)
            yield _check(case, "body", s, dtype, "contiguous", run=run)


def _special(case: Case, seed: int, quick: bool) -> Iterator[Check]:
    if case.pointwise:
        for dtype in _floating(case, quick):
            yield _check(case, "special", "each with each", dtype, run=partial(check_special, case, dtype))
    else:
        for s in _plantable(case):
            for dtype in _floating(case, quick):
                yield _check(case, "special", s, dtype, run=partial(check_planted, case, s, dtype, seed))


def _floating(case: Case, quick: bool) -> list[str]:
    return [d for d in case.dtypes if d in (QUICK_DTYPES if quick else FLOATING)]


def _plantable(case: Case) -> list[Sample]:
    return [s for s in case.samples if s.smooth and _reals(s) and s.size]


def _empty(case: Case, seed: int, quick: bool) -> Iterator[Check]:
    widest, sizes = _sizes(case)
    for size in sizes:
        s = emptied(widest, size)
        yield _check(case, "empty", s, f"for {size}", _main(case, s), run=partial(check_empty, case, s, _main(case, s), seed))


def _sizes(case: Case) -> tuple[Sample, list[int]]:
    """The sample with the most axes, and the sizes of its axes."""
    widest = max(case.samples, key=lambda s: s.smooth * sum(len(i.shape) for i in s.inputs))
    return widest, sorted({n for i in widest.inputs for n in i.shape if n and widest.smooth})


def _broadcast(case: Case, seed: int, quick: bool) -> Iterator[Check]:
    for shapes in _pairs(case, quick):
        first = case.samples[0]
        s = replace(first, inputs=tuple(replace(i, shape=x) for i, x in zip(first.inputs, shapes, strict=False)))
        yield _check(case, "broadcast", s, run=partial(_check_broadcast, case, s, seed))


def _check_broadcast(case: Case, sample: Sample, seed: int) -> None:
    check_forward(case, sample, _main(case, sample), seed=seed)
    if case.gradient:
        check_gradient(case, sample, seed)


def _pairs(case: Case, quick: bool) -> list[tuple[Shape, Shape, Shape]]:
    """Shapes of two operands, and of a third if there is one."""
    if not case.pointwise or len(case.samples[0].inputs) not in (2, 3):
        return []
    pairs = itertools.product(range(4), repeat=2)
    return [(LEFT[p], RIGHT[q], THIRD[(p + q) % 4]) for p, q in pairs if not quick or p + q == 3]


def _large(case: Case, seed: int, quick: bool) -> Iterator[Check]:
    for s in _many(case, quick):
        dtype = _main(case, s) if case.exact or case.pointwise or "float64" not in case.dtypes else "float64"
        yield _check(case, "large", s, dtype, run=partial(check_large, case, s, dtype, seed))


def _many(case: Case, quick: bool) -> list[Sample]:
    if quick:
        return []
    first = case.samples[0]
    flat = replace(first, inputs=tuple(replace(i, shape=(MANY,)) for i in first.inputs))
    return [*case.large, *([flat] if case.pointwise else [])]


def _undeclared(case: Case, seed: int, quick: bool) -> Iterator[Check]:
    for dtype in DTYPES:
        if dtype not in case.dtypes and any(map(_reals, case.samples)):
            yield _check(case, "undeclared", dtype, run=partial(check_undeclared, case, dtype, seed))


def _scalars(case: Case, seed: int, quick: bool) -> Iterator[Check]:
    if case.pointwise and _reals(case.samples[0]) > 1:
        for i, given in enumerate(case.samples[0].inputs):
            if given.kind == "real":
                yield _check(case, "scalars", f"operand {i}", run=partial(check_scalar, case, i, seed))


# -- memory -----------------------------------------------------------------------------------------------------------------


def _memory(case: Case, seed: int, quick: bool) -> Iterator[Check]:
    for s in case.samples:
        dtype = _main(case, s)
        yield _check(case, "memory", s, dtype, run=partial(check_memory, case, s, dtype, seed))


def _repeat(case: Case, seed: int, quick: bool) -> Iterator[Check]:
    s = _largest(case)
    dtype = _main(case, s)
    yield _check(case, "repeat", s, dtype, run=partial(check_repeat, case, s, dtype, seed))


# -- gradients --------------------------------------------------------------------------------------------------------------


def _gradient(case: Case, seed: int, quick: bool) -> Iterator[Check]:
    for s in _smooth(case):
        yield _check(case, "gradient", s, "float64", run=partial(check_gradient, case, s, seed))


def _second_order(case: Case, seed: int, quick: bool) -> Iterator[Check]:
    for s in _smooth(case):
        yield _check(case, "second order", s, "float64", run=partial(check_second_order, case, s, seed))


def _gradient_dtypes(case: Case, seed: int, quick: bool) -> Iterator[Check]:
    for s in _smooth(case):
        for dtypes in _mixtures(case, quick):
            run = partial(check_gradient_dtypes, case, s, dtypes, seed)
            yield _check(case, "gradient dtypes", s, " ".join(dtypes), run=run)


def _mixtures(case: Case, quick: bool) -> list[list[str]]:
    known = [[d for d in mixture if d in case.dtypes] for mixture in (MIXTURES[1:] if quick else MIXTURES)]
    return [mixture for mixture in known if mixture]


def _kinks(case: Case, seed: int, quick: bool) -> Iterator[Check]:
    for kink in case.kinks:
        yield _check(case, "kink", kink, run=partial(check_kink, case, kink))


# -- refusals ---------------------------------------------------------------------------------------------------------------


def _refusals(case: Case, seed: int, quick: bool) -> Iterator[Check]:
    for number, refusal in enumerate(case.refusals):
        run = partial(check_refusal, case.name, refusal, seed)
        yield _check(case, "refusal", refusal.sample, f"{number} {refusal.error.__name__}", run=run)


def _arguments(case: Case, seed: int, quick: bool) -> Iterator[Check]:
    yield _check(case, "arguments", case.samples[0], run=partial(check_arguments, case, seed))


def _devices(case: Case, seed: int, quick: bool) -> Iterator[Check]:
    if any(len(s.inputs) > 1 for s in case.samples) and other_device() is not None:
        yield _check(case, "devices", "two", run=partial(check_devices, case, seed))


GENERATORS: Final[tuple[Generator, ...]] = (
    _declaration, _forward, _body, _special, _empty, _broadcast, _large, _undeclared, _scalars, _memory, _repeat, _gradient,
    _gradient_dtypes, _second_order, _kinks, _refusals, _arguments, _devices,
)  # fmt: skip
"""In the order of running."""
