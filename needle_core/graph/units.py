"""What a compiling backend runs one after the other: nodes of a plan, or several of them as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from needle_core.graph.alike import alike
from needle_core.graph.costs import nbytes
from needle_core.graph.graph import Graph, Input, Node, Value
from needle_core.graph.plan import Plan


@dataclass(frozen=True)
class Unit:
    """Nodes that run as one: `nodes` that are alike, or the gradient of a loss that gives the loss too, or a single node.

    `inputs` and `outputs` are what it reads and gives, those of alike nodes one node after the other. What it refuses, its last
    node does.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]

    @property
    def is_group(self) -> bool:
        """Whether the nodes are fused ones that are alike."""
        return len(self.nodes) > 1 and self.nodes[0].name == self.nodes[1].name

    def shares(self, seconds: float) -> dict[Node, float]:
        """The time of the whole as that of its nodes, by their bytes."""
        weights = {node: nbytes(node) for node in self.nodes}
        total = max(sum(weights.values()), 1)
        return {node: seconds * n / total for node, n in weights.items()}


def units(plan: Plan) -> list[Unit]:
    """The units of a plan, in its order. A reshape that only gives another shape to what stays where it is, is none."""
    joined = _joined_losses(plan.graph)
    groups: dict[Node, Sequence[Node]] = {group[0]: group for group in alike(plan)}
    inside = {*joined.values(), *(node for group in groups.values() for node in group[1:])}
    found = []
    for node in plan.graph.nodes:
        if node in inside or _is_nothing(plan, node):
            continue
        group = groups.get(node, (node,))
        given = tuple(y for member in group for y in member.outputs)
        nodes = (node, joined[node]) if node in joined else tuple(group)
        given += joined[node].outputs if node in joined else ()
        found.append(Unit(nodes, tuple(v for member in group for v in member.inputs), given))
    return found


def _joined_losses(graph: Graph) -> Mapping[Node, Node]:
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


def _is_nothing(plan: Plan, node: Node) -> bool:
    if node.name != "reshape":
        return False
    (x,), (y,) = node.inputs, node.outputs
    home = ("input", plan.graph.inputs.index(x)) if isinstance(x, Input) else plan.memory.get(x)
    return home == plan.memory[y]
