"""Recipes that gather, scatter and sort."""

from __future__ import annotations

from typing import Final

from needle_core.graph.program import Program, Store
from needle_core.spec import DTYPES, DType, Spec
from needle_cuda_backend.loops import recipe_of
from needle_cuda_backend.recipe import Call, Numbers, Place, Recipe, computed, inputs_of, stored
from needle_cuda_backend.templates import BLOCKS, THREADS, Operand, around, blocks_for, is_large, launch_of, pack_width

_UNITS: Final = {1: "uint8", 2: "unsigned short", 4: "uint32", 8: "uint64", 16: "Pack<uint64, 2>"}
_TILE: Final = 2048
"""Elements of the result that a block of scatter_add has: kTile."""
_SORTED: Final = 1024
"""Elements that a block of argsort sorts: kSorted."""
_READ: Final = 2**24
"""Indices that all tiles together may read: about as long as it takes to sort them."""


def take(call: Call) -> Recipe:
    x, indices = call.inputs
    return _taken(call, Place("input", 0), Place("input", 1), x, indices, call.attrs["axis"])


def embedding(call: Call) -> Recipe:
    indices, weight = call.inputs
    return _taken(call, Place("input", 1), Place("input", 0), weight, indices, 0)


def _taken(call: Call, x: Place, indices: Place, spec: Spec, index: Spec, axis: int) -> Recipe:
    """Elements are only moved, so that one kernel serves all dtypes of a size."""
    outer, size, inner = around(spec.shape, axis)
    width = pack_width(spec.dtype.itemsize, inner) if inner else 1
    unit, units = _UNITS[spec.dtype.itemsize * width], inner // width
    recipe = _indexing(index, axis, size)
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
    if tiles * index.size > _READ:
        _sorted(recipe, call, places, y, index, (outer, size, inner), from_zero)
        return recipe
    chunks = max(1, min(BLOCKS // tiles, index.size // 512))
    accumulated = computed(y.dtype)
    parts = recipe.space(chunks * y.size * (8 if y.dtype.itemsize == 8 else 4)) if chunks > 1 else None
    target: Operand = (Place("output"), y.dtype) if parts is None else (parts, accumulated)
    kinds = [stored(y.dtype), stored(index.dtype), columns, str(from_zero).lower()]
    x, indices, updates = places
    recipe.operations.append(
        launch_of(
            call, "scatter_add", "index", [(x, y.dtype), (indices, index.dtype), (updates, y.dtype), target],
            [outer, size, inner, index.size, -(-index.size // chunks)], (tiles, chunks, 1), types=[*kinds, _text(target)],
            is_large=is_large(chunks * y.size, outer * index.size * inner), has_barriers=True, can_fail=True,
        )
    )  # fmt: skip
    if parts is not None:
        recipe.operations.append(
            launch_of(
                call, "combine", "index", [(parts, accumulated), (Place("output"), y.dtype)], [y.size, chunks],
                blocks_for(y.size), types=[stored(y.dtype), accumulated], is_large=is_large(chunks * y.size),
            )
        )  # fmt: skip
    return recipe


def _sorted(
    recipe: Recipe, call: Call, places: list[Place], y: Spec, index: Spec, sizes: tuple[int, int, int], from_zero: bool
) -> None:
    """Append a scattering into a large table, which finds what belongs to a row in the order of the sorted indices."""
    (outer, size, inner), count, int64 = sizes, index.size, DTYPES["int64"]
    large = is_large(y.size, outer * count * inner)
    kind = int64 if large else DTYPES["int32"]
    x, indices, updates = places
    named, order, starts = recipe.space(8 * count), recipe.space(8 * count), recipe.space(kind.itemsize * size)
    recipe.operations.append(
        launch_of(
            call, "name_places", "index", [(indices, index.dtype), (named, int64)], [size, count], blocks_for(count),
            types=[stored(index.dtype)], is_large=large, can_fail=True,
        )
    )  # fmt: skip
    line = index.like(shape=(count,), dtype=int64)
    recipe.then(argsort(Call((line,), (line,), {"axis": 0, "descending": False}, call.fixed)), [named], [order])
    none = Program((size,), (), ((-1, kind),), (), (Store(0, 0, kind),))
    recipe.then(recipe_of(none, call.fixed), [], [starts])
    ordered: list[Operand] = [(named, int64), (order, int64), (starts, kind)]
    recipe.operations += [
        launch_of(call, "find_starts", "index", ordered, [count], blocks_for(count), is_large=large),
        launch_of(
            call, "scatter_sorted", "index", [(x, y.dtype), *ordered, (updates, y.dtype), (Place("output"), y.dtype)],
            [*sizes, count], blocks_for(y.size), types=[stored(y.dtype), str(from_zero).lower()], is_large=large,
        ),
    ]  # fmt: skip


def argsort(call: Call) -> Recipe:
    """Blocks sort what fits into their memory; runs are then merged, by one kernel for all passes, between two places."""
    x, recipe = call.inputs[0], Recipe()
    outer, size, inner = around(x.shape, call.attrs["axis"])
    if not x.size:
        return recipe
    passes = max(0, (-(-size // _SORTED) - 1).bit_length())
    homes = [Place("output"), recipe.space(8 * x.size) if passes else Place("output")]
    here, lines = passes % 2, outer * inner
    int64, kind, more = DTYPES["int64"], [stored(x.dtype)], [str(call.attrs["descending"]).lower()]
    threads = min(THREADS, -(-size // 32) * 32)
    recipe.operations.append(
        launch_of(
            call, "argsort_tile", "index", [(Place("input"), x.dtype), (homes[here], int64)], [lines, size, inner],
            blocks_for(lines * -(-size // _SORTED), 1), (threads, 1, 1), types=kind, more=more, is_large=is_large(x.size),
            has_barriers=True,
        )
    )  # fmt: skip
    for k in range(passes):
        operands: list[Operand] = [(Place("input"), x.dtype), (homes[here], int64), (homes[1 - here], int64)]
        recipe.operations.append(
            launch_of(
                call, "argsort_merge", "index", operands, [lines, size, inner, _SORTED << k], blocks_for(x.size), types=kind,
                more=more, is_large=is_large(x.size), number=Numbers(fixed=False),
            )
        )  # fmt: skip
        here = 1 - here
    return recipe


def _indexing(index: Spec, axis: int, size: int) -> Recipe:
    return Recipe(failure=(IndexError, f"an index is out of bounds for axis {axis} with size {size}"))


def _text(operand: Operand) -> str:
    kind = operand[1]
    return stored(kind) if isinstance(kind, DType) else kind
