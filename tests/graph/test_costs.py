"""What a report says of bytes, operations and time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core.graph import costs
from tests.graph.captures import graph_of


def of(*shape: int) -> ndl.Tensor:
    return ndl.Tensor(np.ones(shape, np.float32))


@pytest.mark.parametrize(
    ("function", "inputs", "operations", "nbytes"),
    [
        (lambda a, b: a @ b, [of(3, 4), of(4, 5)], 2 * 3 * 4 * 5, 4 * (12 + 20 + 15)),
        (lambda a, b: a @ b, [of(2, 3, 4), of(4, 5)], 2 * 2 * 3 * 4 * 5, 4 * (24 + 20 + 30)),
        (lambda a, b: a @ b, [of(4), of(4)], 2 * 4, 4 * 9),
        (lambda x: x + x, [of(6)], 6, 4 * 12),
        (lambda x: x.sum(), [of(6, 7)], 42, 4 * 43),
    ],
)
def test_costs_of_a_node(function: Callable[..., Any], inputs: list[ndl.Tensor], operations: int, nbytes: int) -> None:
    graph = graph_of(function, *inputs)
    assert sum(map(costs.operations, graph.nodes)) == operations
    assert sum(map(costs.nbytes, graph.nodes)) == nbytes


def test_a_report_lists_what_runs() -> None:
    step = ndl.compile(lambda x: ndl.exp(x @ x) * 2)
    step(of(100, 100))
    lines = step.report(instructions=True).splitlines()
    assert lines[-2].split() == ["80.0", "2.00", "matmul", "->", "float32[100,", "100]"]
    assert lines[-1].split() == ["80.0", "0.02", "exp", "multiply", "->", "float32[100,", "100]"]


def test_a_profile_leaves_state_alone_and_is_refused_where_nothing_is_measured() -> None:
    state = of(3)

    @ndl.compile
    def step(x: ndl.Tensor) -> ndl.Tensor:
        state.data = state + x
        return state * 2

    step(of(3))
    before = state.numpy().copy()
    report = step.report(profile=True)
    np.testing.assert_array_equal(state.numpy(), before)
    assert ("does not measure the time of each" in report) == (ndl.default_device().backend.name != "cpp")
