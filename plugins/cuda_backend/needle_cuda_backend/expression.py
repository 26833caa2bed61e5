"""Kernels that are written as functions of tensors: of one element each, of which a program then has as many as there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any, TypeAlias

from needle_core.graph.capture import Made
from needle_core.graph.passes import optimized
from needle_core.graph.program import Instruction, Load, Program, Store
from needle_core.spec import Device, DType, Spec
from needle_core.tensor import Number, Tensor
from needle_cuda_backend.body import captured_of
from needle_cuda_backend.loops import recipe_of
from needle_cuda_backend.recipe import Call, Entry, Recipe, wide

Function: TypeAlias = Callable[..., Tensor | tuple[Tensor, ...]]


def expressed(
    call: Call, function: Function, shape: Sequence[int], loads: Sequence[Load], stores: Sequence[Store], **attrs: Any
) -> Recipe:
    """The recipe of a program over `shape` whose stores get what `function` gives of the loads; their registers do not matter.

    The function is of primitives of the core, and its name is the kernel's. It sees half precision as float32, which is what
    loads give and stores take.
    """
    kinds = tuple(wide(x.dtype) for x in loads)
    numbers, instructions, registers = _captured(function, call.outputs[0].device, kinds, tuple(attrs.items()))
    placed = [replace(y, register=register) for y, register in zip(stores, registers, strict=True)]
    recipe = recipe_of(Program(tuple(shape), tuple(loads), numbers, instructions, tuple(placed)), call.fixed)
    recipe.operations = [x._replace(entry=_called(x.entry, function.__name__.strip("_"))) for x in recipe.operations]
    return recipe


def _called(entry: Entry, name: str) -> Entry:
    return Entry.named(name, entry.parameters, entry.body, entry.has_barriers, *entry.families)


@cache
def _captured(
    function: Function, device: Device, kinds: tuple[DType, ...], attrs: tuple[tuple[str, Any], ...]
) -> tuple[tuple[tuple[Number, DType], ...], tuple[Instruction, ...], list[int]]:
    """Numbers and instructions of a function's program, and the registers of its results."""
    captured = captured_of(partial(function, **dict(attrs)), [Spec.of((), kind, device) for kind in kinds])
    graph = optimized(captured.graph)
    constants = graph.constants()
    register = {v: i for i, v in enumerate([*graph.inputs, *constants, *(node.outputs[0] for node in graph.nodes)])}
    numbers = tuple((c.numpy().item(), c.spec.dtype) for c in constants)
    instructions = tuple(
        Instruction(node.name, tuple(register[v] for v in node.inputs), node.attrs, node.outputs[0].spec.dtype)
        for node in graph.nodes
    )
    results = [graph.outputs[r.output] if isinstance(r, Made) else graph.inputs[r.of] for r in captured.results]
    return numbers, instructions, [register[v] for v in results]
