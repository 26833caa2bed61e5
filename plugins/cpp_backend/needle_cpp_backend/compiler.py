"""Plans as native programs: each node a kernel made ahead, each value a place in the arena."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from needle_core.backend import Executable
from needle_core.errors import KernelError
from needle_core.graph.alike import alike
from needle_core.graph.costs import nbytes
from needle_core.graph.executor import failed
from needle_core.graph.graph import Constant, Fused, Graph, Node, Value
from needle_core.graph.plan import Plan
from needle_core.graph.program import program_of
from needle_cpp_backend import programs
from needle_cpp_backend.call import Call, Kernel
from needle_cpp_backend.native import native

_FAILURES = (IndexError, ValueError, MemoryError, RuntimeError)
"""What a kernel may raise: its arguments are the message and the number of the step."""
_TOO_LARGE = "out of memory: for the results of a compiled function, or for what it computes between"


def compiled(plan: Plan) -> Executable:
    """One native call that runs the plan, and writes the donated inputs."""
    if plan.arena > sys.maxsize:
        raise KernelError(_TOO_LARGE)
    places = _Places(plan)
    joined = _joined_losses(plan.graph)
    groups: dict[Node, Sequence[Node]] = {group[0]: group for group in alike(plan)}
    inside = {*joined.values(), *(node for group in groups.values() for node in group[1:])}
    nodes = [node for node in plan.graph.nodes if not places.is_nothing(node) and node not in inside]
    steps = []
    for node in nodes:
        group = groups.get(node, [node])
        given = [*(y for member in group for y in member.outputs), *(joined[node].outputs if node in joined else ())]
        kernel = _as_one(group) if len(group) > 1 else kernel_of(node, given)
        steps.append((kernel, [places[v] for member in group for v in member.inputs], [places[y] for y in given]))
    native_plan = native.Plan(
        inputs=len(plan.graph.inputs),
        results=[(v.spec.shape, v.spec.dtype.numpy) for v in places.results],
        constants=[c.buffer for c in places.constants],
        outputs=[places.output(k) for k in range(len(plan.graph.outputs))],
        steps=steps,
        arena=plan.arena,
    )

    run = native_plan.function

    def execute(*buffers: Any) -> Sequence[Any]:
        try:
            return run(*buffers)  # type: ignore[no-any-return]
        except _FAILURES as cause:
            _blame(cause, [joined.get(node, node) for node in nodes])

    def profile(*buffers: Any) -> dict[Node, float]:
        """Nodes that run as one share its time by their bytes."""
        seconds: dict[Node, float] = {}
        for node, took in zip(nodes, native_plan.profile(*buffers), strict=True):
            share = {member: nbytes(member) for member in groups.get(node, [node])}
            total = max(sum(share.values()), 1)
            seconds |= {member: took * n / total for member, n in share.items()}
        return seconds

    return Executable(execute, set(plan.donated.values()), profile)


def kernel_of(node: Node, outputs: Sequence[Value]) -> Kernel:
    """The native kernel of a node, which gives these outputs."""
    if isinstance(node, Fused):
        return programs.of_fused(program_of(node))
    kernel: Any = node.op.kernel_for(node.spec)
    return kernel.make(Call(tuple(v.spec for v in node.inputs), tuple(y.spec for y in outputs), node.attrs))


def _as_one(group: Sequence[Node]) -> Kernel:
    """The native kernel of nodes that are alike."""
    kernels = [kernel_of(node, node.outputs) for node in group]
    return native.programs(kernels, [len(node.inputs) for node in group], [len(node.outputs) for node in group])


def _joined_losses(graph: Graph) -> dict[Node, Node]:
    """Gradients of the cross entropy that may give the loss too, as both need the same exponentials: with the node of the loss.

    So they may if nothing reads the loss before.
    """
    losses: dict[Any, Node] = {}
    joined: dict[Node, Node] = {}
    for node in graph.nodes:
        losses = {key: loss for key, loss in losses.items() if loss.outputs[0] not in node.inputs}
        if node.name == "cross_entropy":
            losses[node.inputs, repr(node.attrs)] = node
        elif node.name == "cross_entropy_grad" and (loss := losses.pop((node.inputs[1:], repr(node.attrs)), None)):
            joined[node] = loss
    return joined


def _blame(cause: Exception, nodes: Sequence[Node]) -> NoReturn:
    """Raise the error for the step that failed."""
    if isinstance(cause, MemoryError) and not isinstance(cause.args[-1], int):
        raise KernelError(_TOO_LARGE) from cause  # no step has begun
    message, step = cause.args
    failed(nodes[step], type(cause)(message))


class _Places:
    """Where the values of a plan lie, as the native module counts: base 0 is the arena, then inputs, results, constants."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        graph = plan.graph
        self.inputs = {v: j for j, v in enumerate(graph.inputs)}
        self.constants = [*graph.constants()]
        self._constants = {c: i for i, c in enumerate(self.constants)}
        self._results: dict[int, int] = {}  # of outputs that are new: which result
        self.results: list[Value] = []
        for k, v in enumerate(graph.outputs):
            if plan.memory.get(v) == ("output", k):
                self._results[k] = len(self.results)
                self.results.append(v)

    def __getitem__(self, v: Value) -> tuple[int, int]:
        if v in self.inputs:
            return 1 + self.inputs[v], 0
        if isinstance(v, Constant):
            return 1 + len(self.inputs) + len(self.results) + self._constants[v], 0
        region, number = self.plan.memory[v]
        if region == "arena":
            return 0, number
        if region == "input":
            return 1 + number, 0
        return 1 + len(self.inputs) + self._results[number], 0

    def output(self, k: int) -> int:
        """Which of inputs, results and constants output k is."""
        return self[self.plan.graph.outputs[k]][0] - 1

    def is_nothing(self, node: Node) -> bool:
        """Whether a node only gives another shape to what stays where it is."""
        return node.name == "reshape" and self[node.inputs[0]] == self[node.outputs[0]]
