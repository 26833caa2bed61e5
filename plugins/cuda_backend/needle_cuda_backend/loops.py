"""Expression programs as CUDA C, from three templates: map, rows (reduces the last axes), columns (reduces the first axes).

What a program stores without a reduction goes with one of its reductions. A reduction with few results and much to add up is
split into chunks, whose parts another kernel combines; how many depends on the shape alone, so that results do not vary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from needle_core.graph.program import Program, Store
from needle_core.spec import bool_, float32, float64, int32, int64, uint8
from needle_cuda_backend.element import Element, dtypes_of
from needle_cuda_backend.recipe import Entry, Launch, Many, Numbers, Place, Recipe, computed, stored
from needle_cuda_backend.templates import BLOCKS, THREADS, lanes_for, rows_block

STRIP: Final = (32, 8)
"""Threads of a block that reduces columns."""

_FEW: Final = 2**13
"""Elements of which more threads with less each would not be faster, as those of a map are where packs do not fill a device."""

NEGATIVE_POWER: Final = (ValueError, "integers have no negative powers")

_OPERATIONS: Final = {"sum": "Sum", "mean": "Sum", "prod": "Prod", "max": "Max", "any": "Max", "min": "Min", "all": "Min"}
_SMALL: Final = ("bool", "uint8", "int32")


def recipe_of(program: Program, fixed: bool) -> Recipe:
    """The launches of a program. Its inputs and outputs are those of the recipe."""
    can_fail = any(x.op == "pow" and not x.dtype.is_floating for x in program.instructions)
    recipe = Recipe(failure=NEGATIVE_POWER if can_fail else None)
    plain = [y for y in program.stores if not y.reduction]
    groups: dict[tuple[int, ...], list[Store]] = {}
    for y in program.stores:
        if y.reduction:
            groups.setdefault(y.axes, []).append(y)
    if not groups:
        if math.prod(program.shape):
            moves = not program.instructions and not program.numbers
            program = _of_bits(program) if moves else program
            recipe.operations.append(_map(program, program.stores, fixed))
        return recipe
    for i, (axes, stores) in enumerate(groups.items()):  # the last one writes what may lie over operands
        _reduce(recipe, program, axes, [*stores, *(plain if i == len(groups) - 1 else ())], fixed)
    return recipe


def recipe_of_many(programs: Sequence[Program]) -> Recipe:
    """One launch for programs over one axis that are alike but for its length; their operands come one after the other."""
    stores = programs[0].stores
    by_packs, by_one = (Element(replace(programs[0], shape=(n,)), stores, [(0,)], Numbers(fixed=True)) for n in (4096, 4097))
    pointers, operands = by_packs.parameters(), by_packs.operands()
    lines = [
        "using Index = int64;",
        f"const int64* const member = members + blocks[2 * blockIdx.x] * {len(pointers) + 1};",
        *(f"{pointer} = ({pointer.rpartition(' ')[0]})member[{k}];" for k, pointer in enumerate(pointers)),
        f"const int64 n = member[{len(pointers)}];",
        f"int64 i0 = blocks[2 * blockIdx.x + 1] + threadIdx.x * {by_packs.width};",
        f"if (i0 + {by_packs.width} <= n) {{",
        *(f"  {line}" for line in by_packs.element("i0", [])),
        "} else {",
        "  for (; i0 < n; ++i0) {",
        *(f"    {line}" for line in by_one.element("i0", [])),
        "  }",
        "}",
    ]
    entry = Entry.named(_label("many", programs[0]), ["const int64* members", "const int64* blocks"], "\n".join(lines))
    count = {region: 1 + max((x.number for x in operands if x.region == region), default=-1) for region in ("input", "output")}
    members = [
        (tuple(x._replace(number=x.number + k * count[x.region]) for x in operands), program.shape[0])
        for k, program in enumerate(programs)
    ]
    return Recipe([Many(entry, tuple(members), THREADS * by_packs.width)])


def _of_bits(program: Program) -> Program:
    """A program that only moves elements, as one of integers of their size: one kernel serves several dtypes."""
    loads = tuple(replace(x, dtype=_BITS.get(x.dtype, x.dtype)) for x in program.loads)
    return replace(program, loads=loads, stores=tuple(replace(y, dtype=_BITS.get(y.dtype, y.dtype)) for y in program.stores))


_BITS: Final = {bool_: uint8, float32: int32, float64: int64}


def _map(program: Program, stores: Sequence[Store], fixed: bool) -> Launch:
    number = Numbers(fixed)
    body = Element(program, stores, [range(len(program.shape))], number)
    n = math.prod(program.shape)
    while body.width > 1 and _FEW < n < BLOCKS * THREADS * body.width:
        body.width //= 2
    lines = [
        f"using Index = {body.index};",
        f"const Index i = (Index(blockIdx.x) * {THREADS} + threadIdx.x){f' * {body.width}' if body.width > 1 else ''};",
        f"if (i >= {number(n)}) return;",
        *body.counters(0, "i"),
        *body.element("i", []),
    ]
    entry = Entry.named(_label("map", program), [*body.parameters(), *number.parameters], "\n".join(lines))
    blocks = -(-n // (THREADS * body.width))
    return Launch(entry, (blocks, 1, 1), (THREADS, 1, 1), (*body.places(), *number.arguments))


def _reduce(recipe: Recipe, program: Program, axes: tuple[int, ...], stores: Sequence[Store], fixed: bool) -> None:
    """Append the launches of the reductions over `axes`, and of what is stored with them."""
    number = Numbers(fixed)
    all_axes = range(len(program.shape))
    kept = [i for i in all_axes if i not in axes]
    by_rows = axes[-1] == len(program.shape) - 1
    body = Element(program, stores, [kept, axes] if by_rows else [axes, kept], number)
    results, length = (math.prod(program.shape[i] for i in group) for group in (kept, axes))
    if not results:
        return
    shape = _rows(results, length, body.width) if by_rows else _columns(results, length)
    reductions = [_Reduction(k, y, program) for k, y in enumerate(y for y in stores if y.reduction)]
    parts = [recipe.space(shape.chunks * results * x.nbytes) if shape.chunks > 1 else None for x in reductions]
    write = _rows_code if by_rows else _columns_code
    lines = write(body, number, reductions, shape, results, length)
    parameters = body.parameters() + [
        f"{x.kind if shape.chunks > 1 else stored(x.store.dtype)}* z{x.number}" for x in reductions
    ]
    targets = [part if part is not None else Place("output", x.store.output) for x, part in zip(reductions, parts, strict=True)]
    label = _label("rows" if by_rows else "columns", program)
    entry = Entry.named(label, [*parameters, *number.parameters], "\n".join(lines), True)
    recipe.operations.append(Launch(entry, shape.grid, shape.block, (*body.places(), *targets, *number.arguments)))
    for x, part in zip(reductions, parts, strict=True):
        if part is not None:
            recipe.operations.append(x.combine(part, results, shape.chunks, length, fixed))


@dataclass
class _Shape:
    """How a reduction is laid out: over a grid of blocks, each result's elements in so many chunks of that many."""

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    chunks: int
    chunk: int


