"""Rows that are gone along several times: along any axes, held in registers or read again, over their operands."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core.backend import device
from needle_core.spec import DTYPES, DType, Spec, bfloat16, float32
from needle_cuda_backend.body import recipe_of_rows
from needle_cuda_backend.recipe import Call, Launch, Recipe

RNG = np.random.default_rng(0)
SHAPES: list[Any] = [
    ((5, 24), (1,)), ((5, 25), (1,)), ((2, 40_000), (1,)), ((3, 257, 4), (1,)), ((70, 3), (0,)), ((3, 4, 6), (0, 2)),
    ((7, 1), (1,)), ((2, 3, 8, 4), (1, 2)), ((24,), (0,)), ((6, 300, 1), (1,)), ((0, 3), (1,)),
]  # fmt: skip


def passes(call: Call) -> Recipe:
    """Three reductions, each of what the one before has given, an elementwise result and one of rows."""
    over: Any = {"axes": call.attrs["axes"], "keepdims": True}

    def function(x: ndl.Tensor) -> tuple[ndl.Tensor, ...]:
        e = ndl.exp(x - ndl.max(x, **over))
        share = e / ndl.sum(e, **over)
        squares = ndl.sum(share * share, **over)
        return share - squares, ndl.sqrt(squares) * 2

    return recipe_of_rows(call, function)


def expected(x: Any, axes: tuple[int, ...]) -> list[Any]:
    wide = x.astype(np.float64)
    e = np.exp(wide - wide.max(axes, keepdims=True)) if x.size else wide
    share = e / e.sum(axes, keepdims=True)
    squares = (share * share).sum(axes, keepdims=True)
    return [share - squares, 2 * np.sqrt(squares)]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("over", [{}, {0: 0}])
def test_rows_are_gone_along_as_often_as_they_ask_for(simulated: Any, case: Any, dtype: str, fixed: bool, over: Any) -> None:
    """One of them has a nan, of which the others hear nothing."""
    cases, wanted = [], []
    for shape, axes in SHAPES:
        x = RNG.normal(size=shape).astype(DTYPES[dtype].numpy)
        if x.size and len(shape) > 1:
            x[(1,) * len(shape) if min(shape) > 1 else (0,) * len(shape)] = np.nan
        values = expected(x, axes)
        rows = values[1].shape
        cases.append(case(passes, [x], {"axis": axes}, op="softmax", fixed=fixed, over=over, outputs=[rows]))
        wanted.append(values)
    eps = {"bfloat16": 2**-8, "float32": 2**-22, "float64": 2**-50}[dtype]
    for ys, zs in zip(simulated.results(cases), wanted, strict=True):
        for y, z in zip(ys, zs, strict=True):
            np.testing.assert_allclose(y.astype(np.float64), z, rtol=4 * eps, atol=4 * eps)


@pytest.mark.parametrize(
    ("shape", "dtype", "fixed", "lanes", "packs"),
    [
        ((4096, 256), float32, True, 32, 2),
        ((4096, 256), bfloat16, True, 32, 1),
        ((4096, 4000), float32, True, 128, 8),
        ((4096, 40_000), float32, True, 512, 0),
        ((4096, 256), float32, False, 32, 0),
    ],
)
def test_what_is_read_again_stays_in_registers_if_it_fits(
    shape: tuple[int, ...], dtype: DType, fixed: bool, lanes: int, packs: int
) -> None:
    x = Spec.of(shape, dtype, device("numpy"))
    (launch,) = passes(Call((x,), (x, x.like(shape=(shape[0], 1))), {"axes": (1,)}, fixed)).operations
    assert isinstance(launch, Launch)
    assert launch.block[0] == lanes
    assert (f"h0[{packs}];" in launch.entry.body) is (packs > 0)
    assert launch.entry.body.count("load_pack") == (1 if packs else 4)


def test_one_source_serves_rows_of_all_lengths_in_eager_calls() -> None:
    calls = [Spec.of(shape, float32, device("numpy")) for shape in ((3, 8), (7, 1000), (5, 40_000))]
    made = [passes(Call((x,), (x, x.like(shape=(x.shape[0], 1))), {"axes": (1,)})) for x in calls]
    assert len({x.operations[0].entry for x in made}) == 1
