"""Recipes of softmax, layer norm, and of the statistics for batch norm, whose other parts are programs."""

from __future__ import annotations

import math

from needle_core.graph.program import Load, Program, Store, broadcast_steps, row_major
from needle_core.graph.single_ops import copying
from needle_core.spec import DTYPES, Spec
from needle_cuda_backend.loops import recipe_of
from needle_cuda_backend.recipe import Call, Place, Recipe, inputs_of, outputs_of, stored
from needle_cuda_backend.templates import (
    BLOCKS,
    THREADS,
    Operand,
    blocks_for,
    is_large,
    launch_of,
    pack_width,
    row_types,
    rows_block,
)


def softmax(call: Call) -> Recipe:
    return _over_rows(call, "softmax")


def log_softmax(call: Call) -> Recipe:
    return _over_rows(call, "log_softmax")


def softmax_grad(call: Call) -> Recipe:
    return _over_rows(call, "softmax_grad")


def _over_rows(call: Call, function: str) -> Recipe:
    """Rows over any axes. Operands are copied if these are not the last, or if they are broadcast."""
    recipe, y, axes = Recipe(), call.outputs[0], call.attrs["axes"]
    if not y.size:
        return recipe
    kept = [i for i in range(y.ndim) if i not in axes]
    order = [*kept, *axes]
    rows, n = (math.prod(y.shape[i] for i in group) for group in (kept, axes))
    operands, target = inputs_of(len(call.inputs)), Place("output")
    turned = tuple(y.shape[i] for i in order)
    is_apart = order != [*range(y.ndim)]
    for i, x in enumerate(call.inputs):
        if is_apart or x.shape != y.shape:
            steps = broadcast_steps(x.shape, y.shape)
            operands[i] = recipe.space(y.nbytes)
            copy = copying(0, y.dtype, turned, [steps[axis] for axis in order])
            recipe.then(recipe_of(copy, call.fixed), [Place("input", i)], [operands[i]])
    if is_apart:
        target = recipe.space(y.nbytes)
    lanes, width, held = row_types(call, rows, n, y.dtype, 32 // len(operands))
    block = rows_block(lanes)
    recipe.operations.append(
        launch_of(
            call, function, "normalize", [(x, y.dtype) for x in (*operands, target)], [rows, n], blocks_for(rows, block[1]),
            block, types=[stored(y.dtype), lanes, width, held], is_large=is_large(y.size), has_barriers=True,
        )
    )  # fmt: skip
    if is_apart:
        steps = row_major(turned)
        back = copying(0, y.dtype, y.shape, [steps[order.index(i)] for i in range(y.ndim)])
        recipe.then(recipe_of(back, call.fixed), [target], outputs_of(1))
    return recipe


def layer_norm(call: Call) -> Recipe:
    x, weight, _ = call.inputs
    rows, n, recipe = _rows(x, weight), weight.size, Recipe()
    if not x.size:
        return recipe
    lanes, width, held = row_types(call, rows, n, x.dtype, 32)
    block = rows_block(lanes)
    recipe.operations.append(
        launch_of(
            call, "layer_norm", "normalize", [(p, x.dtype) for p in (*inputs_of(3), Place("output"))], [rows, n],
            blocks_for(rows, block[1]), block, types=[stored(x.dtype), lanes, width, held], more=_eps(call),
            is_large=is_large(x.size), has_barriers=True,
        )
    )  # fmt: skip
    return recipe


def layer_norm_grad(call: Call) -> Recipe:
    """Groups of threads have rows and sums for weight and bias of their own; another kernel adds up these."""
    x, weight = call.inputs[1:]
    rows, n, recipe, dtype = _rows(x, weight), weight.size, Recipe(), x.dtype
    if not n:
        return recipe
    lanes, width, held = row_types(call, rows, n, dtype, 16)
    block = rows_block(lanes)
    blocks = min(BLOCKS * max(1, THREADS // lanes) // block[1], -(-rows // block[1]) or 1)
    groups = blocks * block[1]
    wide = DTYPES["float32"] if dtype.itemsize == 2 else dtype
    parts = blocks if held else groups
    sums = recipe.space(parts * 2 * n * wide.itemsize)
    g, x_place, w = inputs_of(3)
    dx, by_weight, by_bias = outputs_of(3)
    operands: list[Operand] = [(g, dtype), (x_place, dtype), (w, dtype), (dx, dtype), (sums, wide)]
    recipe.operations.append(
        launch_of(
            call, "layer_norm_grad", "normalize", operands, [rows, n, groups], (blocks, 1, 1), block,
            types=[stored(dtype), lanes, width, held], more=_eps(call), is_large=is_large(x.size, parts * 2 * n),
            has_barriers=True,
        )
    )  # fmt: skip
    loads = tuple(Load(0, wide, (2 * n, 1), offset) for offset in (0, n))
    stores = tuple(Store(i, i, dtype, "sum", (0,)) for i in range(2))
    total = Program((parts, n), loads, (), (), stores)
    recipe.then(recipe_of(total, call.fixed), [sums], [by_weight, by_bias])
    return recipe


def batch_statistics(call: Call) -> Recipe:
    """Mean and variance in one pass, where the body would read x twice, and write what is left of it without its mean."""
    x, recipe = call.inputs[0], Recipe()
    c, wide = x.shape[-1], call.outputs[0].dtype
    if not c:
        return recipe
    rows, width = math.prod(x.shape[:-1]), pack_width(x.dtype.itemsize, c)
    lanes = min(32, 1 << (c // width - 1).bit_length())
    across, depth = -(-c // (lanes * width)), THREADS // lanes
    chunks = max(1, min(BLOCKS // across, rows // (16 * depth)))
    chunk = -(-rows // chunks)
    parts = recipe.space(chunks * 2 * c * wide.itemsize)
    large = is_large(x.size, chunks * 2 * c)
    mean, var = outputs_of(2)
    first: list[Operand] = [(Place("input"), x.dtype), (parts, wide)]
    last: list[Operand] = [(parts, wide), (mean, wide), (var, wide)]
    recipe.operations += [
        launch_of(
            call, "batch_moments", "normalize", first, [rows, c, chunk], (across, chunks, 1), (lanes, depth, 1),
            types=[stored(x.dtype), lanes, width], is_large=large, has_barriers=True,
        ),
        launch_of(
            call, "batch_statistics", "normalize", last, [rows, c, chunk, chunks], (-(-c // 32), 1, 1), (32, 8, 1),
            types=[stored(wide)], is_large=large, has_barriers=True,
        ),
    ]  # fmt: skip
    return recipe


def _rows(x: Spec, weight: Spec) -> int:
    return math.prod(x.shape[: x.ndim - weight.ndim])


def _eps(call: Call) -> list[str]:
    return [repr(float(call.attrs["eps"]))]
