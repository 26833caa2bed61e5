"""Recipes of convolutions that no library takes: kernels that add up what the definition says, in all floating dtypes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from needle_core.graph.program import Load, Program, Store
from needle_core.spec import DTYPES, Spec
from needle_cuda_backend.loops import recipe_of
from needle_cuda_backend.recipe import Call, Launch, Numbers, Place, Recipe, inputs_of, outputs_of, stored
from needle_cuda_backend.templates import BLOCKS, THREADS, Operand, blocks_for, is_large, launch_of
from needle_cuda_backend.windows import Windows


def direct_conv(call: Call) -> Recipe:
    (x, weight), y = call.inputs, call.outputs[0]
    return Recipe([_launch(call, "direct_conv", _operands(call), x, weight, y, y.size)] if y.size else [])


def direct_conv_transpose(call: Call) -> Recipe:
    (y, weight), x = call.inputs, call.outputs[0]
    return Recipe([_launch(call, "direct_conv_transpose", _operands(call), x, weight, y, x.size)] if x.size else [])


def direct_conv_weight_grad(call: Call) -> Recipe:
    """Places are cut into chunks, so that there are threads enough; the sums of the chunks are added up."""
    (y, x), weight, recipe = call.inputs, call.outputs[0], Recipe()
    if not weight.size:
        return recipe
    wide = DTYPES["float32"] if x.dtype.itemsize == 2 else x.dtype
    places = math.prod(y.shape[:-1])
    chunks = max(1, min(BLOCKS * THREADS // max(weight.size, THREADS), places // 64))
    chunk = -(-places // chunks)
    parts = recipe.space(chunks * weight.size * wide.itemsize)
    operands: list[Operand] = [*((p, x.dtype) for p in inputs_of(2)), (parts, wide)]
    recipe.operations.append(_launch(call, "direct_conv_weight_grad", operands, x, weight, y, weight.size, chunks, [chunk]))
    total = Program(
        (chunks, weight.size), (Load(0, wide, (weight.size, 1)),), (), (), (Store(0, 0, weight.dtype, "sum", (0,)),)
    )
    recipe.then(recipe_of(total, call.fixed), [parts], outputs_of(1))
    return recipe


def _operands(call: Call) -> list[Operand]:
    return [(place, call.outputs[0].dtype) for place in (*inputs_of(2), Place("output"))]


def _launch(
    call: Call, function: str, operands: list[Operand], x: Spec, weight: Spec, y: Spec, count: int, chunks: int = 1,
    chunk: Sequence[int] = (),
) -> Launch:  # fmt: skip
    """The convolution makes y of x and weight; `count` elements are computed, for each of the chunks."""
    number = Numbers(call.fixed)
    windows = Windows.of(x.shape[1:-1], y.shape[1:-1], weight.shape[1:-1], call.attrs)
    sizes = [x.shape[0], *chunk, x.shape[-1], y.shape[-1], call.attrs["groups"]]
    return launch_of(
        call, function, "direct", operands, sizes, (blocks_for(count)[0], chunks, 1), types=[stored(x.dtype)],
        more=[windows.written(number)], is_large=is_large(x.size, y.size, weight.size * chunks), number=number,
    )  # fmt: skip
