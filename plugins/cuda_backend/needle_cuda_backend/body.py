"""Recipes of what the core says: nodes of a plan, ops that are programs, and the bodies of composites."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from needle_core.autograd import no_grad
from needle_core.graph.capture import Made, capture
from needle_core.graph.graph import Constant, Fused, Node, Value
from needle_core.graph.passes import optimized
from needle_core.graph.plan import planned
from needle_core.graph.program import program_of
from needle_core.graph.single_ops import programs_of
from needle_core.op import OPS
from needle_core.tensor import tensor_of
from needle_cuda_backend.loops import recipe_of
from needle_cuda_backend.recipe import Call, Place, Recipe, inputs_of, outputs_of


def recipe_of_body(name: str, call: Call) -> Recipe:
    """What the ops of a composite's body consist of, planned and fused as a step of its own."""
    body = OPS[name].body
    assert body is not None
    operands = [tensor_of(spec, None) for spec in call.inputs]
    with no_grad():
        captured = capture(lambda *like: body(*like, **call.attrs), operands, lambda like: (tuple(like), {}), keep_grads=False)
    plan = planned(optimized(captured.graph), {})
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


def recipe_of_node(node: Node, outputs: Sequence[Value] = (), *, fixed: bool) -> Recipe:
    """What a node of a plan consists of; its kernel gives its outputs, or those that are said."""
    if isinstance(node, Fused):
        return recipe_of(program_of(node), fixed)
    kernel: Any = node.op.kernel_for(node.spec)
    inputs, results = ([v.spec for v in values] for values in (node.inputs, outputs or node.outputs))
    recipe: Recipe = kernel.recipe(Call(tuple(inputs), tuple(results), node.attrs, fixed))
    return recipe
