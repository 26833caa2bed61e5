"""What is declared of an op so that it can be tested: samples, a reference, and inputs that must fail.

    declare("tanh", np.tanh, unary(real(low=-3, high=3)), gradient=COMPLEX)

The reference computes in NumPy, float64 or complex128 (integers as int64), and knows no backend. It is called as
`reference(*arrays, **attributes)` with the attributes as the sample gives them.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from needle_core.backend import default_device
from needle_core.errors import NeedleError
from needle_core.spec import DTYPES, DType

Array: TypeAlias = npt.NDArray[Any]
Reference: TypeAlias = Callable[..., Any]
Shape: TypeAlias = tuple[int, ...]

FLOATING: Final = ("float64", "float32", "float16", "bfloat16")
NUMBERS: Final = (*FLOATING, "int64", "int32", "uint8")
EVERY: Final = (*NUMBERS, "bool")

COMPLEX: Final = "complex step"  # the reference is holomorphic: its derivatives are exact to rounding
DIFFERENCES: Final = "differences"  # it is smooth at the samples, which keep a distance from kinks


@dataclass(frozen=True)
class Input:
    """One tensor of a sample: values uniform in [low, high], none nearer than `margin` to one of `kinks`.

    `kind` "real" takes the dtype under test and is differentiated; "index" is int64 and "mask" bool, whatever is tested.
    `distinct` keeps any two elements apart, for ops that compare elements with each other. `values` are taken as they are.
    """

    shape: Shape = ()
    low: float = -2.0
    high: float = 2.0
    kinks: tuple[float, ...] = ()
    kind: str = "real"
    distinct: bool = False
    margin: float = 0.1
    values: tuple[float, ...] = ()

    def draw(self, rng: np.random.Generator) -> Array:
        """The values in float64, int64 or bool."""
        if self.values:
            return np.array(self.values)
        if self.kind == "index":
            return rng.integers(int(self.low), int(self.high), self.shape, endpoint=True)
        if self.kind == "mask":
            return np.asarray(rng.random(self.shape) < 0.5)
        if self.distinct:
            grid = np.linspace(self.low, self.high, int(np.prod(self.shape)) + 2)[1:-1]
            return rng.permutation(grid).reshape(self.shape)
        x = np.asarray(rng.uniform(self.low, self.high, self.shape))
        for kink in self.kinks:
            x = np.where(np.abs(x - kink) < self.margin, kink + np.where(x < kink, -self.margin, self.margin), x)
        return x

    def __str__(self) -> str:
        if self.values:
            return f"[{','.join(map(str, self.values))}]"
        return f"{'' if self.kind == 'real' else self.kind}({','.join(map(str, self.shape))})"


def real(*shape: int, **range_: Any) -> Input:
    """Numbers of the dtype under test: `range_` are the fields of Input from `low` on."""
    return Input(shape, **range_)


def index(*shape: int, below: int, low: int = 0) -> Input:
    """Integers in low ... below - 1."""
    return Input(shape, low, below - 1, kind="index")


def mask(*shape: int) -> Input:
    """Bools."""
    return Input(shape, kind="mask")


@dataclass(frozen=True)
class Sample:
    """Inputs and attributes of one call. Its text is its identity, and with the op's name seeds its values.

    Where it is not `smooth`, only values are checked, no gradients. Where it is `finite`, no nan or infinity is planted, for
    an operand meets zeros that a kernel may skip. A case gives a `number` to samples with the same text, which may differ in
    ranges and kinks.
    """

    inputs: tuple[Input, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    smooth: bool = True
    finite: bool = False
    number: int = 1

    def __str__(self) -> str:
        parts = [*map(str, self.inputs), *(f"{k}={v!r}" for k, v in self.attrs.items())]
        return " ".join([*parts, *([f"#{self.number}"] if self.number > 1 else [])])

    @property
    def arguments(self) -> dict[str, Any]:
        """The attributes to call with."""
        return {name: default_device() if value is HERE else value for name, value in self.attrs.items()}

    @property
    def size(self) -> int:
        """The number of elements of all inputs."""
        return sum(int(np.prod(i.shape)) for i in self.inputs)

    def draw(self, name: str, seed: int = 0) -> list[Array]:
        """The values of all inputs, the same for the same op `name` and `seed`."""
        rng = np.random.default_rng([seed, zlib.crc32(f"{name}/{self}".encode())])
        return [i.draw(rng) for i in self.inputs]


class Here:
    """Stands in a sample for the default device of when it is used."""

    def __repr__(self) -> str:
        return "here"


HERE: Final = Here()


def sample(*inputs: Input, **attrs: Any) -> Sample:
    """A sample with these inputs and attributes."""
    return Sample(inputs, attrs)


def at(*columns: Sequence[float], **attrs: Any) -> Sample:
    """A sample of these very numbers, a sequence for each input: places where a formula may fail."""
    return Sample(tuple(Input((len(c),), values=tuple(map(float, c))) for c in columns), attrs, smooth=False)


def whole(*columns: Sequence[int], **attrs: Any) -> Sample:
    """A sample of these very integers, in int64, which floating numbers may not hold."""
    return Sample(tuple(Input((len(c),), values=tuple(c)) for c in columns), attrs, smooth=False)


@dataclass(frozen=True)
class Refusal:
    """A call that must raise `error`, in a message that begins with the op's name, has `text` in it and shows the operands."""

    error: type[NeedleError]
    text: str
    sample: Sample


