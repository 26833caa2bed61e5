"""The kit finds what is wrong with what a backend makes of plans."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core.backend import Executable
from needle_core.graph.executor import executor
from needle_core.graph.graph import Graph, Node
from needle_core.graph.plan import Plan
from needle_core.op import forget_all
from needle_core.testing.compilation import checks_of_compilation, promised_by_compilation
from needle_core.testing.samples import MismatchError

Compile = Callable[[Plan], Executable]


@pytest.fixture(autouse=True)
def nothing_faulty_is_kept() -> Iterator[None]:
    """Ops keep plans of their bodies, on backends that plan eager calls: those made here are not for the tests after these."""
    yield
    forget_all()


def failing(monkeypatch: pytest.MonkeyPatch, compile_: Compile) -> set[str]:
    """The kinds of checks that fail on a backend which compiles so."""
    backend = type(ndl.default_device().backend)
    monkeypatch.setattr(backend, "compile", lambda self, plan: compile_(plan))
    monkeypatch.setattr(backend, "owns", lambda self, buffer: True)
    failed = set()
    for check in checks_of_compilation(quick=True):
        try:
            check()
        except (MismatchError, ndl.errors.NeedleError):
            failed.add(check.id.split("/")[1])
    return failed


def plain(plan: Plan) -> Executable:
    return Executable(executor(plan.graph.unfused()))


def with_sums_for_maxima(plan: Plan) -> Executable:
    def exchanged(node: Node) -> Node:
        return Node(ndl.ops.add, node.inputs, node.attrs, node.spec) if node.name == "maximum" else node

    graph = plan.graph.unfused()
    now: dict[Any, Any] = {}
    nodes = []
    for node in graph.nodes:
        nodes.append(exchanged(node.on([now.get(v, v) for v in node.inputs])))
        now.update(zip(node.outputs, nodes[-1].outputs, strict=True))
    return Executable(executor(Graph(graph.inputs, nodes, [now.get(v, v) for v in graph.outputs])))


def with_outputs_in_another_order(plan: Plan) -> Executable:
    run = plain(plan).run
    return Executable(lambda *buffers: run(*buffers)[::-1])


def with_results_of_the_first_call(plan: Plan) -> Executable:
    run, kept = plain(plan).run, list[Sequence[Any]]()

    def once(*buffers: Any) -> Sequence[Any]:
        if not kept:
            kept.append(run(*buffers))
        return kept[0]

    return Executable(once)


def writing_over_arguments(plan: Plan) -> Executable:
    """It writes over inputs without saying so; not over what tests after this one need, such as the state of the generator."""
    run = plain(plan).run

    def careless(*buffers: Any) -> Sequence[Any]:
        made = run(*buffers)
        for x in buffers:
            if isinstance(x, np.ndarray) and x.flags.writeable and x.ndim and x.dtype.kind == "f":
                x[...] = 0
        return made

    return Executable(careless)


def writing_state_too_early(plan: Plan) -> Executable:
    """It takes every input that some output would replace for donated, and writes it before the rest has run."""
    run = plain(plan).run

    def early(*buffers: Any) -> Sequence[Any]:
        for x in buffers:
            if isinstance(x, np.ndarray) and x.flags.writeable and x.size > 1000:
                x *= 2
        return run(*buffers)

    return Executable(early, range(len(plan.graph.inputs)))


@pytest.mark.skipif("not __import__('needle_core').default_device().backend.host", reason="the faults are in NumPy's arrays")
@pytest.mark.parametrize(
    ("fault", "found_by"),
    [
        (with_sums_for_maxima, {"program"}),
        (with_outputs_in_another_order, {"program", "step"}),
        (with_results_of_the_first_call, {"step", "state"}),
        (writing_over_arguments, {"program", "state"}),
        (writing_state_too_early, {"state"}),
    ],
)
def test_a_fault_is_found(monkeypatch: pytest.MonkeyPatch, fault: Compile, found_by: set[str]) -> None:
    assert failing(monkeypatch, fault) >= found_by


def test_plain_kernels_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not failing(monkeypatch, plain)


def test_as_many_checks_as_promised() -> None:
    for quick in (False, True):
        kinds = Counter(check.id.split("/")[1] for check in checks_of_compilation(quick=quick))
        assert kinds == promised_by_compilation(quick=quick)


def test_random_whole_programs_reach_most_ops_and_fused_nodes() -> None:
    names: Counter[str] = Counter()

    def counting(plan: Plan) -> Executable:
        names.update(node.name for node in plan.graph.nodes)
        names.update(part.name for part in plan.graph.unfused().nodes)
        return plain(plan)

    with pytest.MonkeyPatch.context() as patch:
        failing(patch, counting)
    assert names["fused"] > 20
    assert len(names) > 30, sorted(names)  # there are 43 primitives
