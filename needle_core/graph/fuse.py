"""Fusion: elementwise nodes of one shape, and reductions of what they give, become one node.

Between them nothing is written to memory, and nothing read twice: memory is slower than arithmetic everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from needle_core.graph.graph import Constant, Fused, Graph, Input, Node, Value
from needle_core.graph.passes import is_elementwise, is_widening

REDUCTIONS: Final = frozenset({"sum", "mean", "prod", "max", "min", "any", "all"})

LONGEST: Final = 64
"""Nodes that become one at most: a kernel has only so many registers and parameters."""


def fused(graph: Graph) -> Graph:
    """The graph with fused nodes, each at the place of its last part.

    A group takes up nodes as long as nothing outside of it has read what it gives. So all that reads it comes after its last
    node, all that it reads comes before, and no circle can arise. Random bits join none, for each reads all of the state.
    """
    graph = _widened_where_read(graph)
    groups: list[_Group] = []
    home: dict[Value, _Group] = {}
    for i, node in enumerate(graph.nodes):
        read = {home[v] for v in node.inputs if v in home}
        shape = index_space(node)
        joined = {g for g in read if g.is_open and g.shape == shape and not g.reduced.intersection(node.inputs)}
        if shape is None or node.name == "random_bits" or 1 + sum(len(g.nodes) for g in joined) > LONGEST:
            joined = set()
        for g in read - joined:
            g.is_open = False
        if shape is None:
            continue
        group = _Group(shape, {i: node})
        for g in joined:
            group.nodes |= g.nodes
            group.reduced |= g.reduced
            groups.remove(g)
        if node.name in REDUCTIONS:
            group.reduced.update(node.outputs)
        groups.append(group)
        home.update((y, group) for part in group.nodes.values() for y in part.outputs)
    return _gathered(graph, [[g.nodes[i] for i in sorted(g.nodes)] for g in groups if len(g.nodes) > 1])


class _Group:
    """Nodes that may become one, by their places in the graph. It is open until a node outside reads what it gives."""

    def __init__(self, shape: tuple[int, ...], nodes: dict[int, Node]) -> None:
        self.shape, self.nodes = shape, nodes
        self.reduced: set[Value] = set()  # what its reductions give, which is of another shape
        self.is_open = True


def index_space(node: Node) -> tuple[int, ...] | None:
    """The shape over which a node can be fused; None if it cannot be.

    Elementwise ops can, the bits of random numbers, and reductions of the first or the last axes.
    """
    if isinstance(node, Fused):
        return None
    if is_elementwise(node) or node.name == "random_bits":
        return node.outputs[0].spec.shape
    if node.name not in REDUCTIONS:
        return None
    x, axes = node.inputs[0].spec, node.attrs["axes"]
    n = len(axes)
    return x.shape if n and axes in (tuple(range(n)), tuple(range(x.ndim - n, x.ndim))) else None


def _widened_where_read(graph: Graph) -> Graph:
    """The graph with casts from half precision repeated for each node that may be fused with them.

    What is kept from the forward for the backward pass is then two bytes an element, and not four.
    """
    uses = graph.uses()
    late: dict[Value, Node] = {node.outputs[0]: node for node in graph.nodes if is_widening(node) and uses[node.outputs[0]] > 1}
    now: dict[Value, Value] = {}
    nodes: list[Node] = []

    def widened(v: Value) -> Value:
        nodes.append(late[v].on([now.get(u, u) for u in late[v].inputs]))
        return nodes[-1].outputs[0]

    for node in graph.nodes:
        if node.outputs[0] in late:
            continue
        given: dict[Value, Value] = {}
        for v in node.inputs:
            if v in late and index_space(node) == v.spec.shape:
                given[v] = given.get(v) or widened(v)
            else:
                given[v] = now[v] = now.get(v) or (widened(v) if v in late else v)
        nodes.append(node.on([given[v] for v in node.inputs]))
        now.update(zip(node.outputs, nodes[-1].outputs, strict=True))
    outputs = [now.get(v) or (widened(v) if v in late else v) for v in graph.outputs]
    return Graph(graph.inputs, nodes, outputs)


def _gathered(graph: Graph, groups: Iterable[list[Node]]) -> Graph:
    """The graph with each group as one node."""
    readers: dict[Value, list[Node | None]] = {}
    for node in graph.nodes:
        for v in node.inputs:
            readers.setdefault(v, []).append(node)
    for v in graph.outputs:
        readers.setdefault(v, []).append(None)
    last = {parts[-1]: parts for parts in groups}
    inside = {part for parts in last.values() for part in parts}
    now: dict[Value, Value] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        if node in last:
            parts = last[node]
            given = [y for part in parts for y in part.outputs if any(r not in parts for r in readers.get(y, ()))]
            nodes.append(_one(parts, given, now))
            now.update(zip(given, nodes[-1].outputs, strict=True))
        elif node not in inside:
            nodes.append(node.on([now.get(v, v) for v in node.inputs]))
            now.update(zip(node.outputs, nodes[-1].outputs, strict=True))
    return Graph(graph.inputs, nodes, [now.get(v, v) for v in graph.outputs])


def _one(parts: list[Node], given: Sequence[Value], now: dict[Value, Value]) -> Fused:
    """`parts` as one node that gives the values `given`. Python numbers stay inside as constants."""
    inner: dict[Value, Value] = {}
    inputs: dict[Value, Input] = {}
    nodes: list[Node] = []
    widened: dict[Value, Node] = {}
    for part in parts:
        for v in part.inputs:
            if v not in inner and not (isinstance(v, Constant) and not v.spec.shape):
                inner[v] = inputs[v] = Input(v.spec, f"a{len(inputs)}")
        made = widened.get(part.inputs[0]) if is_widening(part) else None
        if made is None or made.spec is not part.spec:
            made = part.on([inner.get(v, v) for v in part.inputs])
            nodes.append(made)
        if is_widening(part):
            widened[part.inputs[0]] = made  # several of them want it
        inner.update(zip(part.outputs, made.outputs, strict=True))
    return Fused(Graph([*inputs.values()], nodes, [inner[v] for v in given]), [now.get(v, v) for v in inputs])
