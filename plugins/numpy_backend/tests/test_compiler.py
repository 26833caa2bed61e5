"""Plans on NumPy: random programs in blocks of a few elements give the bits of eager calls, and keep what others hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import needle_core as ndl
from needle_core.op import KERNELS, OPS
from needle_core.spec import DTYPES
from needle_core.testing import CASES
from needle_core.testing.programs import random_program
from needle_numpy_backend import compiler


@pytest.fixture(autouse=True, scope="module")
def small_blocks() -> Any:
    """Whatever has eight elements runs in blocks of three."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "BLOCK", 3)
        patch.setattr(compiler, "LARGE", 8)
        yield


def bits(y: ndl.Tensor) -> tuple[Any, bytes]:
    return y.spec, y.numpy().tobytes()


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32), st.booleans())
def test_random_programs_in_blocks_give_the_same_bits(seed: int, samples: bool) -> None:
    program = random_program(seed, samples=samples)
    tensors = [ndl.Tensor(x) for x in program.inputs]
    expected = [bits(y) for y in program(*tensors)]
    step = ndl.compile(program)
    for _ in range(2):
        assert [bits(y) for y in step(*tensors)] == expected
    for t, array in zip(tensors, program.inputs, strict=True):
        assert t.numpy().tobytes() == array.tobytes()


@settings(max_examples=500, deadline=None)
@given(st.integers(0, 2**32))
def test_random_programs_that_assign_their_state_in_blocks(seed: int) -> None:
    program = random_program(seed, samples=False)
    runs = []
    for wrap in (lambda f: f, ndl.compile):
        state = [ndl.Tensor(x.copy()) for x in program.inputs]

        def step(state: list[ndl.Tensor] = state) -> None:
            made = program(*state)
            for t in state:
                new = next((y for y in made if y.spec is t.spec), None)
                if new is not None:
                    t.data = new

        run = wrap(step)
        for _ in range(3):
            run()
        runs.append([bits(t) for t in state])
    assert runs[0] == runs[1]


@pytest.mark.parametrize("shape", [(1,), (1, 1), ()])
def test_operands_of_one_element_are_broadcast_in_blocks(shape: tuple[int, ...]) -> None:
    x, one = ndl.Tensor(np.arange(20.0).reshape(4, 5)), ndl.full(shape, 0.5, dtype="float64")
    step = ndl.compile(lambda x, one: ndl.sin(x * one) + one)
    assert bits(step(x, one)) == bits(ndl.sin(x * one) + one)


def test_a_kernel_that_gives_its_operand_back_keeps_it() -> None:
    """floor of integers does: what lies there must not be written over while it is needed."""
    x = ndl.Tensor(np.arange(10))

    def function(x: ndl.Tensor) -> ndl.Tensor:
        y = ndl.floor(x + 1)
        return y * 2 + y

    assert bits(ndl.compile(function)(x)) == bits(function(x))

    @ndl.compile
    def step() -> None:
        y = ndl.floor(x)
        x.data = x * 2
        x.data = x + y

    step()
    assert x.tolist() == (3 * np.arange(10)).tolist()


def test_the_kernels_that_return_memory_of_an_operand_are_known() -> None:
    found = set()
    for name, case in CASES.items():
        for sample in case.samples if (name, "numpy") in KERNELS else ():
            for dtype in case.dtypes_of(sample):
                drawn = zip(sample.inputs, sample.draw(name), strict=True)
                with np.errstate(all="ignore"):
                    tensors = [ndl.Tensor(x.astype(DTYPES[dtype].numpy) if i.kind == "real" else x) for i, x in drawn]
                made = OPS[name](*tensors, **sample.arguments)
                for y in made if isinstance(made, tuple) else (made,):
                    if y.spec.size and any(np.may_share_memory(y.numpy(), t.numpy()) for t in tensors):
                        found.add(name)
    assert found == compiler.VIEWS


def test_a_view_of_state_is_read_before_the_state_is_written() -> None:
    """A plan gives each value memory of its own; NumPy transposes by a view."""
    a, b = (ndl.Tensor(np.arange(20.0).reshape(4, 5)) for _ in range(2))
    turned = ndl.Tensor(np.zeros((5, 4)))

    @ndl.compile
    def step() -> ndl.Tensor:
        turned.data = a.T
        rows = b.reshape(5, 4)
        a.data = a * 2 + 1
        b.data = b * 2 + 1
        return rows * turned

    first = np.arange(20.0).reshape(4, 5)
    for _ in range(3):
        made = step().numpy()
        np.testing.assert_array_equal(turned.numpy(), first.T)
        np.testing.assert_array_equal(made, first.reshape(5, 4) * first.T)
        first = first * 2 + 1
        np.testing.assert_array_equal(a.numpy(), first)
        np.testing.assert_array_equal(b.numpy(), first)
