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
from needle_core.spec import Device, Spec, dtype
from needle_core.testing.samples import Array


def interpreted(plan: Plan) -> Callable[..., list[Array]]:
    """The executable of a plan for a host: from the arrays of the inputs, row after row, to those of the outputs.

    Donated inputs are written.
    """
    graph = plan.graph

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

        for node in graph.nodes:
            try:
                made = computed(node, [lying(v) for v in node.inputs])
            except Exception as cause:
                failed(node, cause)
            for y, array in zip(node.outputs, made, strict=True):
                lying(y)[...] = array.reshape(y.spec.shape)
        return [lying(v) for v in graph.outputs]

    return run


def computed(node: Node, operands: Sequence[Array]) -> list[Array]:
    """What a node gives: a fused one by its program, another by the kernel of its device."""
    device = node.outputs[0].spec.device
    if isinstance(node, Fused):
        return execute(program_of(node), operands, device)
    return _by_kernel(kernel_of(node), operands, device, is_tuple=node.is_tuple)


def execute(program: Program, inputs: Sequence[Array], device: Device) -> list[Array]:
    """What a program stores. A register has an element for each index, so that an instruction is one call of a kernel."""
    registers: list[Array] = []
    for x in program.loads:
        array = inputs[x.input]
        flat = array.reshape(-1)[x.offset :]
        registers.append(np.lib.stride_tricks.as_strided(flat, program.shape, [step * array.itemsize for step in x.steps]))
    registers += [np.asarray(number, dtype.numpy) for number, dtype in program.numbers]
    for step in program.instructions:
        operands = [registers[i] for i in step.operands]
        if step.op == "random_bits":
            state = np.array([r.flat[0] for r in operands] if math.prod(program.shape) else [0, 0])
            registers.append(_called(step.op, [state], {"shape": program.shape}, device))
        else:
            registers.append(_called(step.op, operands, step.attrs, device))
    whole = [np.ascontiguousarray(np.broadcast_to(registers[y.register], program.shape)) for y in program.stores]
    return [
        _called(y.reduction, [array], {"axes": y.axes, "keepdims": False}, device) if y.reduction else array
        for y, array in zip(program.stores, whole, strict=True)
    ]


def _called(name: str, operands: Sequence[Array], attrs: Mapping[str, Any], device: Device) -> Array:
    """What the kernel of an op gives."""
    op = OPS[name]
    specs = tuple(Spec.of(x.shape, dtype(x.dtype), device) for x in operands)
    spec, canonical = op.door(*specs, **attrs)
    kernel = op.bound(specs, spec, canonical)
    if kernel is None:
        raise MissingKernelError(f"{name} has no kernel on {device}")
    return _by_kernel(kernel, operands, device)[0]


def _by_kernel(kernel: Callable[..., Any], operands: Sequence[Array], device: Device, *, is_tuple: bool = False) -> list[Array]:
    """What a kernel of `device` gives for arrays of the host."""
    backend = device.backend
    made = kernel(*(backend.from_numpy(x, device) for x in operands))
    return [backend.to_numpy(y) for y in (made if is_tuple else (made,))]
