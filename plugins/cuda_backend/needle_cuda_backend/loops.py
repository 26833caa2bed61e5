"""Expression programs as CUDA C, from three templates: map, rows (reduces the last axes), columns (reduces the first axes).

What a program stores without a reduction goes with one of its reductions. A reduction with few results and much to add up is
split into chunks, whose parts another kernel combines; how many depends on the shape alone, so that results do not vary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from needle_core.graph.program import Instruction, Program, Store, row_major
from needle_core.spec import DType, bool_, float32, float64, int32, int64, uint8
from needle_cuda_backend.recipe import Entry, Launch, Numbers, Place, Recipe, computed, stored

THREADS: Final = 256
BLOCKS: Final = 264
"""About as many blocks keep a large device busy: two for each of 132 multiprocessors."""
STRIP: Final = (32, 8)
"""Threads of a block that reduces columns."""

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


@dataclass
class _Ref:
    """Where a load or store is: its type in memory, and its steps along the merged axes, outer ones first."""

    name: str
    dtype: DType
    steps: list[int]
    offset: int


class _Body:
    """The code of one element, or of `width` elements that follow each other along the last axis.

    `groups` are the axes that have a counter in common; each becomes as few axes as the steps of all operands allow. Where
    sizes are no numbers in the source, groups are of one axis, of four or of more, so that few sources serve all shapes.
    """

    def __init__(self, program: Program, stores: Sequence[Store], groups: Sequence[Sequence[int]], number: Numbers) -> None:
        self.program, self.stores, self.number = program, stores, number
        self.needed = _needed(program, stores)
        self.written = [y for y in stores if not y.reduction]
        loads = [x for i, x in enumerate(program.loads) if i in self.needed]
        whole = row_major(program.shape)
        steps = [x.steps for x in loads] + [whole if y.steps is None else y.steps for y in self.written]
        merged = [_merged(program.shape, axes, steps) for axes in groups]
        if not number.fixed:
            merged = [_padded(sizes, by_ref) for sizes, by_ref in merged]
        self.sizes = [sizes for sizes, _ in merged]
        at = [[s for _, by_ref in merged for s in by_ref[i]] for i in range(len(steps))]
        self.loads = {
            i: _Ref(f"a{x.input}", x.dtype, at[k], x.offset)
            for k, (i, x) in enumerate((i, x) for i, x in enumerate(program.loads) if i in self.needed)
        }
        self.targets = [_Ref(f"y{y.output}", y.dtype, at[len(loads) + k], y.offset) for k, y in enumerate(self.written)]
        self.width = self._width() if number.fixed else 1
        extents = [abs(r.offset) + sum(abs(s) * n for s, n in zip(r.steps, self._flat(), strict=True)) for r in self._refs()]
        self.index = "int" if number.fixed and max([math.prod(program.shape), *extents]) < 2**31 - 2**20 else "int64"
        self.can_fail = any(x.op == "pow" and not x.dtype.is_floating for x in self._instructions().values())

    def _flat(self) -> list[int]:
        return [n for sizes in self.sizes for n in sizes]

    def _refs(self) -> list[_Ref]:
        return [*self.loads.values(), *self.targets]

    def _width(self) -> int:
        """How many elements go into 16 bytes, if all operands lie so that they can be read and written together."""
        inner = self.sizes[-1]
        if not inner:
            return 1
        packed = [r for r in self._refs() if r.steps[-1] == 1]
        width = 16 // max((r.dtype.itemsize for r in packed), default=16)
        while width > 1:
            whole = all(r.offset % width == 0 and all(s % width == 0 for s in r.steps[:-1]) for r in packed)
            if inner[-1] % width == 0 and whole:
                return width
            width //= 2
        return 1

    def _instructions(self) -> dict[int, Instruction]:
        first = len(self.program.loads) + len(self.program.numbers)
        return {first + i: x for i, x in enumerate(self.program.instructions) if first + i in self.needed}

    def parameters(self) -> list[str]:
        """Pointers of the operands that are read and written, each once."""
        reads = dict.fromkeys(f"const {stored(r.dtype)}* {r.name}" for r in self.loads.values())
        return [*reads, *(f"{stored(r.dtype)}* {r.name}" for r in self.targets), *(["int* flag", "int64 mark"] * self.can_fail)]

    def places(self) -> list[Place | int]:
        reads = dict.fromkeys(int(r.name[1:]) for r in self.loads.values())
        places: list[Place | int] = [Place("input", i) for i in reads]
        places += [Place("output", y.output) for y in self.written]
        return places + [Place("failure"), Place("mark")] * self.can_fail

    def counters(self, group: int, linear: str) -> list[str]:
        """The indexes along the axes of a group, from its counter."""
        first = sum(map(len, self.sizes[:group]))
        sizes = self.sizes[group]
        lines = []
        rest = linear
        for k in range(len(sizes) - 1, 0, -1):
            n = self.number(sizes[k])
            lines.append(f"const Index i{first + k} = {rest} % {n}, rest{first + k} = {rest} / {n};")
            rest = f"rest{first + k}"
        return [*lines, *([f"const Index i{first} = {rest};"] if sizes else [])]

    def _address(self, ref: _Ref, element: str = "") -> str:
        """Where an operand is, `element` places on along the last axis."""
        if not self.number.fixed:
            return " + ".join(
                [ref.name, *(f"{self.number(s)} * i{k}" for k, s in enumerate(ref.steps)), self.number(ref.offset)]
            )
        terms = [f"i{k}" if s == 1 else f"{self.number(s)} * i{k}" for k, s in enumerate(ref.steps) if s]
        if element and ref.steps[-1]:
            terms.append(element if ref.steps[-1] == 1 else f"{self.number(ref.steps[-1])} * {element}")
        return " + ".join([ref.name, *terms, *([self.number(ref.offset)] if ref.offset else [])])

    def element(self, linear: str, reduced: Sequence[str]) -> list[str]:
        """Load, compute, reduce and store; `reduced` has a line for each reduced store, with {} for its value."""
        reductions = zip(reduced, (y for y in self.stores if y.reduction), strict=True)
        added = [line.format(f"r{y.register}") for line, y in reductions]
        targets = list(zip(self.written, self.targets, strict=True))
        if self.width == 1:
            lines = [f"const {computed(r.dtype)} r{i} = load({self._address(r)});" for i, r in self.loads.items()]
            lines += self._computed(linear)
            return [*lines, *(f"store({self._address(r)}, r{y.register});" for y, r in targets), *added]
        before, inside, after = [], [], []
        for i, r in self.loads.items():
            kind, step = computed(r.dtype), r.steps[-1]
            if step == 1:
                before.append(f"const auto p{i} = load_pack<{self.width}>({self._address(r)});")
                inside.append(f"const {kind} r{i} = load(p{i}.at + v);")
            else:
                (inside if step else before).append(f"const {kind} r{i} = load({self._address(r, 'v')});")
        inside += self._computed(f"{linear} + v")
        for k, (y, r) in enumerate(targets):
            if r.steps[-1] == 1:
                before.append(f"Pack<{stored(r.dtype)}, {self.width}> q{k};")
                inside.append(f"store(q{k}.at + v, r{y.register});")
                after.append(f"store_pack({self._address(r)}, q{k});")
            else:
                inside.append(f"store({self._address(r, 'v')}, r{y.register});")
        loop = f"for (int v = 0; v < {self.width}; ++v) {{"
        return [*before, "#pragma unroll", loop, *(f"  {line}" for line in (*inside, *added)), "}", *after]

    def _computed(self, linear: str) -> list[str]:
        program = self.program
        first = len(program.loads)
        lines = [
            f"const {computed(dtype)} r{first + i} = {literal(value, dtype)};"
            for i, (value, dtype) in enumerate(program.numbers)
            if first + i in self.needed
        ]
        for i, x in self._instructions().items():
            operands = ", ".join(f"r{k}" for k in x.operands)
            kind = computed(x.dtype)
            if x.op == "astype":
                call = f"do_astype<{kind}>({operands})"
            elif x.op == "iota":
                call = f"int64({linear})"
            elif x.op == "random_bits":
                call = f"do_random_bits({operands}, {linear})"
            elif x.op == "pow" and not x.dtype.is_floating:
                call = f"do_pow({operands}, Failure{{flag, int(mark)}})"
            else:
                call = f"do_{x.op}({operands})"
            if x.dtype.name in ("float16", "bfloat16"):
                call = f"rounded<{x.dtype.name}>({call})"
            lines.append(f"const {kind} r{i} = {call};")
        return lines


def _of_bits(program: Program) -> Program:
    """A program that only moves elements, as one of integers of their size: one kernel serves several dtypes."""
    loads = tuple(replace(x, dtype=_BITS.get(x.dtype, x.dtype)) for x in program.loads)
    return replace(program, loads=loads, stores=tuple(replace(y, dtype=_BITS.get(y.dtype, y.dtype)) for y in program.stores))


_BITS: Final = {bool_: uint8, float32: int32, float64: int64}


def _map(program: Program, stores: Sequence[Store], fixed: bool) -> Launch:
    number = Numbers(fixed)
    body = _Body(program, stores, [range(len(program.shape))], number)
    n = math.prod(program.shape)
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
    body = _Body(program, stores, [kept, axes] if by_rows else [axes, kept], number)
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
    lanes = 32
    while rows * lanes < BLOCKS * THREADS and lanes < 512 and packs > 4 * lanes:
        lanes *= 2
    rows_per_block = THREADS // 32 if lanes == 32 else 1
    blocks = -(-rows // rows_per_block)
    chunks = max(1, min(BLOCKS // blocks, packs // (8 * lanes)))
    chunk = -(-packs // chunks) * width
    return _Shape((blocks, chunks, 1), (lanes, rows_per_block, 1), chunks, chunk)


def _columns(columns: int, length: int) -> _Shape:
    blocks = -(-columns // STRIP[0])
    chunks = max(1, min(BLOCKS // blocks, length // 64))
    return _Shape((blocks, chunks, 1), (*STRIP, 1), chunks, -(-length // chunks))


class _Reduction:
    """One reduced store: the type it is accumulated in, and the code of its parts."""

    def __init__(self, number: int, store: Store, program: Program) -> None:
        self.number, self.store = number, store
        self.of_any = store.reduction in ("any", "all")
        source = _dtypes(program)[store.register]
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
    body: _Body, number: Numbers, reductions: Sequence[_Reduction], shape: _Shape, rows: int, length: int
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
    body: _Body, number: Numbers, reductions: Sequence[_Reduction], shape: _Shape, columns: int, length: int
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


def _merged(shape: Sequence[int], axes: Sequence[int], steps: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """The sizes of `axes` without those of size 1, and with neighbours as one where all steps allow; the steps of each."""
    sizes: list[int] = []
    by_ref: list[list[int]] = [[] for _ in steps]
    for axis in axes:
        if shape[axis] == 1:
            continue
        if sizes and all(r[-1] == s[axis] * shape[axis] for r, s in zip(by_ref, steps, strict=True)):
            sizes[-1] *= shape[axis]
            for r, s in zip(by_ref, steps, strict=True):
                r[-1] = s[axis]
        else:
            sizes.append(shape[axis])
            for r, s in zip(by_ref, steps, strict=True):
                r.append(s[axis])
    return sizes, by_ref


def _padded(sizes: list[int], by_ref: list[list[int]]) -> tuple[list[int], list[list[int]]]:
    """The same with axes of size 1 in front."""
    missing = next(n for n in (1, 4, 8, 64) if n >= len(sizes)) - len(sizes)
    return [1] * missing + sizes, [[0] * missing + steps for steps in by_ref]


def _needed(program: Program, stores: Sequence[Store]) -> set[int]:
    """The registers from which the stores follow."""
    needed = {y.register for y in stores}
    first = len(program.loads) + len(program.numbers)
    for i, x in reversed([*enumerate(program.instructions, first)]):
        if i in needed:
            needed.update(x.operands)
    return needed


def _dtypes(program: Program) -> list[DType]:
    return [
        *(x.dtype for x in program.loads),
        *(dtype for _, dtype in program.numbers),
        *(x.dtype for x in program.instructions),
    ]


def _label(template: str, program: Program) -> str:
    names = dict.fromkeys([*(x.op for x in program.instructions), *(y.reduction for y in program.stores if y.reduction)])
    return "_".join([template, *names]) if names else f"{template}_copy"


def literal(value: Any, dtype: DType) -> str:
    """A number in CUDA C, of the type that `dtype` is computed in."""
    if not dtype.is_floating:
        kind = computed(dtype)
        if dtype.name == "bool":
            return "true" if value else "false"
        return f"{kind}(-9223372036854775807LL - 1)" if value == -(2**63) else f"{kind}({int(value)}LL)"
    x = float(dtype.numpy.type(value))
    kind = computed(dtype)
    if math.isnan(x):
        return f"{kind}(__int_as_float(0x7fc00000))"
    if math.isinf(x):
        return f"{kind}({'-' if x < 0 else ''}INFINITE)"
    return f"{x.hex()}{'f' if kind == 'float' else ''}"
