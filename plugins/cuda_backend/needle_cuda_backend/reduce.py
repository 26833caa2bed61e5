"""Recipes of running sums; other reductions are programs."""

from __future__ import annotations

from needle_cuda_backend.recipe import Call, Recipe, inputs_of, outputs_of, stored
from needle_cuda_backend.templates import around, blocks_for, is_large, lanes_for, launch_of, rows_block


def cumsum(call: Call) -> Recipe:
    """Lines have a warp or a block each. Where their elements lie apart, the lines of a block lie side by side."""
    x, recipe = call.inputs[0], Recipe()
    outer, size, inner = around(x.shape, call.attrs["axis"])
    block = rows_block(lanes_for(outer * inner, size))
    operands = [(inputs_of(1)[0], x.dtype), (outputs_of(1)[0], x.dtype)]
    if x.size:
        recipe.operations.append(
            launch_of(
                call, "cumsum", "reduce", operands, [outer * inner, size, inner], blocks_for(outer * inner, block[1]), block,
                types=[stored(x.dtype)], is_large=is_large(x.size), has_barriers=True,
            )
        )  # fmt: skip
    return recipe
