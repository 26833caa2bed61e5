"""Recipes of what the core says and of functions of tensors: nodes of a plan, programs, bodies of composites, rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from needle_core.autograd import no_grad
from needle_core.graph.capture import Captured, Made, capture
from needle_core.graph.graph import Constant, Fused, Graph, Node, Value
from needle_core.graph.passes import PASSES, optimized, without_dead_code, without_repetition
from needle_core.graph.plan import planned
from needle_core.graph.program import program_of, program_of_graph
from needle_core.graph.single_ops import programs_of
from needle_core.op import OPS
from needle_core.spec import Spec
from needle_core.tensor import Tensor, tensor_of
from needle_cuda_backend.loops import recipe_of
from needle_cuda_backend.recipe import Call, Place, Recipe, inputs_of, outputs_of, wide


def recipe_of_body(name: str, call: Call) -> Recipe:
    """What the ops of a composite's body consist of, planned and fused as a step of its own."""
    body = OPS[name].body
    assert body is not None
    captured = captured_of(lambda *like: body(*like, **call.attrs), call.inputs)
    # Eager calls of many shapes are remembered, and so would their constants be, in memory of the device.
    passes = [run for name, run in PASSES.items() if call.fixed or name != "constants"]
    plan = planned(optimized(captured.graph, passes), {})
    results = {r.output: k for k, r in enumerate(captured.results) if isinstance(r, Made)}
    inputs = {v: j for j, v in enumerate(plan.graph.inputs)}
    recipe = Recipe(kept=list(plan.graph.constants()))
    arena = recipe.space(plan.arena)

    def place(v: Value) -> Place:
        if v in inputs:
            return Place("input", inputs[v])
        if isinstance(v, Constant):
            return Place("memory", 0, v.buffer.address)
        region, number = plan.memory[v]
        if region == "arena":
            return arena.plus(number)
        return Place("input", number) if region == "input" else Place("output", results[number])

    for node in plan.graph.nodes:
        given, made = [place(v) for v in node.inputs], [place(y) for y in node.outputs]
        if not (node.name == "reshape" and given == made):
            recipe.then(recipe_of_node(node, fixed=call.fixed), given, made)
    return recipe


def recipe_of_programs(name: str, call: Call) -> Recipe:
    """What an op consists of that is nothing but programs."""
    recipe = Recipe()
    for program in programs_of(name, call.inputs, call.outputs, call.attrs) or ():
        recipe.then(recipe_of(program, call.fixed), inputs_of(len(call.inputs)), outputs_of(1))
    return recipe


def recipe_of_rows(call: Call, function: Callable[..., Tensor | tuple[Tensor, ...]]) -> Recipe:
    """What a function consists of that is one program: elementwise ops, and reductions, those that are read over the same axes.

    These keep their axes. Half precision is computed in float32 all through.
    """
    if not any(y.size for y in call.outputs):
        return Recipe()

    def rounded(*operands: Tensor) -> list[Tensor]:
        made = function(*(x if x.dtype is wide(x.dtype) else x.astype(wide(x.dtype)) for x in operands))
        results = made if isinstance(made, tuple) else (made,)
        return [y if y.dtype is spec.dtype else y.astype(spec.dtype) for y, spec in zip(results, call.outputs, strict=True)]

    captured = captured_of(rounded, call.inputs)
    results = [captured.graph.outputs[r.output] for r in captured.results]
    graph = optimized(Graph(captured.graph.inputs, captured.graph.nodes, results), [without_repetition, without_dead_code])
    return recipe_of(program_of_graph(graph, np.broadcast_shapes(*(x.shape for x in call.inputs))), call.fixed)


def captured_of(function: Callable[..., Any], inputs: Sequence[Spec]) -> Captured:
    """What a function does with tensors of these specs."""
    with no_grad():
        operands = [tensor_of(spec, None) for spec in inputs]
        return capture(function, operands, lambda like: (tuple(like), {}), keep_grads=False)


def recipe_of_node(node: Node, outputs: Sequence[Value] = (), *, fixed: bool) -> Recipe:
    """What a node of a plan consists of; its kernel gives its outputs, or those that are said."""
    if isinstance(node, Fused):
        return recipe_of(program_of(node), fixed)
    kernel: Any = node.op.kernel_for(node.spec)
    inputs, results = ([v.spec for v in values] for values in (node.inputs, outputs or node.outputs))
    recipe: Recipe = kernel.recipe(Call(tuple(inputs), tuple(results), node.attrs, fixed))
    return recipe
