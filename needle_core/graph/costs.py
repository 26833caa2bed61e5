"""What the nodes of a plan cost: bytes read and written, arithmetic operations, and seconds where these were measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

from needle_core.graph.fuse import REDUCTIONS
from needle_core.graph.graph import Fused, Graph, Node
from needle_core.spec import Spec


def nbytes(node: Node) -> int:
    """The bytes of what a node reads, each operand once, and of what it gives."""
    return sum(v.spec.nbytes for v in dict.fromkeys((*node.inputs, *node.outputs)))


def operations(node: Node) -> int:
    """About how many arithmetic operations a node takes, a multiplication and an addition counted as two."""
    if isinstance(node, Fused):
        return sum(map(operations, node.body.nodes))
    return operations_of(node.name, [v.spec for v in node.inputs], [y.spec for y in node.outputs])


def operations_of(name: str, inputs: list[Spec], outputs: list[Spec]) -> int:
    """The same of the op called `name`."""
    if name in _COUNTS:
        return _COUNTS[name](inputs, outputs)
    return max(x.size for x in ((*inputs, *outputs) if name in REDUCTIONS else outputs))


def _product(inputs: list[Spec], outputs: list[Spec]) -> int:
    a, y = inputs[0], outputs[0]
    m = y.shape[-2] if y.ndim > 1 and a.ndim > 1 else 1
    return 2 * y.size * (math.prod(a.shape[-2:]) // max(m, 1))


def _attention(q: Spec, k: Spec, v: Spec, batch: int) -> int:
    return 2 * batch * q.shape[-2] * k.shape[-2] * (q.shape[-1] + v.shape[-1])


def _recurrent(x: Spec, w_ih: Spec, w_hh: Spec) -> int:
    return 2 * math.prod(x.shape[:-1]) * (w_ih.size + w_hh.size)


_COUNTS: Final[Mapping[str, Callable[[list[Spec], list[Spec]], int]]] = {
    "matmul": _product,
    "linear": _product,
    "gemm": _product,
    "conv": lambda x, y: 2 * y[0].size * math.prod(x[1].shape[1:]),
    "conv_transpose": lambda x, y: 2 * x[0].size * math.prod(x[1].shape[1:]),
    "conv_weight_grad": lambda x, y: 2 * x[0].size * math.prod(y[0].shape[1:]),
    "scaled_dot_product_attention": lambda x, y: _attention(x[0], x[1], x[2], math.prod(y[0].shape[:-2])),
    "scaled_dot_product_attention_grad": lambda x, y: 5 * _attention(x[1], x[2], x[3], math.prod(x[0].shape[:-2])) // 2,
    "self_attention": lambda x, y: 4 * y[0].size * y[0].shape[-2],
    "self_attention_grad": lambda x, y: 10 * x[0].size * x[0].shape[-2],
    "lstm": lambda x, y: _recurrent(x[0], x[3], x[4]),
    "lstm_grad": lambda x, y: 3 * _recurrent(x[4], x[7], x[8]),
    "gru": lambda x, y: _recurrent(x[0], x[2], x[3]),
    "gru_grad": lambda x, y: 3 * _recurrent(x[2], x[4], x[5]),
}


def listed(graph: Graph, seconds: Mapping[Node, float] | None = None) -> list[str]:
    """A line for each node, with what it costs; with seconds, the slowest first."""
    nodes = sorted(graph.nodes, key=lambda node: -seconds.get(node, 0.0)) if seconds is not None else graph.nodes
    head = ("us", "GB/s") if seconds is not None else ("", "")
    lines = [f"{head[0]:>9} {'KB':>9} {'Mop':>8} {head[1]:>6}  instruction"]
    for node in nodes:
        read, work = nbytes(node), operations(node)
        took = seconds.get(node) if seconds is not None else None
        rate = f"{read / took / 1e9:6.1f}" if took else " " * 6
        time = f"{took * 1e6:9.1f}" if took is not None else " " * 9
        specs = ", ".join(str(v.spec).partition(" on ")[0] for v in node.outputs)
        name = " ".join(part.name for part in node.body.nodes) if isinstance(node, Fused) else node.name
        lines.append(f"{time} {read / 1e3:9.1f} {work / 1e6:8.2f} {rate}  {name} -> {specs}")
    return lines
