"""How many checks of each kind there must be: arithmetic over a declaration.

Nothing here is shared with what makes the checks, not even the word for which samples have gradients: a generator that gives
nothing, or less than it should, is noticed for that reason. Whoever adds a dtype, a layout or a shape counts it here too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np

from needle_core.op import OPS
from needle_core.testing.samples import Case, MismatchError, Sample

DTYPES: Final = 8
SINGLE: Final = {"float32", "float64"}
HALF: Final = {"float16", "bfloat16"}
LAYOUTS: Final = 5  # beside the contiguous one
RANKS: Final = 4  # 0 to 3


def promised_by_op(case: Case, *, quick: bool = False, alone: bool = False) -> Counter[str]:
    """How many checks of an op; `alone`, where there is no second device."""
    samples, dtypes = case.samples, set(case.dtypes)
    if not samples:
        raise MismatchError("the case has no samples")
    first = samples[0].inputs
    in_dtypes = [_dtypes(case, s, quick) for s in samples]
    floating = len(dtypes & (SINGLE if quick else SINGLE | HALF))
    smooth = [s for s in samples if s.smooth and _real(s)]
    gradients = len(smooth) if case.gradient else 0
    mixtures = bool(dtypes & {*SINGLE, "bfloat16"}) + ("float16" in dtypes and not quick)
    return Counter({
        "declaration": 1,
        "forward": sum(in_dtypes) + sum(_layouts(s, quick) for s in samples),
        "body": 0 if OPS[case.name].body is None else sum(in_dtypes),
        "special": floating * (1 if case.pointwise else sum(_elements(s) > 0 for s in smooth)),
        "empty": _sizes(samples),
        "broadcast": (RANKS if quick else RANKS**2) if case.pointwise and len(first) in (2, 3) else 0,
        "large": 0 if quick else len(case.large) + case.pointwise,
        "undeclared": DTYPES - len(dtypes) if any(map(_real, samples)) else 0,
        "scalars": _real(samples[0]) if case.pointwise and _real(samples[0]) > 1 else 0,
        "memory": len(samples),
        "repeat": 1,
        "gradient": gradients,
        "gradient dtypes": gradients * mixtures,
        "second order": gradients,
        "kink": len(case.kinks),
        "refusal": len(case.refusals),
        "arguments": 1,
        "devices": 0 if alone else int(any(len(s.inputs) > 1 for s in samples)),
    })  # fmt: skip


def promised_by_backend(*, quick: bool = False, alone: bool = False, counts_memory: bool = True) -> Counter[str]:
    """How many checks of a backend apart from its ops; `alone`, without a second device."""
    shapes, views, lent = 2 if quick else 7, 7, DTYPES - 1  # DLPack in NumPy knows no bfloat16
    return Counter({
        "transfer": DTYPES * shapes * views, "view": DTYPES * (LAYOUTS + 1), "devices": 0 if alone else DTYPES,
        "empty": DTYPES, "dlpack": lent * shapes * 2, "random": 6 * 5, "leaks": int(counts_memory), "threads": 1,
        "synchronize": 1,
    })  # fmt: skip


def _dtypes(case: Case, sample: Sample, quick: bool) -> int:
    """How many dtypes a sample is tested in: those that hold its numbers."""
    dtypes = set(case.dtypes)
    if not sample.smooth:
        numbers = [v for i in sample.inputs for v in i.values]
        dtypes = dtypes & (SINGLE | HALF) if any(isinstance(v, float) for v in numbers) else {"int64"}
    return len(dtypes & SINGLE) or min(len(dtypes), 1) if quick else len(dtypes)


def _layouts(sample: Sample, quick: bool) -> int:
    """How many layouts, with the one where each operand has another."""
    return ((2 if quick else LAYOUTS) + (len(sample.inputs) > 1)) if sample.inputs else 0


def _sizes(samples: Sequence[Sample]) -> int:
    """How many different sizes the sample with the most axes has, where it is smooth."""
    shapes = [[n for i in s.inputs for n in i.shape] if s.smooth else [] for s in samples]
    return len({*max(shapes, key=len)} - {0})


def _real(sample: Sample) -> int:
    """How many inputs take the dtype under test."""
    return [i.kind for i in sample.inputs].count("real")


def _elements(sample: Sample) -> int:
    return sum(int(np.prod(i.shape)) for i in sample.inputs)
