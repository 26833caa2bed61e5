"""What a backend compiles: a graph after all passes, with fused nodes, and where each value lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from needle_core.backend import Executable, default_device
from needle_core.graph.executor import executor
from needle_core.graph.fuse import fused
from needle_core.graph.graph import Graph, Value
from needle_core.graph.memory import Layout, Memory, committed_last
from needle_core.spec import Device


@dataclass(frozen=True)
class Plan:
    """Nodes to run in order, from the buffers of inputs to the buffers of outputs.

    `memory` has the place of every value that a node gives; each lies row after row, and two values that are needed at the same
    time never overlap, except that an elementwise or fused node may write where an operand of the same shape is: at each index
    it reads before it writes. So may the ops in `writes_over` of the backend. What `reshape` gives may lie where its operand
    is; then there is nothing to do.

    An output is the value of a node, and new, or lies in the memory of an input that is `donated`, output -> input; or it is an
    input or a constant, and its buffer that very buffer. Donated inputs are written when no node can fail any more.
    """

    graph: Graph
    device: Device
    memory: Mapping[Value, Memory]
    arena: int
    """Bytes."""
    donated: Mapping[int, int]
    in_place: int
    """How many values lie where an operand was."""

    @property
    def peak(self) -> int:
        """Bytes that a run needs beyond its inputs and constants: the arena, and outputs that are new."""
        new = {v: m for v, m in self.memory.items() if m.region == "output"}
        return self.arena + sum(v.spec.nbytes for k, v in enumerate(self.graph.outputs) if new.get(v) == ("output", k))


def planned(graph: Graph, replaced: Mapping[int, int]) -> Plan:
    """The plan for a graph after the passes. `replaced` says for outputs which input they are the next value of."""
    specs = [v.spec for v in (*graph.outputs, *graph.inputs)]
    device = specs[0].device if specs else default_device()
    graph = committed_last(fused(graph), replaced)
    layout = Layout(graph, replaced, device.backend.writes_over, device.backend.alignment)
    return Plan(graph, device, layout.memory, layout.size, layout.donated, layout.in_place)


def executable(plan: Plan) -> Executable:
    """What the backend makes of a plan. Where the host has to compute an op, or a second device, the core calls the kernels."""
    nodes = plan.graph.unfused().nodes
    devices = {v.spec.device for node in nodes for v in (*node.inputs, *node.outputs)}
    if devices <= {plan.device} and all(node.op.kernel_for(node.spec) is not None for node in nodes):
        return plan.device.backend.compile(plan)
    return Executable(executor(plan.graph.unfused()))
