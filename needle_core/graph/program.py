"""The expression program of a fused node: what a backend compiles to one loop.

    for each index of `shape`:                       in any order, in parallel
        r0 = a0[...]                                 loads: an element of an input, by its offset and steps
        r1 = 0.5                                     numbers
        r2 = multiply(r0, r1)                        instructions, each result rounded to its dtype
        y0[index] = r2                               stores: as they are, or reduced over the first or the last axes

Instructions bear the names of elementwise ops of the core and do what docs/ops.md says of them. The primitives among them are

    abs add astype atan2 cos divide equal erf exp floor floor_divide less log logical_not maximum minimum multiply negative pow
    remainder round sin sqrt subtract tanh where

and a composite, such as relu or expm1, occurs only where the backend has a kernel of its own for it. Another depends on the
place i of the index in row-major order, as int64: random_bits(seed, position) is word i of the Philox4x32-10 stream of that
state.

Programs that are not those of fused nodes may have iota(), which is i, or iota(n), which is i modulo n; and rows: reductions
over `axes` among their instructions, whose registers have one value for all indices along these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from needle_core.graph.fuse import REDUCTIONS, index_space
from needle_core.graph.graph import Constant, Fused, Graph, Node, Value
from needle_core.spec import DType
from needle_core.tensor import Number


@dataclass(frozen=True)
class Load:
    """An element of input `input`, whose elements lie row after row: at `offset` + the sum of index[k] * steps[k].

    Both count elements. The step of an axis over which the input is broadcast is 0.
    """

    input: int
    dtype: DType
    steps: tuple[int, ...]
    offset: int = 0


@dataclass(frozen=True)
class Instruction:
    """A register of `dtype`: elementwise op `op` of the registers `operands`."""

    op: str
    operands: tuple[int, ...]
    attrs: Mapping[str, Any]
    dtype: DType


@dataclass(frozen=True)
class Store:
    """What becomes of output `output`: a register, or its reduction over `axes`.

    `reduction` is "" or the name of a reduction of the core; the output then has the shape without `axes`, or with ones there.
    So it has if there is none, but `axes` along which the register has one value. Float16 and bfloat16 are accumulated in
    float32. What has no axes goes where a `Load` would find it: row after row, unless there are `steps`.
    """

    output: int
    register: int
    dtype: DType
    reduction: str = ""
    axes: tuple[int, ...] = ()
    steps: tuple[int, ...] | None = None
    offset: int = 0


@dataclass(frozen=True)
class Program:
    """Registers are numbered: those of `loads` first, then those of `numbers`, then those of `instructions`."""

    shape: tuple[int, ...]
    loads: tuple[Load, ...]
    numbers: tuple[tuple[Number, DType], ...]
    instructions: tuple[Instruction, ...]
    stores: tuple[Store, ...]

    def __str__(self) -> str:
        lines = [f"for each index of {list(self.shape)}:"]
        lines += [f"    r{i}: {x.dtype} = a{x.input}[{_place(x.steps, x.offset)}]" for i, x in enumerate(self.loads)]
        first = len(self.loads)
        lines += [f"    r{first + i}: {dtype} = {number!r}" for i, (number, dtype) in enumerate(self.numbers)]
        first += len(self.numbers)
        for i, x in enumerate(self.instructions):
            written = [*(f"r{r}" for r in x.operands), *(f"{name}={value}" for name, value in x.attrs.items())]
            lines.append(f"    r{first + i}: {x.dtype} = {x.op}({', '.join(written)})")
        for y in self.stores:
            target = f"y{y.output}" if y.steps is None else f"y{y.output}[{_place(y.steps, y.offset)}]"
            value = f"{y.reduction} of r{y.register}" if y.reduction else f"r{y.register}"
            lines.append(f"    {target} = {value}{f' over {list(y.axes)}' if y.axes else ''}")
        return "\n".join(lines)


def _place(steps: tuple[int, ...], offset: int) -> str:
    terms = [f"{step} i{axis}" if step != 1 else f"i{axis}" for axis, step in enumerate(steps) if step]
    return " + ".join([*([str(offset)] if offset or not terms else []), *terms])


def program_of(node: Fused) -> Program:
    """The program of a fused node."""
    shape = index_space(node.body.nodes[0])
    assert shape is not None
    return program_of_graph(node.body, shape)


def program_of_graph(body: Graph, shape: tuple[int, ...]) -> Program:
    """The program of elementwise nodes and reductions over `shape`. What reads a reduction reads one with `keepdims`."""
    given: dict[Value, int] = {v: i for i, v in enumerate(body.inputs)}

    def operands(part: Node) -> list[Load | Constant | Value]:
        """What a part reads: loads for inputs, two for a random state."""
        if part.name == "random_bits":
            state = part.inputs[0]
            return [Load(given[state], state.spec.dtype, (0,) * len(shape), offset) for offset in (0, 1)]
        return [Load(given[v], v.spec.dtype, broadcast_steps(v.spec.shape, shape)) if v in given else v for v in part.inputs]

    reads = [operand for part in body.nodes for operand in operands(part)]
    loads = tuple(dict.fromkeys(x for x in reads if isinstance(x, Load)))
    numbers = tuple(dict.fromkeys(x for x in reads if isinstance(x, Constant)))
    read = {v for part in body.nodes for v in part.inputs}
    computed = [part for part in body.nodes if part.name not in REDUCTIONS or part.outputs[0] in read]
    known: list[Load | Value] = [*loads, *numbers, *(part.outputs[0] for part in computed)]
    register: dict[Load | Value, int] = {x: i for i, x in enumerate(known)}
    instructions = [
        Instruction(
            part.name,
            tuple(register[x] for x in operands(part)),
            {} if part.name == "random_bits" else part.attrs,
            part.outputs[0].spec.dtype,
        )
        for part in computed
    ]
    reduced = {part.outputs[0]: part for part in body.nodes if part not in computed}
    axes = next((part.attrs["axes"] for part in computed if part.name in REDUCTIONS), ())
    stores = []
    for i, y in enumerate(body.outputs):
        if y in reduced:
            part = reduced[y]
            (x,) = operands(part)
            stores.append(Store(i, register[x], y.spec.dtype, part.name, part.attrs["axes"]))
        else:
            stores.append(Store(i, register[y], y.spec.dtype, "", axes if y.spec.shape != shape else ()))
    values = tuple((c.numpy().item(), c.spec.dtype) for c in numbers)
    return Program(shape, loads, values, tuple(instructions), tuple(stores))


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """How far apart the elements of an array that lies row after row are along each axis."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def broadcast_steps(shape: tuple[int, ...], space: tuple[int, ...]) -> tuple[int, ...]:
    """How far apart the elements of a row-major array are along each axis of the index space; 0 where it is broadcast."""
    steps, step = [0] * len(space), 1
    for axis in range(1, len(shape) + 1):
        if shape[-axis] != 1:
            steps[-axis] = step
            step *= shape[-axis]
    return tuple(steps)
