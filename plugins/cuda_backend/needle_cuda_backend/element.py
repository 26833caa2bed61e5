"""One element of an expression program as CUDA C: where its operands are, what is computed, how it is read and written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from needle_core.graph.program import Instruction, Program, Store, row_major
from needle_core.spec import DType
from needle_cuda_backend.recipe import Numbers, Place, computed, stored


@dataclass
class _Ref:
    """Where a load or store is: its type in memory, and its steps along the merged axes, outer ones first."""

    name: str
    dtype: DType
    steps: list[int]
    offset: int


class Element:
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
        writes = dict.fromkeys(f"{stored(r.dtype)}* {r.name}" for r in self.targets)
        return [*reads, *writes, *(["int* flag", "int64 mark"] * self.can_fail)]

    def operands(self) -> list[Place]:
        reads = dict.fromkeys(int(r.name[1:]) for r in self.loads.values())
        writes = dict.fromkeys(y.output for y in self.written)
        return [*(Place("input", i) for i in reads), *(Place("output", i) for i in writes)]

    def places(self) -> list[Place | int]:
        return [*self.operands(), *([Place("failure"), Place("mark")] * self.can_fail)]

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


def dtypes_of(program: Program) -> list[DType]:
    """The dtypes of its registers."""
    return [
        *(x.dtype for x in program.loads),
        *(dtype for _, dtype in program.numbers),
        *(x.dtype for x in program.instructions),
    ]


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
