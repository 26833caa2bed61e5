"""Programs that go along rows, and reduce them: once, or again with what was reduced before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from needle_core.graph.program import Load, Program, Store, row_major
from needle_core.spec import DType, int32
from needle_cuda_backend.element import Element, label, literal, rounded
from needle_cuda_backend.recipe import Entry, Launch, Numbers, Sizes, computed, stored, wide
from needle_cuda_backend.templates import BLOCKS, MOST_LANES, lanes_for, rows_block

STRIP: Final = (32, 8, 1)
"""Threads of a block whose lanes have a row each."""

_HELD: Final = 32
"""Words of rows that a thread holds at most."""

_OPERATIONS: Final = {"sum": "Sum", "mean": "Sum", "prod": "Prod", "max": "Max", "any": "Max", "min": "Min", "all": "Min"}


class Rows:
    """A program that goes along rows, the axes that it reduces, as often as a register needs others that are reduced before.

    If the last axis is among them, the lanes of a warp or of a block go along one row together, in packs; else each lane has a
    row of its own, beside those of the others, and threads in strips go along it. What is read several times stays in registers
    if there is room, and sizes are fixed, for else each length would need a kernel of its own. At its last time along the row a
    thread writes only where it alone has read: so the result may lie over an operand.

    Where there are few rows, and to go along them once is enough, they are split into chunks.
    """

    def __init__(self, program: Program, kept: Sequence[int], axes: tuple[int, ...], fixed: bool) -> None:
        self.program, self.kept, self.axes = program, kept, axes
        self.rows, self.length = (math.prod(program.shape[i] for i in group) for group in (kept, axes))
        self.by_lanes = math.prod(program.shape[max(axes, default=-1) + 1 :]) == 1
        self.number = Numbers(fixed)
        self.body = body = Element(program, [kept, axes], self.number, packs=self.by_lanes)
        reads = [i for k in range(body.last + 1) for i in body.packs(k) if any(program.loads[i].steps[axis] for axis in kept)]
        again = sorted({i for i in reads if reads.count(i) > 1})
        packs = -(-self.length // body.width)
        words = body.width * sum(max(1, body.dtypes[i].itemsize // 4) for i in again)
        lanes, most = lanes_for(self.rows, packs), self.length // 64 if self.length > BLOCKS else 1
        self.block: Sizes = STRIP
        self.held = 0
        """So many packs of a row a thread keeps in registers."""
        if self.by_lanes:
            while lanes < MOST_LANES and -(-packs // lanes) * words > _HELD:
                lanes *= 2
            self.held = -(-packs // lanes) if fixed and 0 < -(-packs // lanes) * words <= _HELD else 0
            self.block, most = rows_block(lanes), packs // (8 * lanes)
        body.held = again if self.held else []
        blocks = -(-self.rows // self.block[self.by_lanes])
        self.chunks = 1 if body.last else max(1, min(BLOCKS // blocks, most))
        self.chunk = -(-packs // self.chunks) * body.width
        self.grid = (blocks, self.chunks, 1)

    def split(self) -> tuple[Program, Program, list[DType]]:
        """The program that reduces chunks, and stores no row, and the one that makes rows of their parts; the dtypes of these.

        Outputs of the first, and inputs of the second, are those of the whole, and then the parts.
        """
        program, body = self.program, self.body
        kinds = {i: _accumulator(x.op, body.dtypes[x.operands[0]]) for i, x in body.reduced(0).items()}
        first, before = len(program.loads) + len(program.numbers), 1 + max((x.input for x in program.loads), default=-1)
        after = 1 + max(y.output for y in program.stores)
        raw = [
            replace(x, op="sum" if x.op == "mean" else x.op, dtype=kinds.get(i, x.dtype))
            for i, x in enumerate(program.instructions, first)
        ]
        stores = [Store(after + k, i, kind, "", self.axes) for k, (i, kind) in enumerate(kinds.items())]
        parts = replace(program, instructions=tuple(raw), stores=(*body.written, *stores))
        sizes = [program.shape[i] for i in self.kept]
        loads = {
            i: replace(program.loads[i], steps=(0, *(program.loads[i].steps[axis] for axis in self.kept)))
            for i in body.loads
            if i not in body.moving
        }
        loads |= {~i: Load(before + k, kind, (self.rows, *row_major(sizes))) for k, (i, kind) in enumerate(kinds.items())}
        known = {i: x for i, x in body.instructions.items() if i not in body.moving}
        at = {i: k for k, i in enumerate([*loads, *range(len(program.loads), first), *known])}
        instructions = [
            replace(x, operands=(at[~i],), attrs={"axes": (0,), "count": self.length})
            if i in kinds
            else replace(x, operands=tuple(at[k] for k in x.operands))
            for i, x in known.items()
        ]
        results = [replace(y, register=at[y.register], axes=(0,)) for y in body.results]
        shape = (self.chunks, *sizes)
        return (
            parts,
            Program(shape, tuple(loads.values()), program.numbers, tuple(instructions), tuple(results)),
            [*kinds.values()],
        )

    def launch(self) -> Launch:
        body, number = self.body, self.number
        n, rows, by = number(self.length), number(self.rows), f" * {body.width}" if body.width > 1 else ""
        if self.by_lanes:
            lane, over, linear = "threadIdx.x", "over_lanes", f"row * {n} + c"
            lanes = str(self.block[0]) if number.fixed else "blockDim.x"
            row = ["const Index row = Index(blockIdx.x) * blockDim.y + threadIdx.y;", f"if (row >= {rows}) return;"]
        else:
            lane, over, linear, lanes = "threadIdx.y", "over_strips", f"c * {rows} + row", str(STRIP[1])
            column = "const Index column = Index(blockIdx.x) * blockDim.x + threadIdx.x;"
            row = [column, f"const bool inside = column < {rows};", "const Index row = inside ? column : 0;"]
        lines = [f"using Index = {body.index};", *row, *body.counters(0, "row"), *body.still()]
        first, stop, part = "", n, ""
        if self.chunks > 1:
            chunk = number(self.chunk)
            end = f"first + {chunk}"
            lines.append(f"const Index first = Index(blockIdx.y) * {chunk}, end = {end} < {n} ? {end} : {n};")
            first, stop, part = "first + ", "end", f" + int64(blockIdx.y) * {rows}"
        if not self.by_lanes:
            lines.append(f"const Index stop = inside ? {stop} : 0;")
            stop = "stop"
        begin = [f"for (Index c = {first}{lane}{by}; c < {stop}; c += {lanes}{by}) {{"]
        if self.held:
            is_whole = self.held * self.block[0] * body.width == self.length
            begin = ["#pragma unroll", f"for (int k = 0; k < {self.held}; ++k) {{"]
            begin.append(f"  const Index c = (Index({lane}) + k * {lanes}){by};")
            begin += [] if is_whole else [f"  if (c >= {n}) continue;"]

        def along(inner: Sequence[str]) -> list[str]:
            return [*begin, *(f"  {line}" for line in (*body.counters(1, "c"), *inner)), "}"]

        lines += [f"Pack<{stored(body.dtypes[i])}, {body.width}> h{i}[{self.held}];" for i in body.held]
        lines += along([f"h{i}[k] = {body.load_pack(i)};" for i in body.held]) if self.held else []
        for k in range(body.last + 1):
            steps, ends = [], []
            for i, x in body.reduced(k).items():
                accumulator, kind = _accumulator(x.op, body.dtypes[x.operands[0]]), computed(x.dtype)
                value = f"{computed(accumulator)}(r{x.operands[0]}{' != 0' if x.op in ('any', 'all') else ''})"
                count = f" / {kind}({number(x.attrs.get('count', self.length))})" if x.op == "mean" else ""
                lines.append(f"{computed(accumulator)} s{i} = {literal(_start(x.op, accumulator), accumulator)};")
                steps.append(f"s{i} = {_OPERATIONS[x.op]}::of(s{i}, {value});")
                made = rounded(f"{kind}({over}<{_OPERATIONS[x.op]}>(s{i}){count})", x.dtype)
                ends.append(f"const {kind} r{i} = {made};")
            lines += [*along(body.element(linear, k, steps)), *ends, *body.still(k + 1)]
        results = [f"  store(y{y.output}{part} + row, r{y.register});" for y in body.results]
        lines += [f"if ({'' if self.by_lanes else 'inside && '}{lane} == 0) {{", *results, "}"] if results else []
        name = label("rows" if self.by_lanes else "columns", self.program)
        entry = Entry.named(name, [*body.parameters(), *number.parameters], "\n".join(lines), True)
        return Launch(entry, self.grid, self.block, (*body.places(), *number.arguments))


def _accumulator(op: str, source: DType) -> DType:
    """What elements of `source` are accumulated in."""
    if op in ("any", "all") or (op in ("max", "min") and not source.is_floating and source.itemsize < 4):
        return int32
    return wide(source)


def _start(op: str, dtype: DType) -> float:
    """What changes nothing."""
    greatest = math.inf if dtype.is_floating else 2 ** (8 * dtype.itemsize - 1)
    return {"max": -greatest, "min": greatest - 1, "prod": 1, "all": 1}.get(op, 0)
