"""An executable in its plainest form: it does with a plan what a compiled one must do, with NumPy in the place of machine code.

Memory that was not written yet is full of bytes 0xFF, which are nan in every floating format, so that a plan which reads too
early, or what was overwritten, gives other numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from needle_core.errors import MissingKernelError
from needle_core.graph.executor import failed, kernel_of
from needle_core.graph.graph import Constant, Fused, Node, Value
from needle_core.graph.plan import Plan
from needle_core.graph.program import Program, program_of
from needle_core.op import OPS
from needle_core.spec import Device, Spec
from needle_core.testing.samples import Array


def interpreted(plan: Plan) -> Callable[..., list[Array]]:
    """The executable of a plan for a host: from the arrays of the inputs, row after row, to those of the outputs.

    Donated inputs are written.
    """
    graph = plan.graph
    steps = [(node, computation(node)) for node in graph.nodes]

    def run(*inputs: Array) -> list[Array]:
        arena = np.full(plan.arena, 0xFF, np.uint8)
        outputs = [np.full(y.spec.nbytes, 0xFF, np.uint8) for y in graph.outputs]
        given: dict[Value, Array] = dict(zip(graph.inputs, inputs, strict=True))

        def lying(v: Value) -> Array:
            """The array of a value, in the place that the plan gives it."""
            if isinstance(v, Constant):
                return np.ascontiguousarray(v.numpy()).reshape(v.spec.shape)
            if v in given:
                return given[v]
            region, number = plan.memory[v]
            if region == "arena":
                memory = arena[number:]
            else:
                memory = outputs[number] if region == "output" else inputs[number].reshape(-1).view(np.uint8)
            return memory[: v.spec.nbytes].view(v.spec.dtype.numpy).reshape(v.spec.shape)

        for node, compute in steps:
            try:
                made = compute(*(lying(v) for v in node.inputs))
            except Exception as cause:
                failed(node, cause)
            for y, array in zip(node.outputs, made, strict=True):
                lying(y)[...] = array.reshape(y.spec.shape)
        return [lying(v) for v in graph.outputs]

    return run


def computation(node: Node) -> Callable[..., list[Array]]:
    """The function from operands to results: of a fused node by its program, of another by its kernel."""
    device = node.outputs[0].spec.device
    if isinstance(node, Fused):
        return loop(program_of(node), device)
    return _on_host(kernel_of(node), device, is_tuple=node.is_tuple)


def loop(program: Program, device: Device) -> Callable[..., list[Array]]:
    """The function of a program. A register has an element for each index, so that an instruction is one call of a kernel."""
    shape = program.shape
    numbers = [np.asarray(number, dtype.numpy) for number, dtype in program.numbers]
    specs = [Spec.of(shape, x.dtype, device) for x in program.loads]
    specs += [Spec.of((), dtype, device) for _, dtype in program.numbers]
    kernels = []
    for step in program.instructions:
        operands = [specs[i] for i in step.operands]
        if step.op == "random_bits":
            state = Spec.of((2,), operands[0].dtype, device)
            kernels.append(_kernel(step.op, [state], {"shape": shape}, device))
        else:
            kernels.append(_kernel(step.op, operands, step.attrs, device))
        specs.append(Spec.of(shape, step.dtype, device))
    reductions = [
        _kernel(y.reduction, [specs[y.register].like(shape=shape)], {"axes": y.axes, "keepdims": False}, device)
        if y.reduction
        else None
        for y in program.stores
    ]

    def run(*inputs: Array) -> list[Array]:
        registers: list[Array] = []
        for x in program.loads:
            array = inputs[x.input]
            flat = array.reshape(-1)[x.offset :]
            registers.append(np.lib.stride_tricks.as_strided(flat, shape, [step * array.itemsize for step in x.steps]))
        registers += numbers
        for step, kernel in zip(program.instructions, kernels, strict=True):
            operands = [registers[i] for i in step.operands]
            if step.op == "random_bits":
                operands = [np.array([r.flat[0] for r in operands] if math.prod(shape) else [0, 0])]
            registers += kernel(*operands)
        whole = [np.ascontiguousarray(np.broadcast_to(registers[y.register], shape)) for y in program.stores]
        return [x if reduce is None else reduce(x)[0] for x, reduce in zip(whole, reductions, strict=True)]

    return run


def _kernel(name: str, operands: Sequence[Spec], attrs: Mapping[str, Any], device: Device) -> Callable[..., list[Array]]:
    """The kernel of an op for these operands."""
    op = OPS[name]
    spec, canonical = op.door(*operands, **attrs)
    kernel = op.bound(tuple(operands), spec, canonical)
    if kernel is None:
        raise MissingKernelError(f"{name} has no kernel on {device}")
    return _on_host(kernel, device)


def _on_host(kernel: Callable[..., Any], device: Device, *, is_tuple: bool = False) -> Callable[..., list[Array]]:
    """A kernel of `device` for arrays of the host."""
    backend = device.backend

    def run(*operands: Array) -> list[Array]:
        made = kernel(*(backend.from_numpy(x, device) for x in operands))
        return [np.asarray(backend.to_numpy(y)) for y in (made if is_tuple else (made,))]

    return run
