"""Expression programs as CUDA C, from three templates: map, rows (reduces the last axes), columns (reduces others).

What a program stores without a reduction goes with one of its reductions. A reduction with few results and much to add up is
split into chunks, whose parts another kernel combines; how many depends on the shape alone, so that results do not vary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from needle_core.graph.fuse import REDUCTIONS
from needle_core.graph.program import Instruction, Program
from needle_core.spec import bool_, float32, float64, int32, int64, uint8
from needle_cuda_backend.element import Element, dtypes_of, label
from needle_cuda_backend.recipe import Entry, Launch, Many, Numbers, Recipe, inputs_of, outputs_of
from needle_cuda_backend.rows import Rows
from needle_cuda_backend.templates import BLOCKS, THREADS

_FEW: Final = 2**13
"""Elements of which more threads with less each would not be faster, as those of a map are where packs do not fill a device."""

NEGATIVE_POWER: Final = (ValueError, "integers have no negative powers")


def recipe_of(program: Program, fixed: bool) -> Recipe:
    """The launches of a program. Its inputs and outputs are those of the recipe."""
    can_fail = any(x.op == "pow" and not x.dtype.is_floating for x in program.instructions)
    recipe = Recipe(failure=NEGATIVE_POWER if can_fail else None)
    reductions = [x.attrs["axes"] for x in program.instructions if x.op in REDUCTIONS]
    over = [*dict.fromkeys([*reductions, *(y.axes for y in program.stores if y.axes)])]
    if not over and 0 not in program.shape:
        moves = not program.instructions and not program.numbers
        recipe.operations.append(_map(_of_bits(program) if moves else program, fixed))
    for axes in over:  # the last one writes what may lie over operands
        _reduce(recipe, _with_reductions(program, axes, whole=axes == over[-1]), axes, fixed)
    return recipe


def recipe_of_many(programs: Sequence[Program]) -> Recipe:
    """One launch for programs over one axis that are alike but for its length; their operands come one after the other."""
    by_packs, by_one = (Element(replace(programs[0], shape=(n,)), [(0,)], Numbers(fixed=True)) for n in (4096, 4097))
    pointers, operands = by_packs.parameters(), by_packs.operands()
    lines = [
        "using Index = int64;",
        f"const int64* const member = members + blocks[2 * blockIdx.x] * {len(pointers) + 1};",
        *(f"{pointer} = ({pointer.rpartition(' ')[0]})member[{k}];" for k, pointer in enumerate(pointers)),
        f"const int64 n = member[{len(pointers)}];",
        *by_packs.still(),
        f"int64 i0 = blocks[2 * blockIdx.x + 1] + threadIdx.x * {by_packs.width};",
        f"if (i0 + {by_packs.width} <= n) {{",
        *(f"  {line}" for line in by_packs.element("i0")),
        "} else {",
        "  for (; i0 < n; ++i0) {",
        *(f"    {line}" for line in by_one.element("i0")),
        "  }",
        "}",
    ]
    entry = Entry.named(label("many", programs[0]), ["const int64* members", "const int64* blocks"], "\n".join(lines))
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


def _map(program: Program, fixed: bool) -> Launch:
    number = Numbers(fixed)
    body = Element(program, [range(len(program.shape))], number, packs=fixed)
    n = math.prod(program.shape)
    while body.width > 1 and _FEW < n < BLOCKS * THREADS * body.width:
        body.width //= 2
    lines = [
        f"using Index = {body.index};",
        f"const Index i = (Index(blockIdx.x) * {THREADS} + threadIdx.x){f' * {body.width}' if body.width > 1 else ''};",
        f"if (i >= {number(n)}) return;",
        *body.counters(0, "i"),
        *body.still(),
        *body.element("i"),
    ]
    entry = Entry.named(label("map", program), [*body.parameters(), *number.parameters], "\n".join(lines))
    blocks = -(-n // (THREADS * body.width))
    return Launch(entry, (blocks, 1, 1), (THREADS, 1, 1), (*body.places(), *number.arguments))


def _with_reductions(program: Program, axes: tuple[int, ...], *, whole: bool) -> Program:
    """The program with reductions over `axes` as instructions, and the stores of these; and if `whole`, those without any."""
    stores = [y for y in program.stores if y.axes == axes or (whole and not y.axes)]
    reduced = {y: i for i, y in enumerate((y for y in stores if y.reduction), len(dtypes_of(program)))}
    added = [Instruction(y.reduction, (y.register,), {"axes": axes}, y.dtype) for y in reduced]
    stores = [replace(y, register=reduced.get(y, y.register), reduction="") for y in stores]
    return replace(program, instructions=(*program.instructions, *added), stores=tuple(stores))


def _reduce(recipe: Recipe, program: Program, axes: tuple[int, ...], fixed: bool) -> None:
    """Append the launch of a program whose reductions are over `axes`; or two, if rows are split into chunks."""
    kept = [i for i in range(len(program.shape)) if i not in axes]
    if not math.prod(program.shape[i] for i in kept):
        return
    whole = Rows(program, kept, axes, fixed)
    if whole.chunks == 1:
        recipe.operations.append(whole.launch())
        return
    parts, rest, kinds = whole.split()
    places = [recipe.space(whole.chunks * whole.rows * kind.itemsize) for kind in kinds]
    inputs = inputs_of(1 + max((x.input for x in program.loads), default=-1))
    outputs = outputs_of(1 + max(y.output for y in program.stores))
    recipe.then(Recipe([Rows(parts, kept, axes, fixed).launch()]), inputs, [*outputs, *places])
    recipe.then(recipe_of(rest, fixed), [*inputs, *places], outputs)
