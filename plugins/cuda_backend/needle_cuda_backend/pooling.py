"""Recipes of pooling. Gradients are gathered: each place of the image adds up what the windows that have it hand to it."""

from __future__ import annotations

from collections.abc import Sequence

from needle_core.spec import DTYPES, Spec
from needle_cuda_backend.recipe import Call, Launch, Numbers, Place, Recipe, inputs_of, stored
from needle_cuda_backend.templates import Operand, blocks_for, is_large, launch_of, pack_width
from needle_cuda_backend.windows import Windows


def max_pool(call: Call) -> Recipe:
    x, y = call.inputs[0], call.outputs[0]
    return _recipe(call, "max_pool", [(Place("input"), x.dtype), (Place("output"), x.dtype)], x, y, y)


def avg_pool(call: Call) -> Recipe:
    x, y = call.inputs[0], call.outputs[0]
    return _recipe(call, "avg_pool", [(Place("input"), x.dtype), (Place("output"), x.dtype)], x, y, y)


def avg_pool_grad(call: Call) -> Recipe:
    g, x = call.inputs[0], call.outputs[0]
    return _recipe(call, "avg_pool_grad", [(Place("input"), x.dtype), (Place("output"), x.dtype)], x, g, x)


def max_pool_grad(call: Call) -> Recipe:
    """Where windows meet, the greatest elements of all are found first, else each place looks at its window alone."""
    g, x = call.inputs
    (g_place, x_place), dx, kind = inputs_of(2), Place("output"), x.dtype
    if not _windows(call, x, g).meet:
        return _recipe(call, "max_pool_grad_apart", [(g_place, kind), (x_place, kind), (dx, kind)], x, g, x)
    recipe, wide = Recipe(), DTYPES["float32"] if kind.itemsize == 2 else kind
    tops, shares = recipe.space(g.nbytes), recipe.space(g.size * wide.itemsize)
    found: list[Operand] = [(tops, kind), (shares, wide)]
    if x.size:
        recipe.operations += [
            _launch(call, "max_pool_shares", [(g_place, kind), (x_place, kind), *found], x, g, g),
            _launch(call, "max_pool_grad", [(x_place, kind), *found, (dx, kind)], x, g, x),
        ]
    return recipe


def _recipe(call: Call, function: str, operands: Sequence[Operand], x: Spec, y: Spec, result: Spec) -> Recipe:
    return Recipe([_launch(call, function, operands, x, y, result)] if result.size else [])


def _launch(call: Call, function: str, operands: Sequence[Operand], x: Spec, y: Spec, result: Spec) -> Launch:
    """Pooling makes y of x; threads have packs of `result`, which is one of them or of its shape."""
    number, c, windows = Numbers(call.fixed), x.shape[-1], _windows(call, x, y)
    width = pack_width(x.dtype.itemsize, c)
    padding = call.attrs.get("count_include_pad")
    return launch_of(
        call, function, "pooling", operands, [x.shape[0], c], blocks_for(result.size // width),
        types=[stored(x.dtype), width], more=[windows.written(number), *([] if padding is None else [str(padding).lower()])],
        is_large=is_large(x.size, y.size), number=number,
    )  # fmt: skip


def _windows(call: Call, x: Spec, y: Spec) -> Windows:
    return Windows.of(x.shape[1:-1], y.shape[1:-1], call.attrs["size"], call.attrs)
