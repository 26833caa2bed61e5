"""Passes: what a graph is before and after each, and that the numbers stay, to the last bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import needle_core as ndl
from needle_core.graph import passes
from needle_core.graph.graph import Constant, Graph
from needle_core.op import KERNELS
from tests.graph.captures import graph_of, identity, of, ops_of, random_graph, results

SQUARE = of(np.arange(9).reshape(3, 3))
ROW = of([1, -0.0, 3])


@pytest.mark.parametrize(
    ("run", "function", "before", "after"),
    [
        pytest.param(passes.without_dead_code, lambda x: (ndl.exp(x), x + 1)[1], ["exp", "add"], ["add"], id="dead code"),
        pytest.param(passes.with_constants, lambda x: x * (ndl.arange(3) + 1),
                     ["iota", "add", "astype", "multiply"], ["multiply"], id="constants"),
        pytest.param(passes.without_repetition, lambda x: (x + x.T) * (x + x.T),
                     ["permute_dims", "add", "permute_dims", "add", "multiply"], ["permute_dims", "add", "multiply"],
                     id="repetition"),
        pytest.param(passes.simplified, lambda x: ndl.exp(x) * 1, ["exp", "multiply"], ["exp"], id="times one"),
        pytest.param(passes.simplified, lambda x: 1 * ndl.exp(x), ["exp", "multiply"], ["exp"], id="one times"),
        pytest.param(passes.simplified, lambda x: ndl.exp(x) + 0.0, ["exp", "add"], ["exp", "add"],
                     id="plus zero is not exact"),
        pytest.param(passes.simplified, lambda x: ndl.exp(x) + -0.0, ["exp", "add"], ["exp"], id="plus negative zero"),
        pytest.param(passes.simplified, lambda x: ndl.exp(x) - 0, ["exp", "subtract"], ["exp"], id="minus zero"),
        pytest.param(passes.simplified, lambda x: ndl.negative(-ndl.exp(x)), ["exp", "negative", "negative"], ["exp"],
                     id="negative twice"),
        pytest.param(passes.simplified, lambda x: ndl.floor(ndl.floor(x)), ["floor", "floor"], ["floor"], id="floor twice"),
        pytest.param(passes.simplified, lambda x: ndl.exp(x).astype("float64").astype("float32"), ["exp", "astype", "astype"],
                     ["exp"], id="to float64 and back"),
        pytest.param(passes.simplified, lambda x: ndl.exp(x).astype("float16").astype("float32"), ["exp", "astype", "astype"],
                     ["exp", "astype", "astype"], id="to float16 and back rounds"),
        pytest.param(passes.simplified, lambda x: x.T.T.T, ["permute_dims"] * 3, ["permute_dims"], id="transposes"),
        pytest.param(passes.simplified, lambda x: (x @ x).reshape(9).reshape(1, 9), ["matmul", "reshape", "reshape"],
                     ["matmul", "reshape"], id="reshapes"),
        pytest.param(passes.simplified, lambda x: x + ndl.broadcast_to(x[0], shape=(3, 3)),
                     ["strided_slice", "reshape", "broadcast_to", "add"], ["strided_slice", "reshape", "add"],
                     id="broadcast operand"),
        pytest.param(passes.simplified, lambda x: ndl.broadcast_to(x @ x, shape=(4, 3, 3)).max(axis=0),
                     ["matmul", "broadcast_to", "max"], ["matmul"], id="largest of copies"),
        pytest.param(passes.simplified, lambda x: ndl.broadcast_to(x @ x, shape=(4, 3, 3)).sum(axis=0),
                     ["matmul", "broadcast_to", "sum"], ["matmul", "broadcast_to", "sum"], id="sum of copies rounds"),
    ],
)  # fmt: skip
def test_a_pass_changes_the_graph_and_no_number(
    run: Callable[[Graph], Graph], function: Callable[..., ndl.Tensor], before: Sequence[str], after: Sequence[str]
) -> None:
    graph = graph_of(function, SQUARE)
    better = passes.without_dead_code(run(graph))
    assert ops_of(graph) == before
    assert ops_of(better) == after
    assert results(better, SQUARE) == results(graph, SQUARE) == [identity(function(SQUARE).buffer)]


@pytest.mark.skipif(
    "('gemm', __import__('needle_core').default_device().backend.name) not in __import__('needle_core').op.KERNELS",
    reason="the backend has no kernel for gemm",
)
@pytest.mark.parametrize(
    ("product", "expected"),
    [(lambda x: x @ x.T, (False, True)), (lambda x: x.T @ x, (True, False)), (lambda x: x.T @ x.T, (True, True))],
)
def test_transposes_become_part_of_products(product: Callable[[ndl.Tensor], ndl.Tensor], expected: tuple[bool, bool]) -> None:
    graph = graph_of(product, SQUARE)
    better = passes.without_dead_code(passes.with_transposed_products(graph))
    (node,) = better.nodes
    assert (node.name, *node.attrs.values()) == ("gemm", *expected)
    assert results(better, SQUARE) == results(graph, SQUARE)


def test_products_stay_where_no_kernel_takes_transposed_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(KERNELS, ("gemm", ndl.default_device().backend.name), raising=False)
    graph = passes.with_transposed_products(graph_of(lambda x: x @ x.T, SQUARE))
    assert ops_of(graph) == ["permute_dims", "matmul"]


def test_the_same_op_with_other_attributes_is_another() -> None:
    calls = ((0, True), (0, True), (0, False), (1, True))
    graph = graph_of(lambda x: [x.sum(axis=axis, keepdims=keepdims) for axis, keepdims in calls], SQUARE)
    assert ops_of(graph) == ["sum"] * 4
    assert ops_of(passes.without_repetition(graph)) == ["sum"] * 3


class Counting(ndl.TensorOp):
    """Gives something else at each run, as an op of a class may."""

    def __init__(self) -> None:
        self.runs = 0

    def compute(self, x: np.ndarray) -> np.ndarray:
        self.runs += 1
        return x + self.runs


def test_ops_that_are_classes_are_run_as_often_as_they_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEEDLE_FALLBACK", "allow")  # for devices other than the host
    op = Counting()
    graph = passes.optimized(graph_of(lambda x: op(x) + op(x), SQUARE))
    assert ops_of(graph).count("Counting") == 2


def test_a_constant_that_cannot_be_computed_fails_where_it_would_without_passes() -> None:
    indices = graph_of(lambda x: ndl.take(x, ndl.arange(3) + 2, axis=0), SQUARE)
    with pytest.raises(ndl.errors.BoundsError, match="take"):
        results(passes.optimized(indices), SQUARE)


def test_large_constants_are_not_computed_ahead() -> None:
    graph = passes.with_constants(graph_of(lambda x: x.sum() + ndl.arange(passes.FOLDED).sum(), SQUARE))
    assert "iota" in ops_of(graph)
    assert all(c.spec.nbytes <= passes.FOLDED for c in graph.constants())


def test_folded_constants_are_what_the_kernel_gives() -> None:
    graph = passes.optimized(graph_of(lambda x: x[0].astype("int64") * (ndl.arange(3) + 1), SQUARE))
    (constant,) = [v for v in graph.values() if isinstance(v, Constant)]
    np.testing.assert_array_equal(constant.numpy(), [1, 2, 3])


@pytest.mark.parametrize("x", [[0.0, -0.0, 1.5], [np.inf, -np.inf, np.nan]])
@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * 1, lambda x: x / 1, lambda x: x + 0.0, lambda x: x - 0.0, lambda x: 0.0 + x, lambda x: 0.0 - x,
        lambda x: x - (-0.0), lambda x: x**1, lambda x: ndl.maximum(x, x), lambda x: ndl.where(x > 0, x, x), lambda x: x * 0,
        lambda x: x - x, lambda x: x / x, lambda x: ndl.negative(-x), lambda x: abs(abs(x)), lambda x: ndl.sign(ndl.sign(x)),
    ],
)  # fmt: skip
def test_zeros_infinities_and_nan_are_what_they_are_without_passes(
    x: Sequence[float], function: Callable[[ndl.Tensor], ndl.Tensor]
) -> None:
    given_ = of(x)

    def padded(x: ndl.Tensor) -> ndl.Tensor:
        return function(ndl.exp(x)), function(-x)

    graph = graph_of(padded, given_)
    assert results(passes.optimized(graph), given_) == results(graph, given_)


@settings(deadline=None)
@given(st.integers(0, 2**32))
def test_random_programs_over_all_ops_give_the_same_numbers_with_and_without_passes(seed: int) -> None:
    program, tensors, graph = random_graph(seed)
    expected = [identity(y.buffer) for y in program(*tensors)]
    assert results(graph, *tensors) == expected
    for name, run in passes.PASSES.items():
        graph = run(graph)
        assert results(graph, *tensors) == expected, name
