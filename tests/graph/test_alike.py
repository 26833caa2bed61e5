"""Nodes that may run as one: found where a plan has them one after the other, and only where their order does not matter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import needle_core as ndl
from needle_core.graph.alike import alike
from needle_core.graph.graph import Graph
from needle_core.graph.passes import optimized
from needle_core.graph.plan import Plan, planned
from needle_core.testing.interpreter import interpreted
from tests.graph.captures import graph_of, identity, of

pytestmark = pytest.mark.skipif(
    "not __import__('needle_core').default_device().backend.host", reason="the interpreter lays values out in NumPy's memory"
)


def square(n: int) -> ndl.Tensor:
    return of(np.arange(n * n).reshape(n, n) / n**2)


def plan_of(function: Any, *tensors: ndl.Tensor, replaced: dict[int, int] | None = None) -> Plan:
    return planned(optimized(graph_of(function, *tensors)), replaced or {})


def shapes(made: Plan) -> list[list[tuple[int, ...]]]:
    """Of each group the shapes of what its nodes give."""
    return [[node.outputs[0].spec.shape for node in group] for group in alike(made)]


def test_updates_of_parameters_are_one_group_whatever_their_shapes_and_what_lies_between() -> None:
    def update(rate: ndl.Tensor, *tensors: ndl.Tensor) -> Any:
        parameters, gradients = tensors[:4], tensors[4:]
        new = [w - rate * g for w, g in zip(parameters, gradients, strict=True)]
        return new[0], new[1] * 2 - 1, new[2], new[3]

    parameters = [of(np.ones(shape)) for shape in ((3, 4), (3,), (2, 3), (5, 1, 2))]
    made = plan_of(update, of(0.5), *parameters, *parameters, replaced={k: 1 + k for k in range(4)})
    assert shapes(made) == [[(3, 4), (2, 3), (5, 1, 2)]]


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda a, b: (a * 2 + 1, b * 3 + 1), id="another number"),
        pytest.param(lambda a, b: (a * 2 + 1, b * 2 - 1), id="another op"),
        pytest.param(lambda a, b: (a * 2 + 1, b.astype("float64") * 2 + 1), id="another dtype"),
        pytest.param(lambda a, b: ((a * 2).sum(axis=0), (b * 2).sum(axis=0)), id="reductions"),
        pytest.param(lambda a, b: (a * 2 + a[0], b * 2 + b[0]), id="an input is broadcast"),
    ],
)
def test_other_nodes_are_in_no_group(function: Any) -> None:
    assert shapes(plan_of(function, square(3), square(4))) == []


def test_a_node_is_not_beside_one_whose_operand_it_overwrites() -> None:
    """The second result lies in the arena where the first one's operand was, which the first node alone needs."""

    def function(a: ndl.Tensor, b: ndl.Tensor) -> Any:
        x, y = a @ a, b @ b
        return x * 2 + 1, (y * 2 + 1) @ y

    made = plan_of(function, square(3), square(3))
    first, second = (node for node in made.graph.nodes if node.name == "fused")
    assert made.memory[second.outputs[0]] == made.memory[first.inputs[0]]
    assert shapes(made) == []


USES = st.sampled_from(["returned", "new state", "multiplied", "multiplied by its operand"])


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), USES), min_size=2, max_size=6))
def test_nodes_of_a_group_may_run_in_any_order(uses: list[tuple[int, str]]) -> None:
    def function(*tensors: ndl.Tensor) -> Any:
        products = [x @ x for x in tensors]
        made = [p * 0.5 + 1 for p in products]
        ways = {"multiplied": lambda i: made[i] @ tensors[i], "multiplied by its operand": lambda i: made[i] @ products[i]}
        return [ways.get(use, made.__getitem__)(i) for i, (_, use) in enumerate(uses)]

    tensors = [square(n) for n, _ in uses]
    made = plan_of(function, *tensors, replaced={i: i for i, (_, use) in enumerate(uses) if use == "new state"})
    assert numbers(turned(made), tensors) == numbers(made, tensors)


def numbers(made: Plan, tensors: Sequence[ndl.Tensor]) -> list[Any]:
    return [identity(y) for y in interpreted(made)(*(t.numpy().copy() for t in tensors))]


def turned(made: Plan) -> Plan:
    """The plan with each group from last to first."""
    nodes = list(made.graph.nodes)
    for group in alike(made):
        first = nodes.index(group[0])
        assert nodes[first : first + len(group)] == group
        nodes[first : first + len(group)] = group[::-1]
    return replace(made, graph=Graph(made.graph.inputs, nodes, made.graph.outputs))
