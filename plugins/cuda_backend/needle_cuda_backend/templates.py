"""Launches of the function templates in kernels/: an entry is a call of one, for types, operands and sizes.

Such a function takes a pointer for each operand, then sizes, then where to note a failure. Its first template argument is the
type of indices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, TypeAlias

from needle_core.spec import DType
from needle_cuda_backend.recipe import Call, Entry, Launch, Numbers, Place, Sizes, stored

THREADS: Final = 256
BLOCKS: Final = 264
"""About as many blocks keep a large device busy: two for each of 132 multiprocessors."""
MOST_LANES: Final = 512

Operand: TypeAlias = tuple[Place, DType | str]
"""Where an operand is, and the type of its elements: a dtype, or a type of CUDA C."""


def launch_of(
    call: Call,
    function: str,
    family: str,
    operands: Sequence[Operand],
    sizes: Sequence[int],
    grid: Sizes,
    block: Sizes = (THREADS, 1, 1),
    *,
    types: Sequence[object] = (),
    is_large: bool = False,
    has_barriers: bool = False,
    can_fail: bool = False,
    number: Numbers | None = None,
) -> Launch:
    """The launch of a function template; its operands' elements are counted in 64 bits if there are that many."""
    number = number or Numbers(call.fixed)
    names = [f"p{i}" for i in range(len(operands))]
    parameters = [f"{_pointer(place, kind)}{name}" for (place, kind), name in zip(operands, names, strict=True)]
    arguments = ", ".join([*names, *map(number, sizes), *(["Failure{flag, int(mark)}"] if can_fail else [])])
    template = ", ".join(["Index", *map(str, types)])
    body = f"using Index = {'int64' if is_large else 'int'};\n{function}<{template}>({arguments});"
    failing = ["int* flag", "int64 mark"] if can_fail else []
    entry = Entry.named(function, [*parameters, *number.parameters, *failing], body, has_barriers, family)
    places = [place for place, _ in operands]
    failure = [Place("failure"), Place("mark")] if can_fail else []
    return Launch(entry, grid, block, (*places, *number.arguments, *failure))


def _pointer(place: Place, kind: DType | str) -> str:
    constant = "const " if place.region == "input" else ""
    return f"{constant}{stored(kind) if isinstance(kind, DType) else kind}* "


def blocks_for(count: int, each: int = THREADS) -> Sizes:
    """A grid with `each` of so many things to a block."""
    return -(-count // each), 1, 1


def is_large(*counts: int) -> bool:
    """Whether places among so many elements need 64 bits, also some way behind the last."""
    return max(counts) >= 2**31 - 2**20


def pack_width(itemsize: int, *sizes: int) -> int:
    """How many elements go into 16 bytes, or fewer, so that packs of them fit into each of the sizes."""
    return math.gcd(16 // itemsize, *sizes)


def around(shape: Sequence[int], axis: int) -> tuple[int, int, int]:
    """A shape as (outer, size, inner), `axis` in the middle."""
    return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])


def lanes_for(rows: int, packs: int) -> int:
    """How many threads go through a row: a warp if there are many rows or they are short, else up to `MOST_LANES`."""
    lanes = 32
    while rows * lanes < BLOCKS * THREADS and lanes < MOST_LANES and packs > 4 * lanes:
        lanes *= 2
    return lanes


def rows_block(lanes: int) -> Sizes:
    """Blocks of rows with so many threads each."""
    return lanes, THREADS // 32 if lanes == 32 else 1, 1
