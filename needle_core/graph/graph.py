"""A computation written down: nodes, each the application of an op to values that inputs, constants and earlier nodes give.

A graph is in static single assignment: a value is given once, and nodes stand in an order in which they can run. Whatever
changes a graph makes a new one; nodes and values themselves never change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from needle_core.errors import CompileError
from needle_core.record import Symbol
from needle_core.spec import Spec
from needle_core.tensor import Number

if TYPE_CHECKING:
    from needle_core.op import Op


class Value(Symbol):
    """What stands for a buffer while nothing is computed: an input, a constant, or an output of a node."""

    __slots__ = ("label", "spec")
    __array_ufunc__ = None  # NumPy must not take it for an object to compute with

    def __init__(self, spec: Spec, label: str = "") -> None:
        self.spec, self.label = spec, label

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise CompileError("a value of a captured computation has no numbers", details={"value": self.spec})

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.label} {self.spec}>"


class Input(Value):
    """A value that is given anew at each run. `label` says which: `x`, or `state 3`."""

    __slots__ = ()


class Constant(Value):
    """A value that stays: `buffer` is on the device, `number` is the Python number that it was written as, if it was one."""

    __slots__ = ("buffer", "number")

    def __init__(self, spec: Spec, buffer: Any, number: Number | None = None) -> None:
        super().__init__(spec, "" if number is None else repr(number))
        self.buffer, self.number = buffer, number

    def numpy(self) -> Any:
        """Its numbers, as an array of the host."""
        return self.spec.device.backend.to_numpy(self.buffer)


class Output(Value):
    """The output `index` of `node`."""

    __slots__ = ("index", "node")

    def __init__(self, spec: Spec, node: Node, index: int) -> None:
        super().__init__(spec)
        self.node, self.index = node, index


class Node:
    """One application of `op`. `attrs` are canonical; `source` is the line of the user's that led here, as `step.py:12`."""

    __slots__ = ("attrs", "inputs", "is_tuple", "op", "outputs", "source")

    def __init__(
        self,
        op: Op[..., Any],
        inputs: Sequence[Value],
        attrs: Mapping[str, Any],
        spec: Spec | tuple[Spec, ...],
        source: str = "",
    ) -> None:
        self.op, self.inputs, self.attrs, self.source = op, tuple(inputs), dict(attrs), source
        self.is_tuple = isinstance(spec, tuple)
        specs = spec if isinstance(spec, tuple) else (spec,)
        self.outputs = tuple(Output(s, self, i) for i, s in enumerate(specs))

    @property
    def name(self) -> str:
        """What it does, in a word."""
        return self.op.name

    @property
    def spec(self) -> Spec | tuple[Spec, ...]:
        """The spec of its output, or the specs in a tuple if the op gives several."""
        specs = tuple(y.spec for y in self.outputs)
        return specs if self.is_tuple else specs[0]

    def on(self, inputs: Sequence[Value]) -> Node:
        """The same application to other values of the same specs."""
        return type(self)(self.op, inputs, self.attrs, self.spec, self.source)


class Fused(Node):
    """Nodes that run as one, without memory for what only they read: `body` is their graph, on inputs of its own.

    Its op is that of the last of them.
    """

    __slots__ = ("body",)

    def __init__(self, body: Graph, inputs: Sequence[Value]) -> None:
        last = body.nodes[-1]
        super().__init__(last.op, inputs, {}, tuple(y.spec for y in body.outputs), last.source)
        self.body = body

    @property
    def name(self) -> str:
        return "fused"

    def on(self, inputs: Sequence[Value]) -> Fused:
        return Fused(self.body, inputs)


class Graph:
    """`outputs` of `nodes`, given `inputs`. An output may be any value, also an input or a constant, and occur twice."""

    def __init__(self, inputs: Sequence[Input], nodes: Iterable[Node], outputs: Sequence[Value]) -> None:
        self.inputs, self.nodes, self.outputs = tuple(inputs), tuple(nodes), tuple(outputs)

    def constants(self) -> list[Constant]:
        """The constants in it, in the order of their first use."""
        found = {v: None for v in self.values() if isinstance(v, Constant)}
        return list(found)

    def values(self) -> Iterator[Value]:
        """Every value that a node reads or that is an output, as often as it is."""
        for node in self.nodes:
            yield from node.inputs
        yield from self.outputs

    def uses(self) -> dict[Value, int]:
        """How often each value is read; being an output counts as once."""
        counts: dict[Value, int] = {}
        for v in self.values():
            counts[v] = counts.get(v, 0) + 1
        return counts

    def names(self) -> dict[Value, str]:
        """A name for each value: labels of inputs, numbers of constants or c0, c1 ..., and %1, %2 ... for what nodes give."""
        found: dict[Value, str] = {v: v.label for v in self.inputs}
        for i, c in enumerate(self.constants()):
            found[c] = c.label if c.number is not None else f"c{i}"
        for v in (y for node in self.nodes for y in node.outputs):
            found[v] = f"%{len(found)}"
        return found

    def unfused(self, which: Callable[[Fused], bool] = lambda node: True) -> Graph:
        """The same with their parts in the places of fused nodes, or of those that are chosen."""
        now: dict[Value, Value] = {}
        nodes: list[Node] = []
        for node in self.nodes:
            inputs = [now.get(v, v) for v in node.inputs]
            if isinstance(node, Fused) and which(node):
                inner: dict[Value, Value] = dict(zip(node.body.inputs, inputs, strict=True))
                for part in node.body.nodes:
                    nodes.append(part.on([inner.get(v, v) for v in part.inputs]))
                    inner.update(zip(part.outputs, nodes[-1].outputs, strict=True))
                now.update((y, inner[z]) for y, z in zip(node.outputs, node.body.outputs, strict=True))
            else:
                nodes.append(node.on(inputs))
                now.update(zip(node.outputs, nodes[-1].outputs, strict=True))
        return Graph(self.inputs, nodes, [now.get(v, v) for v in self.outputs])

    def to_dot(self) -> str:
        """Source for Graphviz: `dot -Tsvg`."""
        from needle_core.graph.drawing import dot

        return dot(self)

    def to_html(self, title: str = "graph") -> str:
        """A page that shows the graph, searchable, and needs nothing but itself."""
        from needle_core.graph.drawing import page

        return page([(title, self)])

    def __str__(self) -> str:
        names = self.names()
        lines = [f"{names[v]}: {v.spec}" for v in self.inputs]
        lines += [f"{names[c]}: {c.spec} = {_shown(c)}" for c in self.constants() if c.number is None]
        for node in self.nodes:
            written = [names[v] for v in node.inputs] + [f"{name}={value}" for name, value in node.attrs.items()]
            made = ", ".join(f"{names[y]}: {y.spec}" for y in node.outputs)
            line = f"{made} = {node.name}({', '.join(written)})"
            lines.append(f"{line:<88}  # {node.source}" if node.source else line)
            if isinstance(node, Fused):
                lines += [f"    {part}" for part in str(node.body).splitlines()[len(node.inputs) :]]
        lines.append(f"return {', '.join(names[v] for v in self.outputs)}")
        return "\n".join(lines)


def _shown(constant: Constant) -> str:
    return " ".join(np.array2string(constant.numpy(), threshold=6, edgeitems=2, separator=", ").split())
