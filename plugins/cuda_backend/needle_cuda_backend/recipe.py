"""What the kernel of a call consists of: operations on places, to which addresses are given later.

An eager call binds the places to its buffers and issues the operations at once; a compiled step binds them once to its arena.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

from needle_core.spec import DType, Spec, float32


class Place(NamedTuple):
    """`offset` bytes into operand `number`, or into what the backend provides.

    That is scratch memory, memory whose address is the offset, the flag that kernels set when they refuse a number, and what
    they set it to, which is no address.
    """

    region: Literal["input", "output", "scratch", "memory", "failure", "mark"]
    number: int = 0
    offset: int = 0

    def plus(self, nbytes: int) -> Place:
        return self._replace(offset=self.offset + nbytes)


Sizes: TypeAlias = tuple[int, int, int]


class Entry(NamedTuple):
    """A kernel in CUDA C: `parameters` are pointers, and integers of 64 bits."""

    name: str
    parameters: tuple[str, ...]
    body: str
    has_barriers: bool
    families: frozenset[str]
    """Files beside prelude.cuh that its body needs: "index" stands for kernels/index.cuh."""

    @classmethod
    def named(cls, label: str, parameters: Sequence[str], body: str, has_barriers: bool = False, *families: str) -> Entry:
        """The entry with a name that tells what it does, and differs where it does."""
        digest = hashlib.sha256("\n".join([*parameters, body]).encode()).hexdigest()[:10]
        return cls(f"{label[:48]}_{digest}", tuple(parameters), body, has_barriers, frozenset(families))

    def unless_failed(self) -> Entry:
        """The entry as one that does nothing once the flag of failures is set: its last argument."""
        body = "if (*failed) return;\n" + self.body
        return Entry.named(self.name, [*self.parameters, "const int* failed"], body, self.has_barriers, *self.families)


class Launch(NamedTuple):
    """An entry with a grid and blocks, and its arguments: places, whose addresses are meant, and integers."""

    entry: Entry
    grid: Sizes
    block: Sizes
    arguments: tuple[Place | int, ...]


class Many(NamedTuple):
    """An entry that does the same for several members, whose places and numbers of elements stand in a table on the device.

    Its first arguments are the table of members, a row of addresses and a number for each, and that of blocks, which member
    each belongs to and its first element.
    """

    entry: Entry
    members: tuple[tuple[tuple[Place, ...], int], ...]
    each: int
    """Elements to a block."""
    arguments: tuple[Place | int, ...] = ()


@dataclass
class Recipe:
    """Operations, one after the other, the bytes of scratch memory that they need, and the error if one refuses a number.

    `kept` are things that must live as long, for memory of theirs is read.
    """

    operations: list[Any] = field(default_factory=list)
    scratch: int = 0
    failure: tuple[type[Exception], str] | None = None
    kept: list[Any] = field(default_factory=list)

    def space(self, nbytes: int) -> Place:
        """Scratch memory that no other operation of the recipe uses."""
        place = Place("scratch", 0, self.scratch)
        self.scratch += -(-nbytes // 256) * 256
        return place

    def then(self, other: Recipe, inputs: Sequence[Place], outputs: Sequence[Place]) -> None:
        """Append the operations of `other`, whose operands are those places here."""
        base = self.space(other.scratch).offset if other.scratch else 0

        def moved(x: Any) -> Any:
            """What an operation has, its places moved: these stand by themselves, or in tuples."""
            if type(x) is tuple:
                return tuple(map(moved, x))
            if not isinstance(x, Place) or x.region in ("memory", "failure", "mark"):
                return x
            if x.region == "scratch":
                return x.plus(base)
            return (inputs if x.region == "input" else outputs)[x.number].plus(x.offset)

        self.operations += [x._replace(**{name: moved(value) for name, value in x._asdict().items()}) for x in other.operations]
        self.failure = self.failure or other.failure
        self.kept += other.kept


class Call(NamedTuple):
    """A call of an op: the specs of what goes in and comes out, and canonical attributes.

    With `fixed`, sizes stand in the source as numbers, for compiled steps; else they are arguments, so that one kernel serves
    all shapes.
    """

    inputs: tuple[Spec, ...]
    outputs: tuple[Spec, ...]
    attrs: Mapping[str, Any]
    fixed: bool = False


def inputs_of(n: int) -> list[Place]:
    return [Place("input", i) for i in range(n)]


def outputs_of(n: int) -> list[Place]:
    return [Place("output", i) for i in range(n)]


class Numbers:
    """Sizes in a source: as they are if fixed, else as parameters of the kernel."""

    def __init__(self, fixed: bool) -> None:
        self.fixed = fixed
        self.parameters: list[str] = []
        self.arguments: list[int] = []

    def __call__(self, n: int) -> str:
        if self.fixed:
            return str(n) if abs(n) < 2**31 else f"{n}LL"
        self.parameters.append(f"int64 n{len(self.arguments)}")
        self.arguments.append(n)
        return f"n{len(self.arguments) - 1}"


STORED = {"bool": "bool", "float32": "float", "float64": "double"}


def stored(dtype: DType) -> str:
    """The type in CUDA C of elements in memory."""
    return STORED.get(dtype.name, dtype.name)


def wide(dtype: DType) -> DType:
    """The dtype that elements are computed in."""
    return float32 if dtype.itemsize == 2 else dtype


def computed(dtype: DType) -> str:
    """The type in CUDA C that elements are computed in."""
    return stored(wide(dtype))
