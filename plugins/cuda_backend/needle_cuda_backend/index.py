"""Recipes that gather, scatter and sort."""

from __future__ import annotations

from typing import Final

from needle_core.graph.program import Load, Program, Store
from needle_core.spec import Spec, bool_, int64
from needle_cuda_backend.loops import recipe_of
from needle_cuda_backend.recipe import Call, Numbers, Place, Recipe, inputs_of, outputs_of, stored, wide
from needle_cuda_backend.templates import BLOCKS, Operand, around, blocks_for, is_large, launch_of, pack_width

_UNITS: Final = {1: "uint8", 2: "unsigned short", 4: "uint32", 8: "uint64", 16: "Pack<uint64, 2>"}
_TILE: Final = 2048
"""Elements of the result that a block of scatter_add has: kTile."""


def take(call: Call) -> Recipe:
    """Elements are only moved, so that one kernel serves all dtypes of a size."""
    (spec, index), (x, indices) = call.inputs, inputs_of(2)
    outer, size, inner = around(spec.shape, call.attrs["axis"])
    width = pack_width(spec.dtype.itemsize, inner) if inner else 1
    unit, units = _UNITS[spec.dtype.itemsize * width], inner // width
    recipe = _indexing(index, call.attrs["axis"], size)
    if count := outer * index.size * units:
        operands: list[Operand] = [(x, unit), (indices, index.dtype), (Place("output"), unit)]
        recipe.operations.append(
            launch_of(
                call, "take", "index", operands, [outer, size, units, index.size], blocks_for(count),
                types=[unit, stored(index.dtype)], is_large=is_large(count, outer * size * units), can_fail=True,
            )
        )  # fmt: skip
    return recipe


def scatter_add(call: Call) -> Recipe:
    x, indices, _ = call.inputs
    return _scattered(call, inputs_of(3), x, indices, call.attrs["axis"])


def embedding_grad(call: Call) -> Recipe:
    (_, indices), y = call.inputs, call.outputs[0]
    g, places = inputs_of(2)
    return _scattered(call, [g, places, g], y, indices, 0, from_zero=True)


def _scattered(call: Call, places: list[Place], y: Spec, index: Spec, axis: int, from_zero: bool = False) -> Recipe:
    """By tiles of the result, each of which reads all indices; where there are few, these are split into chunks."""
    outer, size, inner = around(y.shape, axis)
    recipe = _indexing(index, axis, size)
    if not y.size:
        return recipe
    columns = next(n for n in (1, 4, 16, 64, 128) if n >= inner or n == 128)
    tiles = outer * -(-size // (_TILE // columns)) * -(-inner // columns)
    chunks = max(1, min(BLOCKS // tiles, index.size // 512))
    part = wide(y.dtype) if chunks > 1 else y.dtype
    target = recipe.space(chunks * y.size * part.itemsize) if chunks > 1 else Place("output")
    x, indices, updates = places
    recipe.operations.append(
        launch_of(
            call, "scatter_add", "index", [(x, y.dtype), (indices, index.dtype), (updates, y.dtype), (target, part)],
            [outer, size, inner, index.size, -(-index.size // chunks)], (tiles, chunks, 1),
            types=[stored(y.dtype), stored(index.dtype), columns, str(from_zero).lower(), stored(part)],
            is_large=is_large(chunks * y.size, outer * index.size * inner), has_barriers=True, can_fail=True,
        )
    )  # fmt: skip
    if chunks > 1:
        total = Store(0, 0, y.dtype, "any" if y.dtype is bool_ else "sum", (0,))
        sums = Program((chunks, y.size), (Load(0, part, (y.size, 1)),), (), (), (total,))
        recipe.then(recipe_of(sums, call.fixed), [target], outputs_of(1))
    return recipe


def places(recipe: Recipe, call: Call, indices: Place, spec: Spec, size: int) -> Place:
    """Append what finds the places in 0 ... size - 1 that indices name, as int64, and say where these are."""
    named = recipe.space(8 * spec.size)
    if spec.size:
        recipe.operations.append(
            launch_of(
                call, "name_places", "index", [(indices, spec.dtype), (named, int64)], [size, spec.size], blocks_for(spec.size),
                types=[stored(spec.dtype)], is_large=is_large(spec.size), can_fail=True,
            )
        )  # fmt: skip
    return named


def argsort(call: Call) -> Recipe:
    """Runs are merged, from single elements on, by one kernel for all passes, between two places."""
    x, recipe = call.inputs[0], Recipe()
    outer, size, inner = around(x.shape, call.attrs["axis"])
    passes = max(1, (size - 1).bit_length()) if x.size else 0
    homes = [Place("output"), recipe.space(8 * x.size)]
    for k in range(passes):
        y, before = homes[(passes - 1 - k) % 2], homes[(passes - k) % 2]
        recipe.operations.append(
            launch_of(
                call, "argsort_merge", "index", [(Place("input"), x.dtype), (before, int64), (y, int64)],
                [outer * inner, size, inner, 1 << k], blocks_for(x.size), is_large=is_large(2 * x.size),
                types=[stored(x.dtype), str(call.attrs["descending"]).lower()], number=Numbers(fixed=False),
            )
        )  # fmt: skip
    return recipe


def _indexing(index: Spec, axis: int, size: int) -> Recipe:
    return Recipe(failure=(IndexError, f"an index is out of bounds for axis {axis} with size {size}"))
