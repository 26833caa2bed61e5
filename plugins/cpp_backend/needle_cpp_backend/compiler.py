"""Plans as native programs: each node a kernel made ahead, each value a place in the arena."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from needle_core.backend import Executable
from needle_core.errors import KernelError
from needle_core.graph.executor import failed
from needle_core.graph.graph import Constant, Fused, Node, Value
from needle_core.graph.plan import Plan
from needle_core.graph.program import program_of
from needle_core.graph.units import Unit, units
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
    parts = units(plan)
    steps = [(_kernel_of_unit(x), [places[v] for v in x.inputs], [places[y] for y in x.outputs]) for x in parts]
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
            _blame(cause, parts)

    def profile(*buffers: Any) -> dict[Node, float]:
        seconds: dict[Node, float] = {}
        for part, took in zip(parts, native_plan.profile(*buffers), strict=True):
            seconds |= part.shares(took)
        return seconds

    return Executable(execute, set(plan.donated.values()), profile)


def kernel_of(node: Node, outputs: Sequence[Value]) -> Kernel:
    """The native kernel of a node, which gives these outputs."""
    if isinstance(node, Fused):
        return programs.of_program(program_of(node))
    kernel: Any = node.op.kernel_for(node.spec)
    return kernel.make(Call(tuple(v.spec for v in node.inputs), tuple(y.spec for y in outputs), node.attrs))


def _kernel_of_unit(unit: Unit) -> Kernel:
    if not unit.is_group:
        return kernel_of(unit.nodes[0], unit.outputs)
    kernels = [kernel_of(node, node.outputs) for node in unit.nodes]
    return native.programs(kernels, [len(node.inputs) for node in unit.nodes], [len(node.outputs) for node in unit.nodes])


def _blame(cause: Exception, parts: Sequence[Unit]) -> NoReturn:
    """Raise the error for the step that failed."""
    if isinstance(cause, MemoryError) and not isinstance(cause.args[-1], int):
        raise KernelError(_TOO_LARGE) from cause  # no step has begun
    message, step = cause.args
    failed(parts[step].nodes[-1], type(cause)(message))


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
