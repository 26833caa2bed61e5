"""Where the values of a graph lie: one arena, in which memory is used again as soon as nothing needs what is in it.

Three things save memory and time. A reshape needs none, for every value lies row after row. An elementwise node may write
where an operand is that nothing reads afterwards. And a tensor's new value may take the memory of the old one: that of an input
which the caller gives away.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

from needle_core.graph.alike import neighbours
from needle_core.graph.fuse import REDUCTIONS
from needle_core.graph.graph import Constant, Fused, Graph, Input, Node, Output, Value
from needle_core.graph.passes import is_elementwise

ALIGNMENT: Final = 64
"""Bytes: a cache line, and the widest vector register. A backend may want more."""


class Memory(NamedTuple):
    """Where a value that a node gives lies.

    In the "arena", `number` bytes from its beginning; in the buffer that becomes "output" `number`; or in that of "input"
    `number`, which is given away.
    """

    region: Literal["arena", "output", "input"]
    number: int


def committed_last(graph: Graph, replaced: Mapping[int, int]) -> Graph:
    """The graph with the nodes that give new values of state last, as far as what comes after them cannot fail.

    A node that fails must find the state as it was. `replaced` says which input each such output replaces. Among these nodes,
    those that are alike stand one after the other.
    """
    readers: dict[Node, list[Node]] = {}
    for node in graph.nodes:
        for v in node.inputs:
            if isinstance(v, Output):
                readers.setdefault(v.node, []).append(node)
    fails: dict[Node, bool] = {}
    for node in reversed(graph.nodes):  # whether it or something that needs it can fail
        fails[node] = can_fail(node) or any(fails[r] for r in readers.get(node, ()))
    last: set[Node] = set()
    for k in replaced:
        v = graph.outputs[k]
        if isinstance(v, Output) and not fails[v.node]:
            last.add(v.node)
    for node in graph.nodes:
        if node in last:
            last.update(readers.get(node, ()))
    nodes = [*(n for n in graph.nodes if n not in last), *neighbours([n for n in graph.nodes if n in last])]
    return Graph(graph.inputs, nodes, graph.outputs)


def can_fail(node: Node) -> bool:
    """Whether a kernel may refuse the numbers that it gets. Elementwise ops do not, nor do reductions."""
    if isinstance(node, Fused):
        return any(map(can_fail, node.body.nodes))
    if node.name == "pow":  # an integer has no negative powers
        return not node.outputs[0].spec.dtype.is_floating
    return not (is_elementwise(node) or node.name in REDUCTIONS or node.name == "random_bits")


class Layout:
    """The `memory` of every value that a node of `graph` gives, and the `size` of the arena in bytes.

    `replaced` says which input each output would replace; `donated`, for which of them it takes the input's memory.
    `writes_over` is what the backend says of its kernels, `alignment` what it says of the places of values.
    """

    def __init__(
        self, graph: Graph, replaced: Mapping[int, int], writes_over: Mapping[str, int], alignment: int = ALIGNMENT
    ) -> None:
        self.graph, self._end, self._writes_over = graph, len(graph.nodes), writes_over
        self._root: dict[Value, Value] = {}  # whose memory a value lies in, if not in its own
        self._born: dict[Value, int] = {}  # the place of the node that gives a value
        self._dies = self._last_reads()  # by root: the last place where its memory is needed
        self._home: dict[Value, Memory] = {v: Memory("input", j) for j, v in enumerate(graph.inputs)}
        self._safe = 1 + max((i for i, node in enumerate(graph.nodes) if can_fail(node)), default=-1)
        self.donated: dict[int, int] = {}
        self.in_place = 0
        self._place_outputs(replaced)
        self._place_over_operands()
        mine = [v for v in self._born if v not in self._root and v not in self._home]
        offsets, self.size = arena([(self._born[v], self._dies[v], v.spec.nbytes) for v in mine], alignment)
        self._home |= {v: Memory("arena", offset) for v, offset in zip(mine, offsets, strict=True)}
        self.memory: dict[Value, Memory] = {v: self._home[self._at(v)] for v in self._born}

    def _at(self, v: Value) -> Value:
        """The value whose memory `v` lies in."""
        while v in self._root:
            v = self._root[v]
        return v

    def _last_reads(self) -> dict[Value, int]:
        """The last read of each value, reads of what is only another shape of it included."""
        kept = set(self.graph.outputs)
        for i, node in enumerate(self.graph.nodes):
            self._born.update(dict.fromkeys(node.outputs, i))
            if node.name == "reshape" and not kept.intersection(node.outputs) and not isinstance(node.inputs[0], Constant):
                self._root[node.outputs[0]] = node.inputs[0]
        last: dict[Value, int] = {**dict.fromkeys(self.graph.inputs, -1), **self._born}
        for i, node in enumerate(self.graph.nodes):
            for v in (*node.inputs, *node.outputs):
                last[self._at(v)] = i
        for v in kept:
            last[self._at(v)] = self._end
        return last

    def _place_outputs(self, replaced: Mapping[int, int]) -> None:
        """Give outputs a home: an input whose tensor they are the new value of, or a buffer of their own."""
        for k, y in enumerate(self.graph.outputs):
            if not isinstance(y, Output) or y in self._home or y in self._root:
                continue
            j = replaced.get(k)
            if j is None or not self._can_take(y, self.graph.inputs[j]):
                self._home[y] = Memory("output", k)
            else:
                self._root[y] = self.graph.inputs[j]
                self._dies[self.graph.inputs[j]] = self._end
                self.donated[k] = j

    def _can_take(self, y: Output, x: Input) -> bool:
        """Whether the memory of input `x` is free for the output `y`, and nothing can fail from then on."""
        i = self._born[y]
        free = self._dies[x] < i or (self._dies[x] == i and self._fits(y, x))
        return x.spec is y.spec and i >= self._safe and free

    def _place_over_operands(self) -> None:
        """Put what elementwise nodes give where an operand was that dies there."""
        for i, node in enumerate(self.graph.nodes):
            for y in node.outputs:
                if y in self._root or y in self._home:
                    continue
                for u in node.inputs:
                    root = self._at(u)
                    if isinstance(root, Output) and root not in self._home and self._dies[root] == i and self._fits(y, u):
                        self._root[y] = root
                        self._dies[root] = self._dies[y]
                        self.in_place += 1
                        break

    def _fits(self, y: Output, u: Value) -> bool:
        """Whether the node of `y` may write it over `u`: each element is read before the one at its place is written."""
        node = y.node
        if isinstance(node, Fused):
            made = node.body.outputs[y.index]
            if isinstance(made, Output) and made.node.name in REDUCTIONS:
                return False
        elif node.name in self._writes_over:
            if y.index or u is not node.inputs[self._writes_over[node.name]]:
                return False
        elif not is_elementwise(node):
            return False
        root = self._at(u)
        shapes = {v.spec.shape for v in node.inputs if self._at(v) is root}
        return shapes == {y.spec.shape} and u.spec.dtype.itemsize == y.spec.dtype.itemsize


def arena(lives: Sequence[tuple[int, int, int]], alignment: int = ALIGNMENT) -> tuple[list[int], int]:
    """Offsets for values that are needed from the first to the second number, both included, and have the third for bytes.

    Also the bytes of the whole. Each lies at a multiple of `alignment`. The largest is placed first, each as low as it can be.
    Source: Pisarchyk & Lee 2020, arXiv:2001.03288, "greedy by size"
    """
    offsets = [0] * len(lives)
    placed: list[int] = []
    for i in sorted(range(len(lives)), key=lambda i: (-lives[i][2], lives[i][0])):
        born, dies, nbytes = lives[i]
        size = -(-nbytes // alignment) * alignment
        offset = 0
        for other in placed:  # from the lowest offset up
            first, last, taken = lives[other]
            if taken and first <= dies and born <= last:
                if offset + size <= offsets[other]:
                    break
                offset = max(offset, offsets[other] + -(-taken // alignment) * alignment)
        offsets[i] = offset
        insort(placed, i, key=offsets.__getitem__)
    return offsets, max((offsets[i] + -(-lives[i][2] // alignment) * alignment for i in placed), default=0)
