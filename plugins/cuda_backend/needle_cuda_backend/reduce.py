"""Recipes of running sums; other reductions are programs."""

from __future__ import annotations

from needle_cuda_backend.recipe import Call, Recipe, inputs_of, outputs_of, stored
from needle_cuda_backend.templates import around, blocks_for, is_large, lanes_for, launch_of, rows_block


def cumsum(call: Call) -> Recipe:
    """Lines whose elements lie far apart have a thread each, whose neighbours read what is beside; others a warp or a block."""
    x, recipe = call.inputs[0], Recipe()
    outer, size, inner = around(x.shape, call.attrs["axis"])
    if not x.size:
        return recipe
    lines, by_rows = outer * inner, inner < 32
    block = rows_block(lanes_for(lines, size)) if by_rows else (256, 1, 1)
    operands = [(inputs_of(1)[0], x.dtype), (outputs_of(1)[0], x.dtype)]
    recipe.operations.append(
        launch_of(
            call, "cumsum_of_rows" if by_rows else "cumsum_of_columns", "reduce", operands, [lines, size, inner],
            blocks_for(lines, block[1] if by_rows else block[0]), block, types=[stored(x.dtype)], is_large=is_large(x.size),
            has_barriers=by_rows,
        )
    )  # fmt: skip
    return recipe
