"""Expression programs for the native module: of fused nodes, and of ops that are one instruction, a reduction or a copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from needle_core.graph.program import Program, broadcast_steps
from needle_core.spec import DType, Spec, int32, int64
from needle_cpp_backend.call import Call, Kernel, Steps, code, row_major
from needle_cpp_backend.native import native


def instruction(name: str, attrs: Mapping[str, Any]) -> str:
    """The native instruction of an elementwise op."""
    return _APPROXIMATE[name] if attrs.get("approximate") == "tanh" else name


_APPROXIMATE: Final = {"gelu": "gelu_tanh", "gelu_grad": "gelu_tanh_grad"}

_REDUCTIONS: Final = {"any": "max", "all": "min"}


def of_fused(program: Program) -> Kernel:
    """The kernel of a fused node."""
    ndim = len(program.shape)
    program = _with_shifts(program)
    instructions = [(instruction(x.op, x.attrs), x.operands, code(x.dtype)) for x in program.instructions]
    stores = []
    for i, y in enumerate(program.stores):
        last = bool(y.axes) and y.axes[-1] == ndim - 1
        axes = -len(y.axes) if last else len(y.axes)
        register = y.register
        if y.reduction in _REDUCTIONS:
            instructions.append(("astype", (register,), code(y.dtype)))
            register = len(program.loads) + len(program.numbers) + len(instructions) - 1
        stores.append(
            (i, register, code(y.dtype), row_major(program.shape), 0, _REDUCTIONS.get(y.reduction, y.reduction), axes)
        )
    return native.program(
        shape=program.shape,
        loads=[(x.input, code(x.dtype), x.steps, x.offset) for x in program.loads],
        numbers=[(number, code(dtype)) for number, dtype in program.numbers],
        instructions=instructions,
        stores=stores,
    )


def _with_shifts(program: Program) -> Program:
    """The program with divisions of integers by a power of two as shifts, which vectors have."""
    first = len(program.loads)
    numbers, instructions = [*program.numbers], [*program.instructions]
    for i, x in enumerate(instructions):
        if x.op != "floor_divide" or x.dtype not in (int32, int64) or not first <= x.operands[1] < first + len(numbers):
            continue
        k, (divisor, dtype) = x.operands[1] - first, program.numbers[x.operands[1] - first]
        only = sum(x.operands[1] in other.operands for other in instructions) == 1
        if only and isinstance(divisor, int) and divisor > 0 and divisor.bit_count() == 1:
            numbers[k] = (divisor.bit_length() - 1, dtype)
            instructions[i] = replace(x, op="shift_right")
    return replace(program, numbers=tuple(numbers), instructions=tuple(instructions))


class Elementwise:
    """Makes the kernel of an elementwise op: one instruction on broadcast operands."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, call: Call) -> Kernel:
        inputs, (output,) = call.inputs, call.outputs
        space = output.shape
        return native.program(
            shape=space,
            loads=[(i, code(x.dtype), broadcast_steps(x.shape, space), 0) for i, x in enumerate(inputs)],
            numbers=[],
            instructions=[(instruction(self.name, call.attrs), range(len(inputs)), code(output.dtype))],
            stores=[(0, len(inputs), code(output.dtype), row_major(space), 0, "", 0)],
        )


def of_number(name: str, number: float, output: Spec) -> Kernel:
    """`name` of a number at each place; without a name, the number."""
    return native.program(
        shape=output.shape,
        loads=[],
        numbers=[(number, code(output.dtype))],
        instructions=[(name, [0], code(output.dtype))] if name else [],
        stores=[(0, 1 if name else 0, code(output.dtype), row_major(output.shape), 0, "", 0)],
    )


def of_reduction(name: str, x: Spec, axes: Sequence[int], output: Spec) -> Kernel:
    """A reduction over any axes: the index space has them last, or all of them first where they are."""
    kept = [i for i in range(x.ndim) if i not in axes]
    leading = tuple(axes) == tuple(range(len(axes))) and bool(kept)
    order = [*axes, *kept] if leading else [*kept, *axes]
    steps = row_major(x.shape)
    space = [x.shape[i] for i in order]
    return native.program(
        shape=space,
        loads=[(0, code(x.dtype), [steps[i] for i in order], 0)],
        numbers=[],
        instructions=[("astype", [0], code(output.dtype))],  # only any and all have a result of another dtype than x
        stores=[
            (0, 1, code(output.dtype), row_major(space), 0, _REDUCTIONS.get(name, name) if axes else "",
             len(axes) if leading else -len(axes))
        ],
    )  # fmt: skip


def of_copy(
    dtype: DType, shape: Sequence[int], source: Steps, target: Steps | None = None, start: int = 0, offset: int = 0
) -> Kernel:
    """Elements of an input at `source` steps from `start`, written at `target` steps from `offset`, or row after row."""
    return native.program(
        shape=shape,
        loads=[(0, code(dtype), source, start)],
        numbers=[],
        instructions=[],
        stores=[(0, 0, code(dtype), row_major(shape) if target is None else target, offset, "", 0)],
    )
