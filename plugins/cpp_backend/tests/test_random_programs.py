"""Random programs on this backend: against NumPy, and compiled against eager. `make fuzz EXAMPLES=10000` tries many."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import needle_core as ndl
from needle_core.op import forget_all
from needle_core.testing.layouts import LAYOUTS
from needle_core.testing.programs import random_program
from needle_core.testing.suite import on

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES") or 100)
EXACT = 2**22
"""Whole numbers up to which float32 adds and multiplies a few without rounding."""
FORMS = [name for name in LAYOUTS if name != "repeated"]  # which has other values


@pytest.fixture(autouse=True)
def nothing_is_kept() -> Iterator[None]:
    """Ops remember nothing when a test ends: thousands of programs have been seen."""
    yield
    forget_all()


def small(x: np.ndarray) -> bool:  # type: ignore[type-arg]
    """Whether all numbers are exact whatever the order of additions was."""
    with np.errstate(invalid="ignore"):
        return x.dtype.kind != "f" or bool((np.abs(x.astype(np.float64)) < EXACT).all())


@settings(deadline=None, max_examples=EXAMPLES)
@given(st.integers(0, 2**32), st.lists(st.sampled_from(FORMS), min_size=16, max_size=16), st.integers(1, 3))
def test_random_programs_give_what_numpy_gives(seed: int, forms: list[str], threads: int) -> None:
    ndl.set_num_threads(threads)
    program = random_program(seed, whole=True)
    with on("numpy"):
        values = [y.numpy() for y in program.values(*map(ndl.Tensor, program.inputs))]
    first = next((i for i, y in enumerate(values) if not small(y)), len(values))  # what comes after may be made of it
    program.outputs = [i for i in program.outputs if i < first] or [0] * bool(first)
    if not first:
        return
    inputs = [LAYOUTS[forms[i % len(forms)]](x) for i, x in enumerate(program.inputs)]
    for run in (program, ndl.compile(program)):
        for i, y in zip(program.outputs, run(*inputs), strict=True):
            np.testing.assert_array_equal(y.numpy(), values[i])


@settings(deadline=None, max_examples=EXAMPLES)
@given(st.integers(0, 2**32))
def test_random_programs_give_the_same_bits_compiled(seed: int) -> None:
    program = random_program(seed)
    inputs = [*map(ndl.Tensor, program.inputs)]
    compiled = ndl.compile(program)
    for y, z, again in zip(program(*inputs), compiled(*inputs), compiled(*inputs), strict=True):
        assert z.numpy().tobytes() == again.numpy().tobytes()
        np.testing.assert_array_equal(z.numpy(), y.numpy())
