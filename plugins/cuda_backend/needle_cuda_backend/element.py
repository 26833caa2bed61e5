"""The registers of an expression program as CUDA C: where operands are, what is computed, how it is read and written."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

from needle_core.graph.fuse import REDUCTIONS
from needle_core.graph.program import Instruction, Load, Program, Store, row_major
from needle_core.spec import DType
from needle_cuda_backend.recipe import Numbers, Place, computed, stored
from needle_cuda_backend.templates import is_large

_OF_PLACES: Final = ("iota", "random_bits")
"""Instructions that depend on the place."""


class _Ref:
    """Where a load or store is: its type in memory, and its steps along the merged axes, outer ones first."""

    def __init__(self, name: str, x: Load | Store, steps: list[int], number: Numbers) -> None:
        self.name, self.dtype, self.steps, self.offset, self._fixed = name, x.dtype, steps, x.offset, number.fixed
        self._texts = [number(n) for n in (*steps, x.offset)]

    def at(self, element: str = "") -> str:
        """The address, `element` places on along the last axis."""
        *texts, offset = self._texts
        steps = [(k, text) for k, (step, text) in enumerate(zip(self.steps, texts, strict=True)) if step or not self._fixed]
        terms = [f"i{k}" if text == "1" else f"{text} * i{k}" for k, text in steps]
        if element and self.steps and self.steps[-1]:
            terms.append(f"{texts[-1]} * {element}")
        return " + ".join([self.name, *terms, *([offset] if self.offset or not self._fixed else [])])


class Element:
    """The code of a program's registers: of those that stay the same all along the last group of axes, and of the others.

    Of these it is the code of `width` elements, which follow each other along the last axis. A group has a counter in common,
    and becomes as few axes as the steps of all operands allow. Where sizes are no numbers in the source, groups are of one
    axis, of four or of more, so that few sources serve all shapes.
    """

    held: Collection[int] = ()
    """Loads whose packs are in registers: h0[k] ..."""

    def __init__(self, program: Program, groups: Sequence[Sequence[int]], number: Numbers, *, packs: bool = True) -> None:
        self.program, self.number, self.dtypes = program, number, dtypes_of(program)
        first = len(program.loads) + len(program.numbers)
        self.instructions = dict(enumerate(program.instructions, first))
        self.needed = self._before((y.register for y in program.stores), self.instructions)
        self.instructions = {i: x for i, x in self.instructions.items() if i in self.needed}
        self.written, self.results = ([y for y in program.stores if bool(y.axes) is of_rows] for of_rows in (False, True))
        loads = {i: x for i, x in enumerate(program.loads) if i in self.needed}
        self.moving = {i for i, x in loads.items() if len(groups) == 1 or any(x.steps[axis] for axis in groups[-1])}
        self.passes = dict.fromkeys(range(first), 0)
        """How often one has to go along the last group before a register is known."""
        for i, x in self.instructions.items():
            self.passes[i] = max((self.passes[k] for k in x.operands), default=0) + (x.op in REDUCTIONS)
            if x.op in _OF_PLACES or (x.op not in REDUCTIONS and not self.moving.isdisjoint(x.operands)):
                self.moving.add(i)
        times = [self.passes[i] - (x.op in REDUCTIONS) for i, x in self.instructions.items() if x.op in REDUCTIONS]
        self.last = max([0, *times, *(self.passes[y.register] for y in self.written)])
        whole = row_major(program.shape)
        steps = [x.steps for x in loads.values()] + [y.steps or whole for y in self.written]
        merged = [_merged(program.shape, axes, steps) for axes in groups]
        if not number.fixed:
            merged = [_padded(sizes, by_ref) for sizes, by_ref in merged]
        self._sizes = [(sizes, [number(n) for n in sizes[1:]]) for sizes, _ in merged]

        def ref(name: str, x: Load | Store, k: int, groups: int) -> _Ref:
            return _Ref(name, x, [s for _, by_ref in merged[:groups] for s in by_ref[k]], number)

        self.loads = {
            i: ref(f"a{x.input}", x, k, len(groups) - (i not in self.moving)) for k, (i, x) in enumerate(loads.items())
        }
        self.targets = [ref(f"y{y.output}", y, k, len(groups)) for k, y in enumerate(self.written, len(loads))]
        refs = [*(r for i, r in self.loads.items() if i in self.moving), *self.targets]
        self.width = self._width(refs) if packs else 1
        flat = [n for sizes, _ in self._sizes for n in sizes]
        extents = [abs(r.offset) + sum(abs(s) * n for s, n in zip(r.steps, flat, strict=True)) for r in refs]
        self.index = "int" if number.fixed and not is_large(math.prod(program.shape), *extents) else "int64"
        self.can_fail = any(x.op == "pow" and not x.dtype.is_floating for x in self.instructions.values())

    def _before(self, wanted: Iterable[int], within: Collection[int]) -> set[int]:
        """The registers from which those follow, by way of instructions within some."""
        needed = set(wanted)
        for i, x in reversed(self.instructions.items()):
            if i in needed and i in within:
                needed.update(x.operands)
        return needed

    def _width(self, refs: Sequence[_Ref]) -> int:
        """How many elements go into 16 bytes, if all operands lie so that they can be read and written together."""
        inner, _ = self._sizes[-1]
        if not inner:
            return 1
        packed = [r for r in refs if r.steps[-1] == 1]
        width = 16 // max((r.dtype.itemsize for r in packed), default=16)
        return math.gcd(width, inner[-1], *(n for r in packed for n in (r.offset, *r.steps[:-1])))

    # -- operands -----------------------------------------------------------------------------------------------------------

    def parameters(self) -> list[str]:
        """Pointers of the operands that are read and written, each once."""
        reads = dict.fromkeys(f"const {stored(r.dtype)}* {r.name}" for r in self.loads.values())
        writes = dict.fromkeys(f"{stored(y.dtype)}* y{y.output}" for y in (*self.written, *self.results))
        return [*reads, *writes, *(["int* flag", "int64 mark"] * self.can_fail)]

    def operands(self) -> list[Place]:
        reads = dict.fromkeys(int(r.name[1:]) for r in self.loads.values())
        writes = dict.fromkeys(y.output for y in (*self.written, *self.results))
        return [*(Place("input", i) for i in reads), *(Place("output", i) for i in writes)]

    def places(self) -> list[Place | int]:
        return [*self.operands(), *([Place("failure"), Place("mark")] * self.can_fail)]

    def counters(self, group: int, linear: str) -> list[str]:
        """The indexes along the axes of a group, from its counter."""
        first = sum(len(sizes) for sizes, _ in self._sizes[:group])
        sizes, texts = self._sizes[group]
        lines = []
        rest = linear
        for k, n in reversed([*enumerate(texts, first + 1)]):
            lines.append(f"const Index i{k} = {rest} % {n}, rest{k} = {rest} / {n};")
            rest = f"rest{k}"
        return [*lines, *([f"const Index i{first} = {rest};"] if sizes else [])]

    # -- registers ----------------------------------------------------------------------------------------------------------

    def reduced(self, k: int) -> dict[int, Instruction]:
        """What is reduced at the time k along the last group."""
        return {i: x for i, x in self.instructions.items() if x.op in REDUCTIONS and self.passes[i] == k + 1}

    def still(self, k: int = 0) -> list[str]:
        """The registers that stay the same along the last group, and are known at the time k, but for reductions."""
        known = [i for i in sorted(self.needed - self.moving) if self.passes[i] == k]
        return [self._register(i) for i in known if k == 0 or i not in self.reduced(k - 1)]

    def _needed(self, k: int) -> set[int]:
        """The registers that move, and are wanted at the time k."""
        stored = [y.register for y in self.written if k == self.last]
        return self._before([*stored, *(x.operands[0] for x in self.reduced(k).values())], self.moving) & self.moving

    def packs(self, k: int) -> list[int]:
        """The loads by packs at the time k."""
        return [i for i in sorted(self._needed(k)) if i in self.loads and self._is_pack(self.loads[i])]

    def load_pack(self, i: int) -> str:
        return f"load_pack<{self.width}>({self.loads[i].at()})"

    def _is_pack(self, ref: _Ref) -> bool:
        return self.width == 1 or ref.steps[-1] == 1

    def element(self, linear: str, k: int = 0, steps: Sequence[str] = ()) -> list[str]:
        """Load and compute what is wanted at the time k, take `steps` with it, and at the last time store."""
        packs = self.packs(k)
        before = [f"const auto p{i} = {f'h{i}[k]' if i in self.held else self.load_pack(i)};" for i in packs]
        inside = [
            f"const {computed(self.dtypes[i])} r{i} = load(p{i}.at + v);"
            if i in packs
            else self._register(i, f"{linear} + v", "v")
            for i in sorted(self._needed(k))
        ]
        after = []
        for n, (y, r) in enumerate(zip(self.written, self.targets, strict=True)) if k == self.last else ():
            if self._is_pack(r):
                before.append(f"Pack<{stored(r.dtype)}, {self.width}> q{n};")
                inside.append(f"store(q{n}.at + v, r{y.register});")
                after.append(f"store_pack({r.at()}, q{n});")
            else:
                inside.append(f"store({r.at('v')}, r{y.register});")
        loop = f"for (int v = 0; v < {self.width}; ++v) {{"
        return [*before, "#pragma unroll", loop, *(f"  {line}" for line in (*inside, *steps)), "}", *after]

    def _register(self, i: int, linear: str = "", element: str = "") -> str:
        dtype = self.dtypes[i]
        kind = computed(dtype)
        if i in self.loads:
            return f"const {kind} r{i} = load({self.loads[i].at(element)});"
        if i not in self.instructions:
            value, _ = self.program.numbers[i - len(self.program.loads)]
            # A count of elements, as a mean has, would make a source for each shape.
            is_count = not self.number.fixed and dtype.is_floating and 1 < value < 2**31 and value == int(value)
            return f"const {kind} r{i} = {f'{kind}({self.number(int(value))})' if is_count else literal(value, dtype)};"
        x = self.instructions[i]
        operands = ", ".join(f"r{k}" for k in x.operands)
        if x.op == "astype":
            call = f"do_astype<{kind}>({operands})"
        elif x.op == "iota":
            call = f"int64({self._last_index(x.attrs['n']) if x.attrs else linear})"
        elif x.op == "random_bits":
            call = f"do_random_bits({operands}, {linear})"
        elif x.op == "pow" and not dtype.is_floating:
            call = f"do_pow({operands}, Failure{{flag, int(mark)}})"
        else:
            call = f"do_{x.op}({operands})"
        is_read = any(i in other.operands for other in self.instructions.values())
        return f"const {kind} r{i} = {rounded(call, dtype) if is_read else call};"

    def _last_index(self, n: int) -> str:
        """The index along the last axis, which is not one with others."""
        sizes, _ = self._sizes[-1]
        assert n in (1, *sizes[-1:])
        return f"i{sum(len(sizes) for sizes, _ in self._sizes) - 1} + v" if n > 1 else "0"


def rounded(value: str, dtype: DType) -> str:
    """What is computed, as an element of `dtype` has it."""
    return f"rounded<{dtype.name}>({value})" if dtype.itemsize == 2 else value


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


def dtypes_of(program: Program) -> list[DType]:
    """The dtypes of its registers."""
    return [
        *(x.dtype for x in program.loads),
        *(dtype for _, dtype in program.numbers),
        *(x.dtype for x in program.instructions),
    ]


def label(template: str, program: Program) -> str:
    """A name of a kernel that tells what it does."""
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
