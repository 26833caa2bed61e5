"""Random programs: functions of tensors that call ops of the core on each other's results, for whatever compiles graphs.

    program = random_program(seed=3)
    program(*map(ndl.Tensor, program.inputs))

Half of the steps are what compilers rearrange: elementwise ops with and without broadcasting, neutral operands, views, products
of transposed matrices, reductions, random bits. The rest are samples of the declarations, of all ops.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np

from needle_core.backend import default_device
from needle_core.errors import NeedleError
from needle_core.op import OPS
from needle_core.spec import Spec, dtype, promote
from needle_core.tensor import Tensor
from needle_core.testing import CASES
from needle_core.testing.samples import Array, Case


class Plain(NamedTuple):
    """A Python number as an operand."""

    number: bool | int | float


Call: TypeAlias = tuple[str, tuple[int | Plain, ...], Mapping[str, Any]]

LARGE: Final = 4096  # elements; what would be larger is not computed

UNARY: Final = (
    "abs", "exp", "floor", "negative", "relu", "sigmoid", "sign", "sin", "sqrt", "square", "tanh", "positive", "isfinite",
    "logical_not", "gelu", "erf", "expm1",
)  # fmt: skip
BINARY: Final = (
    "add", "subtract", "multiply", "divide", "maximum", "minimum", "less", "equal", "logical_and", "atan2", "remainder",
)  # fmt: skip
REDUCING: Final = ("sum", "max", "min", "mean", "any", "all", "prod")
WHOLE: Final = ("add", "subtract", "multiply", "square", "negative", "abs", "sum", "prod", "matmul", "random_bits")
"""Ops that give whole numbers for such, exactly if they are small; beside those that never round."""
NEUTRAL: Final = (
    ("multiply", 1),
    ("divide", 1),
    ("subtract", 0),
    ("add", -0.0),
    ("add", 0.0),
    ("pow", 1),
    ("logical_or", False),
)


def _keeps_whole(case: Case) -> bool:
    """Whether an op never rounds, and gives no fractions of its own, which sums and products would round."""
    return case.exact and case.name != "random_uniform"


@dataclass
class RandomProgram:
    """A function from tensors with the values of `inputs` to a list of tensors. The same seed gives the same program.

    A call has the name of an op, operands, and attributes. Operand i is result i of all calls, and ~i is input i.
    """

    inputs: list[Array] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)

    def __call__(self, *tensors: Tensor) -> list[Tensor]:
        values = self.values(*tensors)
        return [values[i] for i in self.outputs]

    def values(self, *tensors: Tensor) -> list[Tensor]:
        """The results of all calls."""
        values: list[Tensor] = []
        for name, operands, attrs in self.calls:
            args = (i.number if isinstance(i, Plain) else values[i] if i >= 0 else tensors[~i] for i in operands)
            made = OPS[name](*args, **attrs)
            values += made if isinstance(made, tuple) else (made,)
        return values


def random_program(seed: int, *, steps: int = 16, samples: bool = True, whole: bool = False) -> RandomProgram:
    """A program for the default device; without `samples`, only of what compilers rearrange.

    If it is to be `whole`, all numbers are, and no op rounds as long as they stay small: whatever the order of additions, the
    results are the same.
    """
    return _Maker(np.random.default_rng(seed), samples=samples, whole=whole).program(steps)


class _Maker:
    """Draws the steps of a program. A door says whether a call can be made; what it refuses is drawn anew."""

    def __init__(self, rng: np.random.Generator, *, samples: bool, whole: bool) -> None:
        self.rng, self.whole, self.device, self.made = rng, whole, default_device(), RandomProgram()
        self.specs: dict[int, Spec] = {}
        self.count = 0
        rows, columns = (int(n) for n in rng.integers(1, 6, 2))
        for shape in ((rows, columns), (columns,), (columns, rows), (), (2, rows, columns)):
            self._input(rng.choice([-1.0, -0.0, 0.0, 0.5, 2.0, 3.0], shape) + (rng.random() < 0.7) * rng.normal(size=shape))
        self._input(rng.random((rows, columns)) < 0.5)
        self._input(rng.integers(-3, 4, (rows, columns)))
        self.kinds: list[Callable[[], bool]] = [
            self._unary, self._binary, self._binary, self._neutral, self._view, self._view, self._cast, self._reduction,
            self._product, self._choice, self._repetition, self._bits,
        ]  # fmt: skip
        if samples:
            self.kinds += [self._sample] * len(self.kinds)

    def program(self, steps: int) -> RandomProgram:
        for _ in range(steps):
            while not self.kinds[self.rng.integers(len(self.kinds))]():
                pass
        self.made.outputs = sorted({*range(max(0, self.count - 4), self.count), *self.rng.integers(0, self.count, 3).tolist()})
        return self.made

    def _input(self, values: Array) -> int:
        """A new input, in float32, int64 or bool."""
        array: Array = np.asarray(values).astype({"f": np.float32, "i": np.int64, "b": np.bool_}[np.asarray(values).dtype.kind])
        self.made.inputs.append(np.round(array) if self.whole and array.dtype.kind == "f" else array)
        self.specs[-len(self.made.inputs)] = Spec.of(array.shape, dtype(array.dtype), self.device)
        return -len(self.made.inputs)

    def _call(self, name: str, *operands: int | Plain, **attrs: Any) -> bool:
        """Add a call if the door lets it in."""
        first = self.specs[operands[0]] if operands and isinstance(operands[0], int) else None
        specs = []
        for i in operands:
            if isinstance(i, Plain):
                assert first is not None  # numbers come second
                specs.append(Spec.of((), promote(first.dtype, type(i.number)), self.device))
            else:
                specs.append(self.specs[i])
        try:
            rule = getattr(OPS[name].door, "promotion", lambda *dtypes: dtypes)
            dtypes = rule(*(s.dtype for s in specs))
            spec, _ = OPS[name].door(*(s.like(dtype=d) for s, d in zip(specs, dtypes, strict=True)), **attrs)
        except (NeedleError, TypeError):
            return False
        made = spec if isinstance(spec, tuple) else (spec,)
        if any(s.size > LARGE for s in made):
            return False
        self.made.calls.append((name, operands, attrs))
        self.specs |= {self.count + i: spec for i, spec in enumerate(made)}
        self.count += len(made)
        return True

    def _any(self) -> int:
        """A value, more often a late one."""
        return int(len(self.specs) * self.rng.random() ** 0.7) - len(self.made.inputs)

    def _pick(self, names: Sequence[str]) -> str:
        allowed = [name for name in names if not self.whole or name in WHOLE or (name in CASES and _keeps_whole(CASES[name]))]
        return allowed[int(self.rng.integers(len(allowed)))]

    def _unary(self) -> bool:
        return self._call(self._pick(UNARY), self._any())

    def _binary(self) -> bool:
        return self._call(self._pick(BINARY), self._any(), self._any())

    def _neutral(self) -> bool:
        name, number = NEUTRAL[self.rng.integers(len(NEUTRAL))]
        x = self._any()
        if self.specs[x].dtype == "bool" and name != "logical_or":
            return False
        return self._call(name, x, Plain(number))

    def _view(self) -> bool:
        x = self._any()
        shape = self.specs[x].shape
        match self.rng.integers(6):
            case 0:
                return self._call("permute_dims", x, axes=tuple(int(i) for i in self.rng.permutation(len(shape))))
            case 1:
                return self._call("reshape", x, shape=self._factors(math.prod(shape)))
            case 2:
                return self._call("broadcast_to", x, shape=(int(self.rng.integers(1, 4)), *shape))
            case 3:
                return self._call("flip", x, axis=int(self.rng.integers(len(shape) or 1)))
            case 4:
                start = tuple(int(self.rng.integers(0, n // 2 + 1)) for n in shape)
                step = tuple(int(self.rng.integers(1, 3)) for _ in shape)
                return self._call("strided_slice", x, start=start, stop=shape, step=step)
            case _:
                return self._call("reshape", x, shape=shape)

    def _factors(self, n: int) -> tuple[int, ...]:
        """A random shape of n elements."""
        if n == 0:
            return (0, 2)
        divisor = int(self.rng.choice([d for d in range(1, n + 1) if n % d == 0]))
        return (divisor, n // divisor)

    def _cast(self) -> bool:
        names = ["float32", "float64", "int64", "bool"] if self.whole else ["float32", "float64", "int64", "float16", "bool"]
        return self._call("astype", self._any(), dtype=dtype(names[int(self.rng.integers(len(names)))]))

    def _reduction(self) -> bool:
        x = self._any()
        n = self.specs[x].ndim
        axes = tuple(int(i) for i in sorted(self.rng.permutation(n)[: self.rng.integers(n + 1)]))
        return self._call(self._pick(REDUCING), x, axes=axes, keepdims=bool(self.rng.random() < 0.5))

    def _product(self) -> bool:
        a = self._any()
        if self.specs[a].ndim < 2:
            return False
        if self.rng.random() < 0.7:
            order = (*range(self.specs[a].ndim - 2), self.specs[a].ndim - 1, self.specs[a].ndim - 2)
            if not self._call("permute_dims", a, axes=order):
                return False
            return self._call("matmul", a, self.count - 1) or self._call("matmul", self.count - 1, a)
        return self._call("matmul", a, self._any())

    def _choice(self) -> bool:
        conditions = [i for i, s in self.specs.items() if s.dtype == "bool"]
        return self._call("where", conditions[self.rng.integers(len(conditions))], self._any(), self._any())

    def _repetition(self) -> bool:
        """A call that was made before."""
        if not self.made.calls:
            return False
        name, operands, attrs = self.made.calls[self.rng.integers(len(self.made.calls))]
        return self._call(name, *operands, **attrs)

    def _bits(self) -> bool:
        states = [i for i, s in self.specs.items() if s.dtype == "int64" and s.shape == (2,)]
        if not states:
            states = [self._input(np.array([7, int(self.rng.integers(1000))]))]
        return self._call("random_bits", states[0], shape=self._factors(int(self.rng.integers(1, 40))))

    def _sample(self) -> bool:
        """A sample of a declaration: its inputs are inputs of the program, or values that fit."""
        case = CASES[self._pick([*CASES])]
        if case.name not in OPS or not case.samples or case.name == "to_device":  # a program has one device
            return False
        sample = case.samples[int(self.rng.integers(len(case.samples)))]
        if sample.size > LARGE or ("float32" not in case.dtypes and case.dtypes != ("int64",)):
            return False
        operands: list[int] = []
        for given, array in zip(sample.inputs, sample.draw(case.name), strict=True):
            fitting = [i for i, s in self.specs.items() if s.shape == array.shape and s.dtype == "float32"]
            if array.dtype.kind == "f" and not given.values and fitting and self.rng.random() < 0.5:
                operands.append(fitting[self.rng.integers(len(fitting))])
            else:
                operands.append(self._input(array))
        return self._call(case.name, *operands, **sample.arguments)
