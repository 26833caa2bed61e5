"""Expression programs for the native module: of fused nodes, and of ops that are nothing but programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from needle_core.graph.program import Program, Store, row_major
from needle_core.graph.single_ops import copying, programs_of
from needle_core.spec import DType, int32, int64
from needle_cpp_backend.call import Call, Kernel, Steps, code
from needle_cpp_backend.native import native


def instruction(name: str, attrs: Mapping[str, Any]) -> str:
    """The native instruction of an elementwise op."""
    return _APPROXIMATE[name] if attrs.get("approximate") == "tanh" else name


_APPROXIMATE: Final = {"gelu": "gelu_tanh", "gelu_grad": "gelu_tanh_grad"}

_REDUCTIONS: Final = {"any": "max", "all": "min"}


def of_program(program: Program) -> Kernel:
    """The kernel of a program."""
    ndim = len(program.shape)
    program = _with_shifts(program)
    instructions = [(instruction(x.op, x.attrs), x.operands, code(x.dtype)) for x in program.instructions]
    stores = []
    for y in program.stores:
        last = bool(y.axes) and y.axes[-1] == ndim - 1
        axes = -len(y.axes) if last else len(y.axes)
        register = y.register
        if y.reduction in _REDUCTIONS:
            instructions.append(("astype", (register,), code(y.dtype)))
            register = len(program.loads) + len(program.numbers) + len(instructions) - 1
        steps = row_major(program.shape) if y.steps is None else y.steps
        reduction = _REDUCTIONS.get(y.reduction, y.reduction)
        stores.append((y.output, register, code(y.dtype), steps, y.offset, reduction, axes))
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


def of_op(name: str) -> Callable[[Call], Kernel]:
    """What makes the kernels of an op that is nothing but programs."""

    def make(call: Call) -> Kernel:
        found = programs_of(name, call.inputs, call.outputs, call.attrs)
        assert found is not None
        kernels, n = [of_program(program) for program in found], len(call.inputs)
        if len(kernels) == 1:
            return kernels[0]
        operands = [(1 + i, 0) for i in range(n)]
        return native.sequence([(kernel, operands, [(1 + n, 0)]) for kernel in kernels], inputs=n, outputs=1)

    return make


def of_copy(
    dtype: DType, shape: Sequence[int], source: Steps, target: Steps | None = None, start: int = 0, offset: int = 0
) -> Kernel:
    """Elements of an input at `source` steps from `start`, written at `target` steps from `offset`, or row after row."""
    return of_program(copying(0, dtype, shape, source, Store(0, 0, dtype, steps=target, offset=offset), start=start))
