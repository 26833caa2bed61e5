"""Programs that go along rows, and reduce them: once, or again with what was reduced before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from needle_core.graph.program import Instruction, Load, Program, Store, row_major
from needle_core.spec import DType, float32, int32
from needle_cuda_backend.element import Element, label, literal, rounded
from needle_cuda_backend.recipe import Entry, Launch, Numbers, computed, stored
from needle_cuda_backend.templates import BLOCKS, MOST_LANES, lanes_for, rows_block

STRIP: Final = (32, 8)
"""Threads of a block whose lanes have a row each."""

_HELD: Final = 32
"""Words of rows that a thread holds at most."""

_OPERATIONS: Final = {"sum": "Sum", "mean": "Sum", "prod": "Prod", "max": "Max", "any": "Max", "min": "Min", "all": "Min"}


@dataclass(frozen=True)
class Shape:
    """How rows are laid out: over a grid of blocks, the elements of each in so many chunks of that many."""

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    chunks: int = 1
    chunk: int = 0
    held: int = 0
    """So many packs of a row a thread keeps in registers, where it goes along the row several times."""


class Rows:
    """A program that goes along rows, the axes that it reduces, as often as a register needs others that are reduced before.

    If the last axis is among them, the lanes of a warp or of a block go along one row together, in packs; else each of the
    lanes has a row of its own, beside those of the others, with threads in strips. Packs that are read several times stay in
    registers if there is room, and sizes are fixed, for else each length would need a kernel of its own. Each thread writes, at
    its last time along the row, only where it alone has read: so the result may lie over an operand.
    """

    def __init__(self, program: Program, kept: Sequence[int], axes: tuple[int, ...], fixed: bool) -> None:
        self.program, self.kept, self.axes, self.fixed = program, kept, axes, fixed
        self.rows, self.length = (math.prod(program.shape[i] for i in group) for group in (kept, axes))
        self.by_lanes = math.prod(program.shape[max(axes, default=-1) + 1 :]) == 1
        self.number = Numbers(fixed)
        self.body = body = Element(program, [kept, axes], self.number, packs=self.by_lanes)
        self.last = max([body.passes[y.register] for y in body.written] + [body.passes[i] - 1 for i in body.reductions()])
        reads = [
            body.packs([*(x.operands[0] for x in self._reduced(k).values()), *self._stored(k)]) for k in range(self.last + 1)
        ]
        self.again = sorted(i for i in set().union(*reads) if sum(i in x for x in reads) > 1)
        self.shape = self._in_lanes() if self.by_lanes else self._in_strips()

    def _reduced(self, k: int) -> dict[int, Instruction]:
        """What is reduced at the time k along the row."""
        return {i: x for i, x in self.body.reductions().items() if self.body.passes[i] == k + 1}

    def _stored(self, k: int) -> list[int]:
        return [y.register for y in self.body.written] if k == self.last else []

    def _in_lanes(self) -> Shape:
        """A warp for each row if there are many or they are short, else a block or several."""
        width = self.body.width
        packs = -(-self.length // width)
        lanes, held = lanes_for(self.rows, packs), 0
        if self.again:
            size = width * sum(max(1, self.body.dtypes[i].itemsize // 4) for i in self.again)
            while lanes < MOST_LANES and -(-packs // lanes) * size > _HELD:
                lanes *= 2
            held = -(-packs // lanes) if self.fixed and -(-packs // lanes) * size <= _HELD else 0
        block = rows_block(lanes)
        blocks = -(-self.rows // block[1])
        chunks = 1 if self.last else max(1, min(BLOCKS // blocks, packs // (8 * lanes)))
        return Shape((blocks, chunks, 1), block, chunks, -(-packs // chunks) * width, held)

    def _in_strips(self) -> Shape:
        """Where a strip's few steps are all, there are no chunks."""
        blocks = -(-self.rows // STRIP[0])
        chunks = 1 if self.last or self.length <= BLOCKS else max(1, min(BLOCKS // blocks, self.length // 64))
        return Shape((blocks, chunks, 1), (*STRIP, 1), chunks, -(-self.length // chunks))

    def split(self) -> tuple[Program, Program, list[DType]]:
        """The program that reduces chunks, and stores no row, and the one that makes rows of their parts; the dtypes of these.

        Outputs of the first, and inputs of the second, are those of the whole, and then the parts.
        """
        program, body = self.program, self.body
        reductions, first = body.reductions(), len(program.loads) + len(program.numbers)
        kinds = {i: _accumulator(x.op, body.dtypes[x.operands[0]]) for i, x in reductions.items()}
        raw = [
            replace(x, op="sum" if x.op == "mean" else x.op, dtype=kinds[i]) if (i := first + k) in kinds else x
            for k, x in enumerate(program.instructions)
        ]
        after = 1 + max(y.output for y in program.stores)
        stores = [Store(after + k, i, kind, "", self.axes) for k, (i, kind) in enumerate(kinds.items())]
        parts = replace(program, instructions=tuple(raw), stores=(*body.written, *stores))
        sizes, chunks = [program.shape[i] for i in self.kept], self.shape.chunks
        before = 1 + max((x.input for x in program.loads), default=-1)
        loads = [Load(before + k, kind, (self.rows, *row_major(sizes))) for k, kind in enumerate(kinds.values())]
        at = {}
        for i, x in enumerate(program.loads):
            if i in body.needed - body.moving:
                at[i] = len(loads)
                loads.append(Load(x.input, x.dtype, (0, *(x.steps[axis] for axis in self.kept)), x.offset))
        at |= {len(program.loads) + k: len(loads) + k for k in range(len(program.numbers))}
        instructions: list[Instruction] = []
        for i, x in body.instructions.items():
            if i not in body.moving:
                at[i] = len(loads) + len(program.numbers) + len(instructions)
                operands = ([*kinds].index(i),) if i in kinds else tuple(at[k] for k in x.operands)
                instructions.append(
                    replace(x, operands=operands, attrs={"axes": (0,), "count": self.length} if i in kinds else x.attrs)
                )
        results = tuple(replace(y, register=at[y.register], axes=(0,)) for y in body.results)
        rest = Program((chunks, *sizes), tuple(loads), program.numbers, tuple(instructions), results)
        return parts, rest, [*kinds.values()]

    def launch(self, shape: Shape | None = None) -> Launch:
        shape, body, number = shape or self.shape, self.body, self.number
        n, rows = number(self.length), number(self.rows)
        if self.by_lanes:
            lane, lanes, over, inside = "threadIdx.x", "blockDim.x", "over_lanes", ""
            linear = f"row * {n} + c"
            row = ["const Index row = Index(blockIdx.x) * blockDim.y + threadIdx.y;", f"if (row >= {rows}) return;"]
        else:
            lane, lanes, over, inside = "threadIdx.y", "blockDim.y", "over_strips", "inside && "
            linear = f"c * {rows} + row"
            column = f"const Index column = Index(blockIdx.x) * {STRIP[0]} + threadIdx.x;"
            row = [column, f"const bool inside = column < {rows};", "const Index row = inside ? column : 0;"]
        lines = [f"using Index = {body.index};", *row, *body.counters(0, "row"), *body.still()]
        first, stop, part, width = "", n, "", body.width
        if shape.chunks > 1:
            chunk = number(shape.chunk)
            end = f"first + {chunk}"
            lines.append(f"const Index first = Index(blockIdx.y) * {chunk}, stop = {end} < {n} ? {end} : {n};")
            first, stop, part = "first + ", "stop", f" + int64(blockIdx.y) * {rows}"
        begin = [f"for (Index c = {first}{lane} * {width}; {inside}c < {stop}; c += {lanes} * {width}) {{"]
        held = self.again if shape.held else []
        if held:
            test = "" if shape.held * shape.block[0] * width == self.length else f" if (c < {n})"
            c = f"const Index c = (Index({lane}) + k * {shape.block[0]}) * {width};"
            begin = ["#pragma unroll", f"for (int k = 0; k < {shape.held}; ++k) {{", f"  {c}{test} {{"]

        def along(inner: Sequence[str]) -> list[str]:
            return [*begin, *(f"  {line}" for line in (*body.counters(1, "c"), *inner)), "}}" if held else "}"]

        lines += [f"Pack<{stored(body.dtypes[i])}, {width}> h{i}[{shape.held}];" for i in held]
        lines += along([f"h{i}[k] = {body.load_pack(i)};" for i in held]) if held else []
        for k in range(self.last + 1):
            steps = []
            for i, x in self._reduced(k).items():
                kind = _accumulator(x.op, body.dtypes[x.operands[0]])
                lines.append(f"{computed(kind)} s{i} = {literal(_start(x.op, kind), kind)};")
                value = f"r{x.operands[0]}{' != 0' if x.op in ('any', 'all') else ''}"
                steps.append((x.operands[0], f"s{i} = {_OPERATIONS[x.op]}::of(s{i}, {computed(kind)}({value}));"))
            lines += along(body.element(linear, steps, stores=k == self.last, held=held, counter="c"))
            for i, x in self._reduced(k).items():
                kind = computed(x.dtype)
                count = f" / {kind}({number(x.attrs.get('count', self.length))})" if x.op == "mean" else ""
                value = rounded(f"{kind}({over}<{_OPERATIONS[x.op]}>(s{i}){count})", x.dtype)
                lines.append(f"const {kind} r{i} = {value};")
            lines += body.still(k + 1)
        results = [f"  store(y{y.output}{part} + row, r{y.register});" for y in body.results]
        lines += [f"if ({inside}{lane} == 0) {{", *results, "}"] if results else []
        name = label("rows" if self.by_lanes else "columns", self.program)
        entry = Entry.named(name, [*body.parameters(), *number.parameters], "\n".join(lines), True)
        return Launch(entry, shape.grid, shape.block, (*body.places(), *number.arguments))


def _accumulator(op: str, source: DType) -> DType:
    """What elements of `source` are accumulated in."""
    if op in ("any", "all") or (op in ("max", "min") and source.kind != "float" and source.itemsize < 4):
        return int32
    return float32 if source.itemsize == 2 else source


def _start(op: str, dtype: DType) -> float:
    """What changes nothing."""
    greatest = math.inf if dtype.is_floating else 2 ** (8 * dtype.itemsize - 1)
    return {"max": -greatest, "min": greatest - 1, "prod": 1, "all": 1}.get(op, 0)
