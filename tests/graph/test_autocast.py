"""Mixed precision in compiled functions: the numbers are those of eager calls, casts are nodes, and the mode is guarded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import needle_core as ndl
from needle_core import Tensor, checkpoint, nn
from needle_core.benchmark.workloads import GPT, LanguageModel
from needle_core.errors import CompileError
from needle_core.graph import passes
from needle_core.graph.fuse import fused
from needle_core.graph.graph import Fused, Graph, Value
from needle_core.testing import CASES
from needle_core.testing.suite import core_ops
from tests.devices import on_the_host
from tests.graph.captures import graph_of, identity, of, ops_of, random_graph, results
from tests.graph.regimes import bits, different


@pytest.fixture(autouse=True)
def precision() -> Iterator[None]:
    """Whatever a test permits is forbidden again."""
    yield
    ndl.set_matmul_precision("float32")


# -- training ---------------------------------------------------------------------------------------------------------------


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 4))


def resnet() -> nn.Module:
    def layer(channels: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())

    return nn.Sequential(layer(3), nn.Residual(nn.Sequential(layer(8), layer(8))), nn.Flatten(), nn.Linear(128, 4))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "perceptron": (perceptron, (32, 12)),
    "resnet": (resnet, (16, 4, 4, 3)),
    "gpt": (lambda: GPT(11, dim=16, heads=2, layers=2, length=8), (6, 8)),
    "lstm": (lambda: LanguageModel(11, 16), (8, 6)),
}


def training(name: str, half: str | None, wrap: Callable[..., Any], steps: int, **options: Any) -> dict[str, Any]:
    """What is left behind by some steps of a model on one batch, its forward pass in half precision."""
    ndl.manual_seed(0)
    rng = np.random.default_rng(0)
    make, shape = MODELS[name]
    model, is_text = make(), name in ("gpt", "lstm")
    x = Tensor(rng.integers(0, 11, shape) if is_text else rng.normal(size=shape).astype(np.float32))
    y = Tensor(rng.integers(0, 11, x.size) if is_text else rng.integers(0, 4, len(x)))
    opt = ndl.optim.Adam(model.parameters(), lr=0.01)
    loss_of = nn.SoftmaxLoss()

    def step(x: Tensor, y: Tensor) -> Tensor:
        opt.reset_grad()
        with ndl.autocast(half):
            loss = loss_of(model(x), y)
        loss.backward()
        opt.step()
        return loss.detach()

    run = wrap(step, **options)
    return {"losses": [run(x, y) for _ in range(steps)], "model": model, "optimizer": opt, "step": run}


def eager(step: Callable[..., Any]) -> Callable[..., Any]:
    return step


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("half", ["bfloat16", "float16"])
def test_compiled_steps_are_eager_steps_bit_for_bit(name: str, half: str) -> None:
    found, expected = (training(name, half, wrap, 4) for wrap in (ndl.compile, eager))
    for part in ("losses", "model", "optimizer"):
        assert different(bits(found[part]), bits(expected[part])) == [], part


@pytest.mark.parametrize("name", MODELS if ndl.default_device().backend.host else ["perceptron"])  # loopback takes a minute
def test_training_comes_as_far_as_in_float32(name: str) -> None:
    """Within a twentieth of the way: of what the loss has lost in 60 steps."""
    narrow, wide = ([y.item() for y in training(name, half, ndl.compile, 60)["losses"]] for half in ("bfloat16", None))
    assert wide[-1] < 0.7 * wide[0]
    assert abs(np.mean(narrow[-5:]) - np.mean(wide[-5:])) < 0.05 * (wide[0] - wide[-1])
    assert narrow != wide


def test_gradients_are_kept_in_float32() -> None:
    """They are those of eager steps, too."""
    found = training("perceptron", "bfloat16", ndl.compile, 1, keep_grads=True)["model"].parameters()
    expected = training("perceptron", "bfloat16", eager, 1)["model"].parameters()
    for p, q in zip(found, expected, strict=True):
        assert p.grad is not None
        assert p.grad.dtype is ndl.float32
        assert bits(p.grad) == bits(q.grad)


def test_checkpoints_hold_the_master_weights(tmp_path: Path) -> None:
    model = training("perceptron", "bfloat16", ndl.compile, 2)["model"]
    checkpoint.save(tmp_path / "model", model.state_dict())
    loaded = checkpoint.load(tmp_path / "model")
    assert different(bits(loaded), bits(model.state_dict())) == []
    assert {p.dtype for name, p in loaded.items() if "weight" in name} == {ndl.float32}


# -- the graph --------------------------------------------------------------------------------------------------------------


def test_the_graph_shows_the_casts() -> None:
    graph = str(training("perceptron", "bfloat16", ndl.compile, 1)["step"].graph)
    assert "astype(x0, dtype=bfloat16)" in graph
    assert "astype(s0, dtype=bfloat16)" in graph


@pytest.mark.parametrize("name", ["perceptron", "resnet", "gpt"])
def test_every_product_of_a_step_reads_half_precision(name: str) -> None:
    graph = training(name, "bfloat16", ndl.compile, 1)["step"].graph
    products = [node for node in graph.unfused().nodes if node.op.is_product]
    assert len(products) >= 5
    assert {v.spec.dtype for node in products for v in node.inputs if v.spec.dtype.is_floating} == {ndl.bfloat16}


@pytest.mark.parametrize(("turned", "count"), [(False, 1), pytest.param(True, 2, marks=on_the_host)])
def test_a_weight_is_cast_once(turned: bool, count: int) -> None:
    """It is used four times, and again in the backward pass. Of its transpose, the host makes a copy of its own."""
    w, x = nn.Parameter(np.ones((5, 5), np.float32)), of(np.ones((3, 5)))

    @ndl.compile
    def step(x: Tensor) -> Tensor:
        with ndl.autocast("bfloat16"):
            y = x @ w @ w
            loss = (y @ w.T @ w.T if turned else y @ w @ w).sum()
        loss.backward()
        w.data = w - w.grad
        return loss

    step(x)
    assert (
        len([node for node in step.graph.unfused().nodes if passes.is_narrowing(node) and node.spec.shape == (5, 5)]) == count
    )


@pytest.mark.skipif(ndl.default_device().backend.host, reason="arrays of the host may be broadcast")
def test_a_weight_that_is_turned_is_cast_before() -> None:
    def function(x: Tensor, w: Tensor) -> Tensor:
        with ndl.autocast("bfloat16"):
            return x @ w @ w.T

    nodes = passes.optimized(graph_of(function, of(np.ones((3, 5))), of(np.ones((5, 5))))).nodes
    assert [node.spec.shape for node in nodes if passes.is_narrowing(node)] == [(3, 5), (5, 5)]


def test_an_array_that_is_broadcast_and_turned_gives_the_same_numbers() -> None:
    """Sums along what lies in memory otherwise are rounded otherwise."""
    w = ndl.broadcast_to(of(np.random.default_rng(0).normal(size=(1, 700))), shape=(3, 700))
    x = of(np.random.default_rng(1).normal(size=(1, 700)))

    def function(x: Tensor, w: Tensor) -> Tensor:
        with ndl.autocast("bfloat16"):
            return x @ w.T, x @ ndl.permute_dims(w.reshape(1, 3, 700), axes=(0, 2, 1))

    graph = graph_of(function, x, w)
    assert results(passes.optimized(graph), x, w) == results(graph, x, w)


@pytest.mark.parametrize(
    ("between", "last"),
    [
        (lambda y: y, lambda y: y @ of(np.ones((4, 2)))),
        (lambda y: y.reshape(3, 2, 2), lambda y: y @ of(np.ones((2, 2)))),
        (lambda y: ndl.permute_dims(y.reshape(3, 2, 2), axes=(2, 0, 1)).reshape(2, 6), lambda y: y @ of(np.ones((6, 2)))),
    ],
    ids=["nothing", "a reshape", "heads"],
)
def test_between_products_nothing_is_widened(between: Callable[..., Tensor], last: Callable[..., Tensor]) -> None:
    x, w = of(np.arange(15).reshape(3, 5) / 7), of(np.arange(20).reshape(5, 4) / 9)

    def function(x: Tensor, w: Tensor) -> Tensor:
        with ndl.autocast("bfloat16"):
            return last(between(x @ w))

    graph = graph_of(function, x, w)
    better = passes.optimized(graph)
    assert results(better, x, w) == results(graph, x, w)
    wide = [y.spec.dtype for node in better.nodes[:-1] for y in node.outputs if y.spec.dtype is not ndl.bfloat16]
    assert wide == []


def test_what_the_backward_pass_reads_again_is_kept_in_half_precision() -> None:
    """The cast back to float32 is done again by each node that is fused with it."""
    x, w = of(np.ones((8, 5))), nn.Parameter(np.ones((5, 6), np.float32))

    def function(x: Tensor) -> Tensor:
        with ndl.autocast("bfloat16"):
            y = x @ w
        (ndl.tanh(y) * y).sum().backward()
        return w.grad

    graph = graph_of(function, x)
    better = fused(passes.optimized(graph))
    product = next(node for node in better.nodes if node.op.is_product)
    assert all(isinstance(node, Fused) for node in better.nodes if product.outputs[0] in node.inputs)
    assert [
        y.spec for node in better.nodes for y in node.outputs if y.spec.shape == (8, 6) and y.spec.dtype is ndl.float32
    ] == []
    assert results(better.unfused(), x, w) == results(graph, x, w)


def test_a_fused_node_casts_what_it_reads_several_times_once() -> None:
    graph = fused(graph_of(lambda x: (lambda y: ndl.exp(y) * ndl.sin(y) + y)(x.astype("float32")), of([1, 2], "float16")))
    (node,) = graph.nodes
    assert isinstance(node, Fused)
    assert ops_of(node.body) == ["astype", "exp", "sin", "multiply", "add"]


def widened_readers(x: Tensor) -> Any:
    y = x.astype("float32")
    return y, y @ y, ndl.exp(y), y.sum(axis=0), y + y[0]


def turned(x: Tensor) -> Any:
    y = ndl.permute_dims(x.reshape(2, 3, 2), axes=(2, 0, 1))
    return y.astype("bfloat16"), x.T.astype("float16") @ x.T.astype("float16").T, y.astype("float64")


@on_the_host
@pytest.mark.parametrize("op", [op for op in core_ops() if op.is_product], ids=lambda op: op.name)
def test_products_in_half_precision_fill_memory_of_their_own(op: Any) -> None:
    """Then a copy lies in memory as they do, and two casts of one that undo each other can be left out."""
    for sample in CASES[op.name].samples:
        drawn = [Tensor(array.astype(np.float16 if array.dtype.kind == "f" else array.dtype)) for array in sample.draw(op.name)]
        made = op(*drawn, **sample.arguments)
        for y in made if isinstance(made, tuple) else (made,):
            array = y.numpy()
            assert not array.size or array.astype(np.float32).astype(np.float16).strides == array.strides, sample


@pytest.mark.parametrize(
    ("function", "x"),
    [(widened_readers, of([[1, 0.1], [3, -0.0]], "float16")), (turned, of(np.arange(12).reshape(3, 4) / 7))],
)
def test_no_number_changes_with_the_place_of_a_cast(function: Callable[[Tensor], Any], x: Tensor) -> None:
    graph = graph_of(function, x)
    for run in (fused, passes.narrowed_early, passes.optimized, lambda graph: fused(passes.optimized(graph))):
        assert results(run(graph).unfused(), x) == results(graph, x)


@given(st.integers(0, 10**6), st.sampled_from(["bfloat16", "float16"]))
@settings(max_examples=60, deadline=None)
def test_random_programs_in_half_precision_give_the_same_numbers_captured_and_fused(seed: int, half: str) -> None:
    with ndl.autocast(half):
        program, tensors, graph = random_graph(seed)
        expected = [identity(y.buffer) for y in program(*tensors)]
    assert results(graph, *tensors) == expected
    assert results(fused(passes.optimized(graph)).unfused(), *tensors) == expected


# -- when it is captured anew -----------------------------------------------------------------------------------------------


def product() -> tuple[Callable[[], bool], Any]:
    """A compiled product, and a function that tells whether it was narrowed."""
    step = ndl.compile(lambda x: x @ x)
    x = of([[1 + 2.0**-10]])
    return (lambda: bool(step(x).item() == 1)), step


def test_the_mode_is_part_of_the_signature() -> None:
    is_narrowed, step = product()
    seen = [is_narrowed()]
    for half in ("bfloat16", "float16", None, "bfloat16"):
        with ndl.autocast(half):
            seen.append(is_narrowed())
    seen.append(is_narrowed())
    assert seen == [False, True, False, False, True, False]
    assert step.captures == 3
    report = step.report()
    assert "1: captured because autocast: nothing -> bfloat16" in report
    assert "2: captured because autocast: bfloat16 -> float16" in report
    assert report.count("    autocast: ") == 2


def test_so_is_the_precision_of_products() -> None:
    is_narrowed, step = product()
    for precision in ("float32", "tf32", "float32", "tf32"):
        ndl.set_matmul_precision(precision)  # type: ignore[arg-type]
        is_narrowed()
    assert step.captures == 2
    assert "1: captured because matmul_precision: nothing -> tf32" in step.report()


def test_a_mode_that_a_global_chooses_is_guarded() -> None:
    step = ndl.compile(chosen)
    x = of([[1 + 2.0**-10]])
    seen = []
    for half in ("bfloat16", None, "bfloat16"):
        CHOICE["half"] = half
        seen.append(step(x).item() == 1)
    assert seen == [True, False, True]


CHOICE: dict[str, Any] = {}


def chosen(x: Tensor) -> Tensor:
    with ndl.autocast(CHOICE["half"]):
        return x @ x


def test_a_capture_that_fails_leaves_the_mode_as_it_was() -> None:
    def entered(x: Tensor) -> Tensor:
        ndl.autocast("bfloat16").__enter__()
        return x @ x if x.sum() > 0 else x

    with pytest.raises(CompileError, match="no numbers to look at"):
        ndl.compile(entered)(of([[1.0]]))
    is_narrowed, _ = product()
    assert not is_narrowed()


def test_optimizers_compute_in_float32_within_a_mode() -> None:
    """Those that run as one program, too, as some backends have them from the third step on."""
    left = []
    for half in ("bfloat16", None):
        w = nn.Parameter(np.full((2, 2), 1 / 3, np.float32))
        opt = ndl.optim.Adam([w], lr=0.1)
        for i in range(6):
            w.grad = of([[i / 7, 1], [0.1, -i]])
            with ndl.autocast(half):
                opt.step()
        left.append(bits(w))
    assert left[0] == left[1]


def test_programs_without_it_are_as_they_were() -> None:
    """No cast appears, and none is moved, where none is in half precision."""
    graph: Graph = graph_of(lambda x: (x.reshape(4).astype("float64"), x.T @ x), of([[1, 2], [3, 4]]))
    values: list[Value] = [y for node in passes.narrowed_early(graph).nodes for y in node.outputs]
    assert ops_of(passes.narrowed_early(graph)) == ops_of(graph)
    assert [v.spec for v in values] == [y.spec for node in graph.nodes for y in node.outputs]
