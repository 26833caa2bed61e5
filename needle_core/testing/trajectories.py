"""What is declared of an optimizer so that it can be tested, and how its steps are compared with the formula.

    OptimizerCase(
        name="Signum",
        update=signum,                                # the formula in float64 NumPy: (p, g, s, t, lr, **hyper) -> (p, s)
        settings=[{}, {"momentum": 0.5}],
        refusals=[({"momentum": 1.0}, ArgumentError, "momentum must be a number in [0, 1)")],
    )

A parameter p may differ from it by e, a bound that is carried along with p and its state s, and grows at each step by what the
step's rounding can do:

    e_p := |dp'/dp| e_p + |dp'/ds| e_s + |dp'/dg| c u |g| + c u (|p'| + |p' - p|)
    e_s := |ds'/dp| e_p + |ds'/ds| e_s + |ds'/dg| c u |g| + c u |s'|

where u is the unit roundoff of the arithmetic and c the `rounds` of the declaration. After n steps that is about n c u times
the size of what was added up. The products |df/dx| e are differences of the formula itself, at x + e and x - e; so where it
jumps, as a sign does, the bound grows to the height of the jump at the elements that rounding may carry across, and only there.
The signs of e are random: an optimizer whose elements act on each other needs a larger c. The formula's own rounding must not
be greater: 1 - beta**t loses three digits for a beta of 0.999, -expm1(t * log(beta)) none.

float16 and bfloat16 are computed in float32 and rounded once a step: the formula goes on from the rounded parameter, and the
bound of each step is u |p'| of the narrow dtype above that of float32.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np

import needle_core as ndl
from needle_core import tree
from needle_core.errors import NeedleError
from needle_core.optim import Optimizer
from needle_core.spec import DTYPES
from needle_core.testing.bounds import LEAST, ROUNDOFF
from needle_core.testing.samples import Array, MismatchError, Shape

State: TypeAlias = dict[str, Array]
Setting: TypeAlias = Mapping[str, Any]
Row: TypeAlias = Sequence[Array | None]  # the gradients of one step, one for each parameter

SHAPES: Final[Sequence[Shape]] = ((3, 4), (5,), (), (2, 0), (2, 1, 3), (5,))
STEPS: Final = 20
COARSE: Final = 2.0**-36  # the least roundoff that differences in float64 can show; what they show is then scaled down


@dataclass(frozen=True)
class OptimizerCase:
    """All that is declared of an optimizer.

    `name` finds its class, as in `ndl.optim.Adam`. `update` is its formula for one parameter: from its value p, gradient g and
    state s, the number t of the step, from 1, and the learning rate lr to the next value and state, with the optimizer's own
    defaults for `hyper`.
    `init` gives the state before the first step; without it the formula begins with an empty one.
    `settings` are hyperparameters to test, other than `lr`; `refusals` are such that must raise, with which class and text.
    """

    name: str
    update: Callable[..., tuple[Array, State]]
    settings: Sequence[Setting] = ({},)
    refusals: Sequence[tuple[Setting, type[NeedleError], str]] = ()
    init: Callable[..., State] = lambda p, **hyper: {}
    lr: float = 0.03
    rounds: float = 8.0


# -- the formula, with its error --------------------------------------------------------------------------------------------


@dataclass
class Reference:
    """One parameter by the formula, in float64, with bounds of the error of a computation with unit roundoff `u`."""

    case: OptimizerCase
    setting: Setting
    p: Array
    u: float
    s: State = field(init=False)
    e: Array = field(init=False)
    errors: State = field(init=False)  # of s

    def __post_init__(self) -> None:
        self.s = self.case.init(self.p, **self.setting)
        self.e, self.errors = np.zeros_like(self.p), {name: np.zeros_like(v) for name, v in self.s.items()}

    def step(self, g: Array, t: int, lr: float) -> None:
        """Go on by step number `t`."""
        c_u = self.case.rounds * self.u
        given = {".p": self.p, ".g": g, **self.s}
        doubts = {".p": self.e, ".g": c_u * np.abs(g), **self.errors}
        p, s = self._update(given, t, lr)
        errors = {name: c_u * np.abs(v) for name, v in s.items()}
        e = c_u * (np.abs(p) + np.abs(p - self.p))
        rng = np.random.default_rng(t)
        for name, doubt in doubts.items():
            shift = doubt * rng.choice([-1.0, 1.0], doubt.shape)
            sides = [self._update({**given, name: given[name] + side}, t, lr) for side in (shift, -shift)]
            e = e + np.maximum(*(np.abs(moved - p) for moved, _ in sides))
            for kept in s:
                errors[kept] = errors[kept] + np.maximum(*(np.abs(moved[kept] - s[kept]) for _, moved in sides))
        self.p, self.s, self.e, self.errors = p, s, e, errors

    def _update(self, given: State, t: int, lr: float) -> tuple[Array, State]:
        s = {name: given[name] for name in given if name not in (".p", ".g")}
        with np.errstate(all="ignore"):
            p, s = self.case.update(given[".p"], given[".g"], s, t, lr, **self.setting)
        return np.asarray(p), {name: np.asarray(v) for name, v in s.items()}


# -- the optimizer ----------------------------------------------------------------------------------------------------------


class Training:
    """An optimizer on parameters of its own, which gets its gradients row by row."""

    def __init__(self, case: OptimizerCase, values: Sequence[Array], dtype: str = "float32", **hyper: Any) -> None:
        self.params = [ndl.Tensor(v, dtype=dtype, requires_grad=True) for v in values]
        self.optimizer = optimizer_of(case, self.params, **hyper)

    def step(self, row: Row) -> None:
        self.give(row)
        self.optimizer.step()

    def give(self, row: Row) -> None:
        self.optimizer.reset_grad()
        for p, g in zip(self.params, row, strict=True):
            p.grad = None if g is None else ndl.Tensor(g, dtype=p.dtype)

    def values(self) -> list[Array]:
        return [np.array(p.numpy()) for p in self.params]

    def pairs(self) -> list[tuple[ndl.Tensor, dict[str, ndl.Tensor]]]:
        """Each parameter with its state."""
        return [pair for group in self.optimizer.groups for pair in zip(group.params, group.states, strict=True)]

    def bits(self) -> list[Any]:
        """Everything that a step may change, to the bit."""
        leaves = tree.flatten([self.params, self.optimizer.state_dict()])[0]
        return [leaf.numpy().tobytes() if isinstance(leaf, ndl.Tensor) else leaf for leaf in leaves]


def optimizer_of(case: OptimizerCase, params: Any, **hyper: Any) -> Optimizer:
    optimizer: Optimizer = getattr(ndl.optim, case.name)(params, **{"lr": case.lr, **hyper})
    return optimizer


def drawn(case: OptimizerCase, setting: Setting, seed: int, dtype: str = "float32") -> tuple[list[Array], list[list[Array]]]:
    """First values and gradients, numbers of `dtype`; the gradients of many sizes, and at times 0, at one element always."""
    rng = np.random.default_rng([seed, zlib.crc32(f"{case.name}/{text(setting)}".encode())])
    values = [rng.standard_normal(shape) for shape in SHAPES]
    rows = [
        [rng.standard_normal(s) * 10.0 ** rng.uniform(-3, 3, s) * (rng.random(s) < 0.9) for s in SHAPES] for _ in range(STEPS)
    ]
    for row in rows:
        row[0][0, 0] = 0.0
    round_ = DTYPES[dtype].numpy
    return [np.asarray(v, round_) for v in values], [[np.asarray(g, round_) for g in row] for row in rows]


def text(setting: Setting) -> str:
    return " ".join(f"{name}={value!r}" for name, value in setting.items()) or "defaults"


def follow(
    place: str, case: OptimizerCase, setting: Setting, training: Training, rows: Sequence[Row], rates: Sequence[float]
) -> None:
    """Go through `rows`, and compare each parameter with the formula after each step."""
    dtype = training.params[0].dtype
    narrow = dtype.itemsize == 2
    u = ROUNDOFF["float32" if narrow else dtype.name]
    scale = u / max(u, COARSE)
    references = [Reference(case, setting, v.astype(np.float64), u / scale) for v in training.values()]
    for t, (row, rate) in enumerate(zip(rows, rates, strict=True), 1):
        before = training.values()
        training.step(row)
        for i, (p, old, g, reference) in enumerate(zip(training.params, before, row, references, strict=True)):
            where = f"{place}: parameter {i} after step {t}"
            value = p.numpy()
            if g is None:
                _same(where, value, old)
                continue
            if narrow:
                reference.p, reference.e = old.astype(np.float64), np.zeros(old.shape)
            reference.step(g.astype(np.float64), t, rate)
            bound = reference.e * scale + (ROUNDOFF[dtype.name] * np.abs(reference.p) if narrow else 0) + LEAST[dtype.name]
            _near(where, value, reference.p, bound)
            if p.dtype is not dtype:
                raise MismatchError(f"{where} is {p.dtype}, not {dtype}")


def _near(where: str, value: Array, expected: Array, bound: Array) -> None:
    wide = value.astype(np.float64)
    wrong = np.argwhere(~((np.abs(wide - expected) <= bound) | (wide == expected)))
    if len(wrong):
        i = tuple(wrong[0].tolist())
        error = abs(wide[i] - expected[i]) / bound[i]
        raise MismatchError(f"{where}: {value[i]!s} for {expected[i]!s} at {list(i)}, error / bound {error:.3g}")


def _same(where: str, value: Array, expected: Array) -> None:
    if value.tobytes() != expected.tobytes():
        raise MismatchError(f"{where} is not what it must be, bit for bit")
