"""Fused nodes, their programs, and the memory plan: checked on random programs, run by an interpreter in poisoned memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st

import needle_core as ndl
from needle_core.graph.executor import executor, kernel_of
from needle_core.graph.graph import Fused, Graph, Node, Output
from needle_core.graph.memory import ALIGNMENT, arena
from needle_core.graph.passes import optimized
from needle_core.graph.plan import Plan, planned
from needle_core.graph.program import Instruction, Load, Store, program_of, program_of_graph
from needle_core.testing.interpreter import interpreted
from tests.graph.captures import graph_of, identity, of, ops_of, random_graph

SQUARE = of(np.arange(9).reshape(3, 3))
SEEDS = st.integers(0, 2**32)

pytestmark = pytest.mark.skipif(
    "not __import__('needle_core').default_device().backend.host", reason="the interpreter lays values out in NumPy's memory"
)


def plan_of(function: Callable[..., Any], *tensors: ndl.Tensor, replaced: dict[int, int] | None = None) -> Plan:
    return planned(optimized(graph_of(function, *tensors)), replaced or {})


def names(graph: Graph) -> list[str]:
    return [node.name for node in graph.nodes]


def only_fused(graph: Graph) -> Fused:
    (node,) = [node for node in graph.nodes if isinstance(node, Fused)]
    return node


# -- fusion -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        pytest.param(lambda x: ndl.exp(x * 2 + 1), ["fused"], id="a chain"),
        pytest.param(lambda x: x + 1, ["add"], id="one alone stays"),
        pytest.param(lambda x: (x * 2 + x[0]).sum(), ["strided_slice", "reshape", "fused"], id="broadcast, all reduced"),
        pytest.param(lambda x: (x * 2).sum(axis=0), ["fused"], id="leading axes reduced"),
        pytest.param(lambda x: (x * 2).max(axis=1), ["fused"], id="trailing axes reduced"),
        pytest.param(lambda x: (ndl.broadcast_to(x * 2, shape=(2, 3, 3)) + 1).sum(axis=1),
                     ["multiply", "broadcast_to", "add", "sum"], id="an axis in the middle is not"),
        pytest.param(lambda x: ndl.softmax(x * 2 + 1, axis=-1), ["fused", "softmax"], id="other ops stay between"),
        pytest.param(lambda x: x * 2 - (x * 2).max(axis=1, keepdims=True), ["fused", "subtract"],
                     id="a reduction ends its group"),
        pytest.param(lambda x: ndl.exp((x * 2) @ x) + x * 2, ["multiply", "matmul", "fused"], id="what others read is ready"),
        pytest.param(lambda x: (ndl.exp(x) * 2, ndl.sin(x) * 3), ["fused", "fused"], id="groups that do not meet"),
    ],
)  # fmt: skip
def test_groups_of_elementwise_nodes_are_fused(function: Callable[[ndl.Tensor], Any], expected: list[str]) -> None:
    assert names(plan_of(function, SQUARE).graph) == expected


def test_a_fused_node_gives_what_others_read_and_nothing_else() -> None:
    def function(x: ndl.Tensor) -> Any:
        double = x * 2
        return double + 1, (double - 1).sum()

    node = only_fused(plan_of(function, SQUARE).graph)
    assert [y.spec.shape for y in node.outputs] == [(3, 3), ()]
    assert [part.name for part in node.body.nodes] == ["multiply", "add", "subtract", "sum"]


@settings(deadline=None)
@given(SEEDS)
def test_fused_nodes_hold_the_nodes_that_they_stand_for(seed: int) -> None:
    _, _, graph = random_graph(seed)
    graph = optimized(graph)
    whole = planned(graph, {}).graph
    assert sorted(ops_of(whole.unfused())) == sorted(ops_of(graph))


# -- programs ---------------------------------------------------------------------------------------------------------------


def test_a_program_has_loads_numbers_instructions_and_stores() -> None:
    def function(x: ndl.Tensor, row: ndl.Tensor) -> Any:
        y = (x - row) * 0.5
        return y, y.sum(axis=0)

    program = program_of(only_fused(plan_of(function, SQUARE, of([1, 2, 3])).graph))
    assert program.shape == (3, 3)
    assert program.loads == (Load(0, ndl.float32, (3, 1)), Load(1, ndl.float32, (0, 1)))
    assert program.numbers == ((0.5, ndl.float32),)
    assert program.instructions == (
        Instruction("subtract", (0, 1), {}, ndl.float32),
        Instruction("multiply", (3, 2), {}, ndl.float32),
    )
    assert program.stores == (Store(0, 4, ndl.float32), Store(1, 4, ndl.float32, "sum", (0,)))
    assert str(program) == (
        "for each index of [3, 3]:\n"
        "    r0: float32 = a0[3 i0 + i1]\n"
        "    r1: float32 = a1[i1]\n"
        "    r2: float32 = 0.5\n"
        "    r3: float32 = subtract(r0, r1)\n"
        "    r4: float32 = multiply(r3, r2)\n"
        "    y0 = r4\n"
        "    y1 = sum of r4 over [0]"
    )


def test_the_state_of_random_bits_is_loaded_as_two_numbers() -> None:
    state = of([7, 3], np.int64)
    program = program_of(only_fused(plan_of(lambda s: ndl.random_bits(s, shape=(2, 2)) + 1, state).graph))
    assert program.loads == (Load(0, ndl.int64, (0, 0), 0), Load(0, ndl.int64, (0, 0), 1))
    assert program.instructions[0] == Instruction("random_bits", (0, 1), {}, ndl.int64)


def test_in_a_program_of_rows_reductions_that_are_read_are_instructions() -> None:
    def function(x: ndl.Tensor) -> Any:
        rest = x - ndl.max(x, axis=1, keepdims=True)
        return rest, ndl.max(x, axis=1, keepdims=True) * 2.0, rest.sum(axis=1)

    program = program_of_graph(optimized(graph_of(function, SQUARE)), (3, 3))
    attrs = {"axes": (1,), "keepdims": True}
    assert program.instructions == (
        Instruction("max", (0,), attrs, ndl.float32),
        Instruction("subtract", (0, 2), {}, ndl.float32),
        Instruction("multiply", (2, 1), {}, ndl.float32),
    )
    assert program.stores == (
        Store(0, 3, ndl.float32),
        Store(1, 4, ndl.float32, axes=(1,)),
        Store(2, 3, ndl.float32, "sum", (1,)),
    )
    assert str(program).endswith("    y0 = r3\n    y1 = r4 over [1]\n    y2 = sum of r3 over [1]")


# -- memory -----------------------------------------------------------------------------------------------------------------


def test_a_reshape_lies_where_its_operand_is() -> None:
    made = plan_of(lambda x: (x @ x).reshape(9) @ (x @ x).reshape(9, 1), SQUARE)
    product, *reshapes = made.graph.nodes[:3]
    assert {made.memory[y] for node in reshapes for y in node.outputs} == {made.memory[product.outputs[0]]}


def test_an_elementwise_node_writes_over_an_operand_that_dies() -> None:
    made = plan_of(lambda x: (x @ x + 1) @ x, SQUARE)
    product, plus, last = made.graph.nodes
    assert made.memory[plus.outputs[0]] == made.memory[product.outputs[0]] == ("arena", 0)
    assert (made.arena, made.in_place, made.peak) == (ALIGNMENT, 1, ALIGNMENT + 36)
    assert made.memory[last.outputs[0]] == ("output", 0)


@pytest.mark.parametrize(("writes_over", "in_place"), [({}, 0), ({"softmax": 0}, 1)])
def test_other_ops_write_over_an_operand_if_the_backend_says_so(
    writes_over: dict[str, int], in_place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(SQUARE.device.backend), "writes_over", writes_over)
    made = plan_of(lambda x: ndl.softmax(x @ x) @ x, SQUARE)
    product, softmax, _ = made.graph.nodes
    assert made.in_place == in_place
    assert (made.memory[softmax.outputs[0]] == made.memory[product.outputs[0]]) is bool(in_place)
    assert plan_of(lambda x: ndl.softmax(x @ x) @ (x @ x), SQUARE).in_place == 0


def test_an_operand_that_is_broadcast_or_read_again_is_not_written_over() -> None:
    made = plan_of(lambda x: ((x @ x[0]) + x @ x) @ x, SQUARE)
    plus = next(node for node in made.graph.nodes if node.name == "add")
    vector, matrix = plus.inputs
    assert made.memory[plus.outputs[0]] == made.memory[matrix] != made.memory[vector]
    made = plan_of(lambda x: ndl.exp(x @ x) @ (x @ x), SQUARE)
    assert made.in_place == 0


def test_new_state_takes_the_memory_of_the_old() -> None:
    made = plan_of(lambda w, x: w - 0.1 * (x @ w), SQUARE, SQUARE, replaced={0: 0})
    assert made.donated == {0: 0}
    assert made.memory[made.graph.outputs[0]] == ("input", 0)
    assert made.peak == made.arena == ALIGNMENT


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda w, x: (w - 1, ndl.take(w - 1, x.astype("int64"), axis=0)), id="a failure may follow"),
        pytest.param(lambda w, x: (x @ w, w), id="it is a result as well"),
        pytest.param(lambda w, x: (w.T @ x, ndl.gelu(w @ x) @ w), id="a product is not elementwise"),
        pytest.param(lambda w, x: ((w - 1).astype("float64"), x), id="another dtype"),
    ],
)
def test_state_is_kept_until_nothing_needs_it_or_can_fail(function: Callable[..., Any]) -> None:
    graph = optimized(graph_of(function, SQUARE, SQUARE))
    assert planned(graph, {0: 0}).donated == {}


def test_new_state_is_written_last() -> None:
    def function(w: ndl.Tensor, x: ndl.Tensor) -> Any:
        return w - 1, ndl.take(x, x.astype("int64")[0], axis=0)

    made = plan_of(function, SQUARE, of(np.ones((3, 3))), replaced={0: 0})
    assert names(made.graph)[-1] == "subtract"
    assert made.donated == {0: 0}


LIVES = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(0, 1000)), max_size=30)


@settings(deadline=None)
@given(LIVES)
def test_values_that_live_at_the_same_time_never_overlap(lives: list[tuple[int, int, int]]) -> None:
    lives = [(min(a, b), max(a, b), n) for a, b, n in lives]
    offsets, size = arena(lives)
    for i, (born, dies, nbytes) in enumerate(lives):
        assert offsets[i] % ALIGNMENT == 0
        assert offsets[i] + nbytes <= size
        for j, (first, last, taken) in enumerate(lives[:i]):
            together = nbytes and taken and first <= dies and born <= last
            assert not together or offsets[i] + nbytes <= offsets[j] or offsets[j] + taken <= offsets[i]


@settings(deadline=None)
@given(LIVES)
def test_an_arena_holds_what_is_needed_at_once_and_no_more_than_all(
    lives: list[tuple[int, int, int]],
) -> None:
    lives = [(min(a, b), max(a, b), -(-n // ALIGNMENT) * ALIGNMENT) for a, b, n in lives]
    _, size = arena(lives)
    assert max((sum(n for a, b, n in lives if a <= t <= b) for t in range(21)), default=0) <= size <= sum(n for *_, n in lives)


@settings(deadline=None)
@given(SEEDS, st.booleans())
def test_plans_of_random_programs_keep_apart_what_is_needed_together(seed: int, samples: bool) -> None:
    made, _, _ = random_plan(seed, samples=samples)
    last = {v: i for i, node in enumerate(made.graph.nodes) for v in node.inputs} | dict.fromkeys(made.graph.outputs, 10**6)
    alive: set[Output] = set()
    for i, node in enumerate(made.graph.nodes):
        alive = {v for v in alive if last.get(v, -1) >= i}
        for y in node.outputs:
            for v in alive:
                is_done = last[v] == i and (node.name == "reshape" or y.spec.shape == v.spec.shape)
                is_reshaped = made.memory[y] == made.memory[v] and _reshapes(y, v)
                assert is_done or is_reshaped or not _overlap(made, y, v), f"{y} lies over {v}"
        alive.update(node.outputs)


def _reshapes(y: Output, v: Output) -> bool:
    """Whether one is another shape of the other."""
    return _origin(y) is _origin(v)


def _origin(v: Any) -> Any:
    while isinstance(v, Output) and v.node.name == "reshape":
        v = v.node.inputs[0]
    return v


def _overlap(made: Plan, y: Output, v: Output) -> bool:
    (region, a), (other, b) = made.memory[y], made.memory[v]
    if region != other:
        return False
    return a == b if region != "arena" else a < b + v.spec.nbytes and b < a + y.spec.nbytes


@settings(deadline=None)
@given(SEEDS, st.booleans())
def test_plans_of_random_programs_run_in_poisoned_memory(seed: int, samples: bool) -> None:
    made, graph, arrays = random_plan(seed, samples=samples)
    expected = [identity(y) for y in executor(graph, in_rows)(*map(np.copy, arrays))]
    assert [identity(y) for y in interpreted(made)(*map(np.copy, arrays))] == expected
    assert [identity(y) for y in executor(made.graph.unfused(), in_rows)(*arrays)] == expected


def random_plan(seed: int, *, samples: bool) -> tuple[Plan, Graph, list[Any]]:
    """The plan of a random program, whose outputs replace inputs wherever specs are the same."""
    _, tensors, graph = random_graph(seed, samples=samples)
    assume(all(y.spec.size < 10_000 for node in graph.nodes for y in node.outputs))
    graph = optimized(graph)
    replaced: dict[int, int] = {}
    for k, y in enumerate(graph.outputs):
        fitting = [j for j, x in enumerate(graph.inputs) if x.spec is y.spec and j not in replaced.values()]
        if fitting:
            replaced[k] = fitting[0]
    return planned(graph, replaced), graph, [t.numpy() for t in tensors]


def in_rows(node: Node) -> Callable[..., Any]:
    """The kernel of a node for operands that lie row after row, as they do in a plan."""
    kernel = kernel_of(node)
    return lambda *arrays: kernel(*(np.ascontiguousarray(x).reshape(x.shape) for x in arrays))
