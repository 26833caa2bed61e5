"""Expression programs as CUDA C: from which template, how wide, how split; and what they give on the simulated device."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import needle_core as ndl
from needle_core.backend import device
from needle_core.graph.program import Instruction, Load, Program, Store
from needle_core.graph.single_ops import programs_of
from needle_core.spec import DTYPES, DType, Spec, bfloat16, float16, float32, float64, int32
from needle_cuda_backend.element import literal
from needle_cuda_backend.loops import recipe_of, recipe_of_many
from needle_cuda_backend.recipe import Launch, Place, Recipe
from needle_cuda_backend.unit import source_of


def spec(*shape: int, dtype: DType = float32) -> Spec:
    return Spec.of(shape, dtype, device("numpy"))


def recipe(name: str, *inputs: Spec, y: Spec, fixed: bool = True, **attrs: Any) -> Recipe:
    """The recipe of an op that is one program."""
    (program,) = programs_of(name, inputs, [y], attrs) or ()
    return recipe_of(program, fixed)


def bodies(made: Recipe) -> list[str]:
    return [x.entry.body for x in made.operations]


@pytest.mark.parametrize(
    ("a", "b", "width"),
    [
        (spec(4, 64), spec(4, 64), 4),
        (spec(4, 64), spec(64), 4),
        (spec(4, 64), spec(4, 1), 4),
        (spec(4, 6), spec(6), 2),
        (spec(4, 7), spec(7), 1),
        (spec(4, 64, dtype=float16), spec(64, dtype=float16), 8),
        (spec(4, 64, dtype=float64), spec(64, dtype=float64), 2),
    ],
)
def test_elements_go_by_16_bytes_where_all_operands_allow(a: Spec, b: Spec, width: int) -> None:
    (body,) = bodies(recipe("add", a, b, y=a))
    assert f"v < {width};" in body
    assert f"load_pack<{width}>" in body


def test_axes_become_one_where_all_operands_allow() -> None:
    (body,) = bodies(recipe("exp", spec(4, 5, 64), y=spec(4, 5, 64)))
    assert "i0" in body
    assert "i1" not in body
    (body,) = bodies(recipe("add", spec(4, 5, 64), spec(4, 1, 64), y=spec(4, 5, 64)))
    assert "i2" in body


def test_one_source_serves_eager_calls_of_all_shapes() -> None:
    shapes = [(3, 5), (1, 1), (7, 300), (2, 3, 4), (5, 1)]
    entries = {recipe("add", spec(*s), spec(s[-1]), y=spec(*s), fixed=False).operations[0].entry for s in shapes}
    assert len(entries) <= 2


def test_moves_of_elements_of_one_size_are_one_kernel() -> None:
    made = [recipe("permute_dims", spec(4, 5, dtype=d), y=spec(5, 4, dtype=d), axes=(1, 0)) for d in (float32, int32)]
    assert made[0].operations[0].entry == made[1].operations[0].entry


def test_places_beyond_31_bits_are_counted_in_64() -> None:
    (small,) = bodies(recipe("exp", spec(2**20), y=spec(2**20)))
    (large,) = bodies(recipe("exp", spec(2**31), y=spec(2**31)))
    assert small.startswith("using Index = int;")
    assert large.startswith("using Index = int64;")


@pytest.mark.parametrize(("shape", "axes", "launches"), [((4096, 64), (1,), 1), ((2, 2**20), (1,), 2), ((2**20,), (0,), 2)])
def test_long_rows_are_split_and_their_parts_combined(shape: tuple[int, ...], axes: tuple[int, ...], launches: int) -> None:
    kept = tuple(n for i, n in enumerate(shape) if i not in axes)
    made = recipe("sum", spec(*shape), y=spec(*kept), axes=axes, keepdims=False)
    assert len(made.operations) == launches
    assert (made.scratch > 0) is (launches > 1)


def test_parts_of_all_reductions_are_combined_at_once() -> None:
    stores = tuple(Store(i, 0, float32, name, (1,)) for i, name in enumerate(("sum", "max", "mean")))
    made = recipe_of(Program((2, 2**20), (Load(0, float32, (2**20, 1)),), (), (), stores), fixed=True)
    assert len(made.operations) == 2


def test_what_is_stored_as_it_is_comes_last_for_it_may_lie_over_operands() -> None:
    """A program with a reduction over each end, and a store that may be in place."""
    program = Program(
        (32, 64),
        (Load(0, float32, (64, 1)),),
        (),
        (Instruction("exp", (0,), {}, float32),),
        (Store(0, 1, float32), Store(1, 1, float32, "sum", (1,)), Store(2, 1, float32, "sum", (0,))),
    )
    made = recipe_of(program, fixed=True)
    assert [Place("output") in x.arguments for x in made.operations] == [False, True]


def test_nothing_runs_for_no_elements() -> None:
    assert recipe("exp", spec(0, 3), y=spec(0, 3)).operations == []
    assert recipe("sum", spec(3, 0), y=spec(0), axes=(0,), keepdims=False).operations == []
    assert len(recipe("sum", spec(3, 0), y=spec(3), axes=(1,), keepdims=False).operations) == 1


@pytest.mark.parametrize(
    ("value", "dtype", "text"),
    [
        (0.1, float32, "0x1.99999a0000000p-4f"),
        (0.1, float64, "0x1.999999999999ap-4"),
        (math.inf, float32, "float(INFINITE)"),
        (-math.inf, float64, "double(-INFINITE)"),
        (math.nan, bfloat16, "float(__int_as_float(0x7fc00000))"),
        (-(2**63), ndl.int64, "int64(-9223372036854775807LL - 1)"),
        (True, ndl.bool_, "true"),
        (3, ndl.uint8, "uint8(3LL)"),
    ],
)
def test_numbers_are_written_exactly(value: Any, dtype: DType, text: str) -> None:
    assert literal(value, dtype) == text


def test_a_source_has_each_entry_once_and_names_differ_by_content() -> None:
    operations = [*recipe("exp", spec(8), y=spec(8)).operations, *recipe("exp", spec(8), y=spec(8)).operations]
    operations += recipe("exp", spec(16), y=spec(16)).operations
    source = source_of(x.entry for x in operations)
    assert source.count('extern "C" __global__') == 2
    assert len({x.entry.name for x in operations if isinstance(x, Launch)}) == 2


Array = npt.NDArray[Any]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(3, 5), (64, 48), (1, 4096), (4096, 1), (5, 1, 7), (200, 33)])
@pytest.mark.parametrize("axis", [0, -1])
def test_fused_programs_compute_what_their_ops_do(dtype: str, shape: tuple[int, ...], axis: int, cuda: ndl.Device) -> None:
    """With an elementwise result, and reductions of it, against float64."""
    rng = np.random.default_rng(0)
    x, b = rng.normal(size=shape), rng.normal(size=shape[-1:])
    kind = DTYPES[dtype]

    def function(x: ndl.Tensor, b: ndl.Tensor) -> tuple[ndl.Tensor, ...]:
        y = ndl.tanh(x * b + 1)
        return y, y.sum(axis), ndl.max(y, axis=axis), ndl.mean(y)

    x, b = (ndl.Tensor(v, device=cuda, dtype=kind) for v in (x, b))
    found = ndl.compile(function)(x, b)
    wide = [v.numpy().astype(np.float64) for v in (x, b)]
    y = np.tanh(wide[0] * wide[1] + 1)
    unit = {"float16": 2**-11, "bfloat16": 2**-8, "float32": 2**-24, "float64": 2**-53}[dtype]
    expected = (y, y.sum(axis), y.max(axis), y.mean())
    counts = (1, shape[axis], 1, 1)
    for z, wanted, n in zip(found, expected, counts, strict=True):
        bound = 8 * unit * max(1.0, float(np.abs(wanted).max()), n * 1.0)
        np.testing.assert_allclose(z.numpy().astype(np.float64), wanted, rtol=0, atol=bound)


@pytest.mark.parametrize(("shape", "axis"), [((3, 70_001), 1), ((5000, 3), 0), ((2, 20_000, 4), (0, 1))])
def test_chunks_of_rows_and_columns_make_one_result(shape: tuple[int, ...], axis: Any, cuda: ndl.Device) -> None:
    """Of all kinds, beside what is elementwise and what is made of a row that is no reduction."""
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    x[-1, -1] = 7
    over = {"axis": axis}

    def function(x: ndl.Tensor) -> tuple[ndl.Tensor, ...]:
        y = x * 2
        whole = (y, y.sum(**over), ndl.mean(y, **over), ndl.max(y, **over), ndl.min(y, **over))
        return (*whole, ndl.any(x > 6, **over), ndl.all(x < 6, **over), ndl.max(x > 6, **over), ndl.prod(1 + x * 1e-3, **over))

    found = [y.numpy() for y in ndl.compile(function)(ndl.Tensor(x, device=cuda))]
    wide = x.astype(np.float64)
    y = 2 * wide
    for a, b in zip(found[:5], (y, y.sum(axis), y.mean(axis), y.max(axis), y.min(axis)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-3)
    for a, b in zip(found[5:8], ((x > 6).any(axis), (x < 6).all(axis), (x > 6).any(axis)), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(found[8], (1 + wide * 1e-3).prod(axis), rtol=1e-2)


def test_random_numbers_are_those_of_numpy_bit_for_bit(cuda: ndl.Device) -> None:
    def drawn(where: Any) -> list[bytes]:
        generator = ndl.random.Generator(7, device=where)
        draw: Callable[..., Any] = ndl.compile(lambda: (generator.uniform(5, 7), generator.normal(4, 3)))
        return [t.numpy().tobytes() for _ in range(3) for t in draw()]

    assert drawn(cuda) == drawn("numpy")


def test_members_of_one_launch_move_with_their_recipe() -> None:
    program = Program((5,), (Load(0, float32, (1,)),), (), (), (Store(0, 0, float32),))
    recipe = Recipe(scratch=256)
    recipe.then(
        recipe_of_many([program, program]), [Place("input", 7), Place("scratch")], [Place("output", 3), Place("input", 2)]
    )
    (many,) = recipe.operations
    assert many.members == (((Place("input", 7), Place("output", 3)), 5), ((Place("scratch"), Place("input", 2)), 5))
