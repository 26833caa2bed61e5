"""Gradients that use what their op has computed already.

A gradient's kernel gets only the operands, and computes again what the op knew. A compiled step has both before its eyes. So an
op can keep what its gradient needs, at the price of memory between the two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from needle_core.graph.graph import Graph, Node, Value
from needle_numpy_backend import activation, attention, normalize


class Pair(NamedTuple):
    """An op, which of its operands its gradient gets after `g`, and two functions.

    `keeping` gives the op's result and what is to be kept; `given` is the gradient, which gets that before those of its own
    operands that it still `reads`. It may write over what was kept: there is one gradient for an op.
    """

    op: str
    operands: slice
    keeping: Callable[..., Any]
    given: Callable[..., Any]
    reads: slice


PAIRS: Final[Mapping[str, Pair]] = {
    "gelu_grad": Pair("gelu", slice(None), activation._gelu, activation._gelu_grad, reads=slice(1)),
    "layer_norm_grad": Pair("layer_norm", slice(2), normalize._layer_norm, normalize._layer_norm_grad, reads=slice(0, 3, 2)),
    "scaled_dot_product_attention_grad": Pair(
        "scaled_dot_product_attention", slice(None), attention._attention, attention._attention_grad, reads=slice(None)
    ),
}
"""By the name of the gradient."""


def paired(graph: Graph) -> tuple[Graph, dict[Node, Callable[..., Any]]]:
    """The graph with pairs joined by what is kept, a second output of the op, and the functions that compute their nodes."""
    partner = _partners(graph)
    functions: dict[Node, Callable[..., Any]] = {}
    now: dict[Value, Value] = {}
    nodes: list[Node] = []
    kept: dict[Node, Value] = {}
    for node in graph.nodes:
        inputs = [now.get(v, v) for v in node.inputs]
        if node not in partner:
            made = node.on(inputs)
        elif node.name in PAIRS:
            pair = PAIRS[node.name]
            made = Node(node.op, [kept[partner[node]], *inputs[pair.reads]], node.attrs, node.spec, node.source)
            functions[made] = pair.given
        else:
            spec = node.outputs[0].spec  # what is kept has none, and is about as large
            made = Node(node.op, inputs, node.attrs, (spec, spec), node.source)
            kept[node] = made.outputs[1]
            functions[made] = PAIRS[partner[node].name].keeping
        nodes.append(made)
        now.update(zip(node.outputs, made.outputs, strict=False))
    return Graph(graph.inputs, nodes, [now.get(v, v) for v in graph.outputs]), functions


def _partners(graph: Graph) -> dict[Node, Node]:
    """For each op of a pair in the graph its gradient, and the other way round."""
    gradient = {pair.op: name for name, pair in PAIRS.items()}
    ops: dict[Any, Node] = {}
    partner: dict[Node, Node] = {}
    for node in graph.nodes:
        if node.name in gradient:
            name = gradient[node.name]
            ops[name, node.inputs[PAIRS[name].operands], repr(node.attrs)] = node
        elif node.name in PAIRS:
            found = ops.get((node.name, node.inputs[1:], repr(node.attrs)))
            if found is not None and found not in partner:
                partner[node], partner[found] = found, node
    return partner