def refuses(error: type[NeedleError], text: str, *inputs: Input, **attrs: Any) -> Refusal:
    """A call with these inputs and attributes that must raise `error`, with `text` in its message."""
    return Refusal(error, text, Sample(inputs, attrs))


@dataclass(frozen=True)
class Kink:
    """The gradients at places where formulas fail or agreement is needed: of `inputs`, for cotangents of ones."""

    inputs: tuple[Sequence[float], ...]
    gradients: tuple[Sequence[float] | None, ...]
    attrs: Mapping[str, Any]

    def __str__(self) -> str:
        return " ".join([*(str(list(x)) for x in self.inputs), *(f"{k}={v!r}" for k, v in self.attrs.items())])


def kink(*inputs: Sequence[float], gives: Sequence[Sequence[float] | None], **attrs: Any) -> Kink:
    """At these values of the inputs, the gradients are those that it `gives`, one sequence for each input; None for a mask."""
    return Kink(inputs, tuple(gives), attrs)


# -- shapes that most ops share ---------------------------------------------------------------------------------------------

ONE: Final[Sequence[Shape]] = ((), (1,), (7,), (0,), (3, 5), (2, 0, 3), (2, 3, 4))
TWO: Final[Sequence[tuple[Shape, Shape]]] = (
    ((), ()), ((7,), ()), ((), (2, 3)), ((5,), (5,)), ((2, 3), (3,)), ((3, 1), (1, 4)), ((1,), (2, 1, 3)),
    ((2, 3, 4), (3, 1)), ((0,), (1,)), ((2, 0), (2, 1)), ((1, 3), (0, 1)),
)  # fmt: skip
AXES: Final[Sequence[tuple[Shape, dict[str, Any]]]] = (
    ((), {}), ((4,), {}), ((4, 3), {"axis": 0}), ((3, 4), {"axis": -1, "keepdims": True}), ((2, 3, 4), {"axis": (0, 2)}),
    ((2, 3, 4), {"axes": (-1, 1), "keepdims": True}), ((2, 3, 4), {}), ((1, 5), {"axis": 0}), ((2, 3), {"axis": ()}),
    ((0, 3), {"axis": 1}),
)  # fmt: skip


def unary(x: Input, **attrs: Any) -> list[Sample]:
    """Samples of an op on one tensor with values like those of `x`."""
    return [sample(replace(x, shape=shape), **attrs) for shape in ONE]


def binary(a: Input, b: Input | None = None, **attrs: Any) -> list[Sample]:
    """Samples of an op on two tensors that are broadcast against each other."""
    return [sample(replace(a, shape=left), replace(b or a, shape=right), **attrs) for left, right in TWO]


def reduced(x: Input, *, empty: bool = True, **attrs: Any) -> list[Sample]:
    """Samples of a reduction; with `empty`, also over axes without elements."""
    more: Iterable[tuple[Shape, dict[str, Any]]] = [((0, 3), {"axis": 0}), ((2, 0), {})] if empty else []
    return [sample(replace(x, shape=shape), **axes, **attrs) for shape, axes in (*AXES, *more)]


