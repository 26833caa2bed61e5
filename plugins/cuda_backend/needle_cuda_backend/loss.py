"""Recipes of cross entropy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from needle_core.graph.program import Load, Program, Store
from needle_core.spec import DTYPES, DType, Spec
from needle_cuda_backend.loops import recipe_of
from needle_cuda_backend.recipe import Call, Place, Recipe, inputs_of, stored
from needle_cuda_backend.templates import blocks_for, is_large, launch_of, row_types, rows_block

_GRADIENT: Final = {"none": "Gradient::OfRow", "sum": "Gradient::OfSum", "mean": "Gradient::OfMean"}


def cross_entropy(call: Call) -> Recipe:
    x, labels = call.inputs
    recipe = _labelled(x)
    losses, kind = _losses(recipe, call, Place("output"))
    places: list[Any] = [(Place("input"), x.dtype), (Place("input", 1), labels.dtype), (losses, kind)]
    _append(recipe, call, "cross_entropy", places, x, labels, kind)
    _reduced(recipe, call, losses, kind, labels.size, Place("output"))
    return recipe


def cross_entropy_grad(call: Call) -> Recipe:
    """A second output is the loss, where a plan has joined the gradient with its op: both need the same exponentials."""
    _, x, labels = call.inputs
    recipe, with_loss = _labelled(x), len(call.outputs) > 1
    g, scores, classes = inputs_of(3)
    losses, kind = _losses(recipe, call, Place("output", 1)) if with_loss else (Place("output"), x.dtype)
    places: list[Any] = [(g, x.dtype), (scores, x.dtype), (classes, labels.dtype), (Place("output"), x.dtype), (losses, kind)]
    more = [str(with_loss).lower(), _GRADIENT[call.attrs["reduction"]]]
    _append(recipe, call, "cross_entropy_grad", places, x, labels, kind, more)
    if with_loss:
        _reduced(recipe, call, losses, kind, labels.size, Place("output", 1))
    return recipe


def _append(
    recipe: Recipe, call: Call, function: str, places: list[Any], x: Spec, labels: Spec, kind: DType, more: Sequence[str] = ()
) -> None:
    if not x.size:
        return
    rows, n = labels.size, x.shape[-1]
    lanes, width, held = row_types(call, rows, n, x.dtype, 32)
    block = rows_block(lanes)
    recipe.operations.append(
        launch_of(
            call, function, "loss", places, [rows, n], blocks_for(rows, block[1]), block,
            types=[stored(x.dtype), stored(labels.dtype), lanes, width, held, stored(kind)], more=more,
            is_large=is_large(x.size), has_barriers=True, can_fail=True,
        )
    )  # fmt: skip


def _losses(recipe: Recipe, call: Call, y: Place) -> tuple[Place, DType]:
    """Where the losses of all rows go, and their dtype: to the result if nothing is made of them."""
    x, labels = call.inputs[-2:]
    if call.attrs["reduction"] == "none":
        return y, x.dtype
    wide = DTYPES["float32"] if x.dtype.itemsize == 2 else x.dtype
    return recipe.space(labels.size * wide.itemsize), wide


def _reduced(recipe: Recipe, call: Call, losses: Place, kind: DType, rows: int, y: Place) -> None:
    if (reduction := call.attrs["reduction"]) == "none":
        return
    dtype = call.inputs[-2].dtype
    program = Program((rows,), (Load(0, kind, (1,)),), (), (), (Store(0, 0, dtype, reduction, (0,)),))
    recipe.then(recipe_of(program, call.fixed), [losses], [y])


def _labelled(x: Spec) -> Recipe:
    return Recipe(failure=(IndexError, f"a label is out of bounds for {x.shape[-1]} classes"))
