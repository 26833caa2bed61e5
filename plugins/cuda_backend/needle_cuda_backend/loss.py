"""Recipes of cross entropy: labels become places, rows a gradient, a loss or both, and losses one, unless all are wanted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import needle_core as ndl
from needle_core import Tensor
from needle_core.graph.program import Load, Program, Store
from needle_core.spec import int64
from needle_cuda_backend.body import recipe_of_rows
from needle_cuda_backend.index import places
from needle_cuda_backend.loops import recipe_of
from needle_cuda_backend.recipe import Call, Recipe, inputs_of, outputs_of, wide


def cross_entropy(call: Call) -> Recipe:
    return _recipe(call, lambda x, place: _gradient_and_loss(x, place)[1])


def cross_entropy_grad(call: Call) -> Recipe:
    """A second output is the loss, where a plan has joined the gradient with its op: both need the same exponentials."""

    def function(g: Tensor, x: Tensor, place: Tensor) -> tuple[Tensor, ...]:
        by_score, losses = _gradient_and_loss(x, place)
        scale = g / call.inputs[2].size if call.attrs["reduction"] == "mean" else g
        return (by_score * scale, losses)[: len(call.outputs)]

    return _recipe(call, function)


def _gradient_and_loss(x: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    over: dict[str, Any] = {"axes": (x.ndim - 1,), "keepdims": True}
    top = ndl.max(x, **over)
    e = ndl.exp(x - top)
    total, is_named = ndl.sum(e, **over), ndl.iota(n=x.shape[-1], device=x.device) == place
    share, named = e * (1 / total), ndl.sum(ndl.where(is_named, x, 0), **over)
    return ndl.where(is_named, share - 1, share), ndl.log(total) - (named - top)


def _recipe(call: Call, function: Callable[..., Tensor | tuple[Tensor, ...]]) -> Recipe:
    x, labels = call.inputs[-2:]
    rows, n, how = labels.size, x.shape[-1], call.attrs["reduction"]
    recipe = Recipe(failure=(IndexError, f"a label is out of bounds for {n} classes"))
    given, targets, outputs = inputs_of(len(call.inputs)), outputs_of(len(call.outputs)), [*call.outputs]
    place = places(recipe, call, given[-1], labels, n)
    inputs = [y.like(shape=(*y.shape, 1)) if y.shape == labels.shape else y for y in call.inputs[:-2]]
    column = labels.like(shape=(*labels.shape, 1), dtype=int64)
    is_one = how != "none" and not outputs[-1].ndim
    if is_one:
        outputs[-1] = column.like(dtype=wide(x.dtype))
        targets[-1] = recipe.space(outputs[-1].nbytes)
    made = recipe_of_rows(Call((*inputs, x, column), tuple(outputs), {}, call.fixed), function)
    recipe.then(made, [*given[:-1], place], targets)
    if is_one:
        program = Program((rows,), (Load(0, outputs[-1].dtype, (1,)),), (), (), (Store(0, 0, x.dtype, how, (0,)),))
        recipe.then(recipe_of(program, call.fixed), targets[-1:], outputs_of(len(outputs))[-1:])
    return recipe
