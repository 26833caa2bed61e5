"""Fused nodes that do the same to different values, as an optimizer does to each parameter: a backend may run them as one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from needle_core.graph.fuse import REDUCTIONS
from needle_core.graph.graph import Fused, Node, Output, Value
from needle_core.graph.program import Program, broadcast_steps, program_of

if TYPE_CHECKING:
    from needle_core.graph.plan import Plan

Piece: TypeAlias = tuple[object, int, int]
"""A buffer, and the first byte of it and the one after the last."""


def alike(plan: Plan) -> list[list[Fused]]:
    """Groups of two or more nodes of a plan, which stand one after the other and may run in any order, or side by side.

    Their programs are the same but for the shape, as `flat` gives them, and none writes where another reads or writes.
    """
    places: dict[Value, tuple[str, int]] = {v: ("input", j) for j, v in enumerate(plan.graph.inputs)} | dict(plan.memory)
    groups: list[list[Fused]] = []
    kind, read, written = "", _Pieces(), _Pieces()
    for node in plan.graph.nodes:
        before, kind = kind, _kind(node)
        if not kind or not isinstance(node, Fused):
            continue
        reads, writes = _pieces(node.inputs, places), _pieces(node.outputs, places)
        if kind != before or read.meet(writes) or written.meet(writes) or written.meet(reads):
            groups.append([])
            read, written = _Pieces(), _Pieces()
        groups[-1].append(node)
        read.add(reads)
        written.add(writes)
    return [group for group in groups if len(group) > 1]


def flat(node: Fused) -> Program | None:
    """The program of a node over one axis, if it is elementwise and each input has its shape or one element."""
    if any(part.name in REDUCTIONS or part.name == "random_bits" for part in node.body.nodes):
        return None
    program, y = program_of(node), node.outputs[0].spec
    rows = broadcast_steps(y.shape, y.shape)
    if any(any(x.steps) and x.steps != rows for x in program.loads):
        return None
    return replace(program, shape=(y.size,), loads=tuple(replace(x, steps=(int(any(x.steps)),)) for x in program.loads))


def neighbours(nodes: Sequence[Node]) -> list[Node]:
    """The nodes in another order in which they can run, where those whose programs are alike stand one after the other."""
    depth: dict[Node, int] = {}
    for node in nodes:
        depth[node] = 1 + max((depth.get(v.node, 0) for v in node.inputs if isinstance(v, Output)), default=0)
    kinds: dict[str, int] = {}
    places = {node: (depth[node], kinds.setdefault(_kind(node), len(kinds))) for node in nodes}
    return sorted(nodes, key=places.__getitem__)


def _kind(node: Node) -> str:
    """The program of a node that others may be like, without its shape."""
    program = flat(node) if isinstance(node, Fused) else None
    return str(replace(program, shape=())) if program else ""


def _pieces(values: Iterable[Value], places: Mapping[Value, tuple[str, int]]) -> list[Piece]:
    """Where values lie. Constants are left out, for nothing writes them."""
    found: list[Piece] = []
    for v in values:
        if v in places:
            region, number = places[v]
            first = number if region == "arena" else 0
            found.append(("arena" if region == "arena" else (region, number), first, first + v.spec.nbytes))
    return found


class _Pieces:
    """Pieces of memory, by buffer."""

    def __init__(self) -> None:
        self._of: dict[object, list[tuple[int, int]]] = defaultdict(list)

    def add(self, pieces: Iterable[Piece]) -> None:
        for buffer, first, end in pieces:
            self._of[buffer].append((first, end))

    def meet(self, pieces: Iterable[Piece]) -> bool:
        """Whether one of `pieces` has bytes in common with one of these."""
        return any(first < e and f < end for buffer, first, end in pieces for f, e in self._of.get(buffer, ()))