# -- the declaration --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """All that is declared of an op.

    `gradient` says how its derivatives are found from the reference: COMPLEX, DIFFERENCES, or None where there are none. An
    op that has gradients, and None, says in `undifferentiated` why they are not checked.
    `dtypes` are those that "real" inputs are tested in; `result` gives the output's dtype for each of them, or the outputs'.
    `rounds` is c in the error bound (see bounds.py): how many units in the last place of the result a good kernel may lose;
    `terms` is t: in the formula that is agreed on, terms that add up to this much may cancel.
    `exact` says that there is no rounding at all. `roundoff` gives a unit roundoff by dtype where it is not the dtype's own.

    `pointwise`: each element of the result depends only on the elements at the same place of inputs that are broadcast.
    `accumulates`: half precision is added up in float32. `large` are samples with more elements than 16 bits can count.
    `kinks` are gradients at places of note. What does not hold is declared with its reason: `either_zero` why the sign of a
    zero is left open, `lax` why results of infinities are, `aliases` why the result may share memory with an operand.
    """

    name: str
    reference: Reference
    samples: Sequence[Sample]
    refusals: Sequence[Refusal] = ()
    gradient: str | None = None
    dtypes: Sequence[str] = EVERY
    result: Callable[[DType], DType | tuple[DType, ...]] = lambda d: d
    rounds: float = 4.0
    terms: float = 0.0
    exact: bool = False
    roundoff: Mapping[str, float] = field(default_factory=dict)
    pointwise: bool = False
    accumulates: bool = False
    large: Sequence[Sample] = ()
    kinks: Sequence[Kink] = ()
    either_zero: str = ""
    lax: str = ""
    aliases: str = ""
    undifferentiated: str = ""

    def __post_init__(self) -> None:
        for name in ("samples", "large"):
            object.__setattr__(self, name, _told_apart(getattr(self, name)))

    def dtypes_of(self, sample: Sample) -> Sequence[str]:
        """The dtypes to test a sample in: all, or those that can hold its numbers."""
        if sample.smooth:
            return self.dtypes
        whole = all(isinstance(v, int) for i in sample.inputs for v in i.values)
        return ["int64"] if whole else [d for d in self.dtypes if d in FLOATING]


def _told_apart(samples: Sequence[Sample]) -> list[Sample]:
    """The samples, numbered where their texts are the same."""
    seen, found = Counter[str](), []
    for s in samples:
        seen[str(s)] += 1
        found.append(s if seen[str(s)] == 1 else replace(s, number=seen[str(s)]))
    return found


CASES: Final[dict[str, Case]] = {}
"""The declarations, by the name of the op."""


def declare(name: str, reference: Reference, samples: Sequence[Sample], **what: Any) -> None:
    """Declare the op called `name`; the rest are the fields of Case."""
    CASES[name] = Case(name, reference, samples, **what)


# -- a check ----------------------------------------------------------------------------------------------------------------


class MismatchError(AssertionError):
    """What was checked does not do what is declared of it."""


@dataclass(frozen=True)
class Check:
    """One check, ready to run: it raises a MismatchError, or returns.

    `id` is OP/CHECK/SAMPLE/DTYPE/LAYOUT, as in "add/forward/(2,3) (3)/float32/transposed", and never changes from run to run.
    `size` is the number of elements that go in: of checks that fail alike, the smallest is shown.
    """

    id: str
    body: Callable[[], None]
    size: int = 0

    def __call__(self) -> None:
        self.body()

    def __str__(self) -> str:
        return self.id


# -- dtypes of results ------------------------------------------------------------------------------------------------------


def floats(d: DType) -> DType:
    """Integers and bools become float32."""
    return d if d.kind == "float" else DTYPES["float32"]


def numbers(d: DType) -> DType:
    """Bools become int64."""
    return DTYPES["int64"] if d.kind == "bool" else d


def sums(d: DType) -> DType:
    """Integers and bools become int64."""
    return d if d.kind == "float" else DTYPES["int64"]


def always(name: str) -> Callable[[DType], DType]:
    """The dtype called `name`, whatever comes in."""
    return lambda _: DTYPES[name]