def _rows(rows: int, length: int, width: int) -> _Shape:
    """A warp for each row if there are many or they are short, else a block or several."""
    packs = -(-length // width)
    lanes = lanes_for(rows, packs)
    block = rows_block(lanes)
    blocks = -(-rows // block[1])
    chunks = max(1, min(BLOCKS // blocks, packs // (8 * lanes)))
    chunk = -(-packs // chunks) * width
    return _Shape((blocks, chunks, 1), block, chunks, chunk)


def _columns(columns: int, length: int) -> _Shape:
    blocks = -(-columns // STRIP[0])
    chunks = max(1, min(BLOCKS // blocks, length // 64))
    return _Shape((blocks, chunks, 1), (*STRIP, 1), chunks, -(-length // chunks))


class _Reduction:
    """One reduced store: the type it is accumulated in, and the code of its parts."""

    def __init__(self, number: int, store: Store, program: Program) -> None:
        self.number, self.store = number, store
        self.of_any = store.reduction in ("any", "all")
        source = dtypes_of(program)[store.register]
        is_small = source.name in _SMALL and store.reduction in ("max", "min")
        self.kind = "int32" if self.of_any or is_small else computed(source)
        self.nbytes = 8 if self.kind in ("int64", "double") else 4
        self.operation = _OPERATIONS[store.reduction]
        self.first = {"Sum": "0", "Prod": "1", "Max": f"Least<{self.kind}>::value()", "Min": f"Greatest<{self.kind}>::value()"}[
            self.operation
        ]
        if self.of_any:
            self.first = "0" if store.reduction == "any" else "1"

    def start(self) -> str:
        return f"{self.kind} s{self.number} = {self.first};"

    def step(self) -> str:
        """With {} for the element."""
        value = f"{self.kind}({{}} != 0)" if self.of_any else f"{self.kind}({{}})"
        return f"s{self.number} = {self.operation}::of(s{self.number}, {value});"

    def result(self, accumulated: str, count: str) -> str:
        kind = computed(self.store.dtype)
        return f"{kind}({accumulated}{f' / {kind}({count})' if self.store.reduction == 'mean' else ''})"

    def combine(self, part: Place, results: int, chunks: int, length: int, fixed: bool) -> Launch:
        """The launch that makes results of the parts of all chunks."""
        number = Numbers(fixed)
        lines = [
            f"const int64 i = int64(blockIdx.x) * {THREADS} + threadIdx.x;",
            f"if (i >= {number(results)}) return;",
            self.start(),
            f"for (int64 k = 0; k < {number(chunks)}; ++k) {self.step().format(f'parts[k * {number(results)} + i]')}"
            if not self.of_any
            else f"for (int64 k = 0; k < {number(chunks)}; ++k) "
            f"s{self.number} = {self.operation}::of(s{self.number}, parts[k * {number(results)} + i]);",
            f"store(y + i, {self.result(f's{self.number}', number(length))});",
        ]
        parameters = [f"const {self.kind}* parts", f"{stored(self.store.dtype)}* y", *number.parameters]
        entry = Entry.named(f"combine_{self.store.reduction}", parameters, "\n".join(lines))
        blocks = -(-results // THREADS)
        arguments: tuple[Place | int, ...] = (part, Place("output", self.store.output), *number.arguments)
        return Launch(entry, (blocks, 1, 1), (THREADS, 1, 1), arguments)


def _rows_code(
    body: Element, number: Numbers, reductions: Sequence[_Reduction], shape: _Shape, rows: int, length: int
) -> list[str]:
    n, chunk = number(length), number(shape.chunk)
    lines = [
        f"using Index = {body.index};",
        "const Index row = Index(blockIdx.x) * blockDim.y + threadIdx.y;",
        f"if (row >= {number(rows)}) return;",
        *body.counters(0, "row"),
        *(x.start() for x in reductions),
        f"const Index first = Index(blockIdx.y) * {chunk}, stop = first + {chunk} < {n} ? first + {chunk} : {n};",
        f"for (Index c = first + threadIdx.x * {body.width}; c < stop; c += blockDim.x * {body.width}) {{",
        *(f"  {line}" for line in body.counters(1, "c")),
        *(f"  {line}" for line in body.element(f"int64(row) * {n} + c", [x.step() for x in reductions])),
        "}",
        *(f"s{x.number} = over_lanes<{x.operation}>(s{x.number});" for x in reductions),
        "if (threadIdx.x == 0) {",
    ]
    return [*lines, *_last(reductions, number, shape, "row", rows, length), "}"]


def _columns_code(
    body: Element, number: Numbers, reductions: Sequence[_Reduction], shape: _Shape, columns: int, length: int
) -> list[str]:
    body.width = 1
    n, chunk, across = number(length), number(shape.chunk), number(columns)
    lines = [
        f"using Index = {body.index};",
        f"const Index c = Index(blockIdx.x) * {STRIP[0]} + threadIdx.x;",
        f"const bool inside = c < {across};",
        *body.counters(1, "c"),
        *(x.start() for x in reductions),
        f"const Index first = Index(blockIdx.y) * {chunk}, stop = first + {chunk} < {n} ? first + {chunk} : {n};",
        f"for (Index row = first + threadIdx.y; inside && row < stop; row += {STRIP[1]}) {{",
        *(f"  {line}" for line in body.counters(0, "row")),
        *(f"  {line}" for line in body.element(f"int64(row) * {across} + c", [x.step() for x in reductions])),
        "}",
        *(f"s{x.number} = over_strips<{x.operation}>(s{x.number});" for x in reductions),
        "if (inside && threadIdx.y == 0) {",
    ]
    return [*lines, *_last(reductions, number, shape, "c", columns, length), "}"]


def _last(reductions: Sequence[_Reduction], number: Numbers, shape: _Shape, place: str, results: int, length: int) -> list[str]:
    """Write the results, or the parts of this chunk."""
    if shape.chunks == 1:
        return [f"  store(z{x.number} + {place}, {x.result(f's{x.number}', number(length))});" for x in reductions]
    return [f"  z{x.number}[int64(blockIdx.y) * {number(results)} + {place}] = s{x.number};" for x in reductions]


def _label(template: str, program: Program) -> str:
    names = dict.fromkeys([*(x.op for x in program.instructions), *(y.reduction for y in program.stores if y.reduction)])
    return "_".join([template, *names]) if names else f"{template}_copy"
