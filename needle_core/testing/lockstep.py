"""Two devices in lockstep: what a program computes on one, op by op, is computed on the other as well, and compared.

The first device runs the program. The second runs a shadow of it, each op on what its own earlier ops have given. An op is
judged by itself: for the operands that the shadow had, its result must be that of the op in float64 on the first device, within

    u (c |y| + t + 32 s) + gamma(k) s,    s^2 = mean of (f(x (1 + h e)) - f(x))^2 / h^2

where c and t are what is declared of the op (see bounds.py), and k is the number of operations for each element of the result.
s, from eight draws of normal numbers e, stands for the effect of roundings of the inputs. It takes the place of the sum over
the Jacobian, which is too large for the ops of a model, and is left out where the result is near enough without it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

import needle_core.op as engine
from needle_core.autograd import no_grad
from needle_core.errors import NeedleError
from needle_core.graph.capture import user_line
from needle_core.graph.costs import operations_of
from needle_core.launch import Run
from needle_core.op import KERNELS, Op, forget_all
from needle_core.optim import Optimizer
from needle_core.spec import DTYPES, Device, DType, Spec, dtype
from needle_core.tensor import Tensor, tensor_of
from needle_core.testing.bounds import LEAST, ROUNDOFF, error_ratio, gamma, roundoff
from needle_core.testing.samples import CASES, Array, Case
from needle_core.testing.suite import on

DRAWS: Final = 8
NUDGE: Final = 2.0**-24  # h: far above the rounding of float64
UNDECLARED: Final = (16.0, 8.0)  # c and t / max |y| of ops without a case
REPEATS: Final = 3  # the time of an op is the shortest of these
PAUSE: Final = 0.1  # seconds, in which the threads of a library go to sleep


@dataclass(frozen=True)
class Compared:
    """One call of an op on both devices.

    `local` is the error of the second device over its bound, for what its own earlier ops have given: above 1 it is out of
    bounds. `accumulated` is the greatest difference of the results over the greatest number in them. `seconds` are the times on
    both devices. `within` is the composite in whose body the op was looked at, because the whole of it was out of bounds.
    """

    number: int
    op: str
    operands: str
    result: str
    place: str
    local: float
    accumulated: float
    worst: str
    within: str = ""
    seconds: tuple[float, float] = (math.nan, math.nan)

    @property
    def is_out_of_bounds(self) -> bool:
        return not self.local <= 1


class Enough(BaseException):
    """Ends a program after the steps that were asked for; no `except Exception` of the program's stops it."""


@dataclass
class Lockstep:
    """What was compared of a program. A result that came to the host, as a loss or an accuracy, is the first device's."""

    first: Device
    second: Device
    report: Callable[[Compared], None]
    compared: list[Compared] = field(default_factory=list)
    steps: int = 0
    runs: list[tuple[Run, Run]] = field(default_factory=list)
    """What to call to run each op that was compared again, on the first device and on the second."""
    _within: str = ""
    _called: set[Op[..., Any]] = field(default_factory=set)
    _shadows: dict[int, tuple[Any, Any]] = field(default_factory=dict)  # by the identity of a buffer, which is kept
    _rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def watch(self, op: Op[..., Any], run: Callable[..., Any], attrs: Mapping[str, Any]) -> Callable[..., Any]:
        """Wrap what an op runs, as `needle_core.op.watcher`."""

        def seen(*args: Tensor) -> Any:
            self._called.add(op)
            if _inside.get() or any(a.device is not self.first for a in args):
                return run(*args)
            if not self._is_unit(op):
                return op.run_body(*args, **attrs) if self._within else run(*args)
            with self._unseen(inside=True):
                made = run(*args)
                results = made if isinstance(made, tuple) else (made,)
                if all(y.device is self.first for y in results):
                    self._compare(op, run, args, attrs, results)
                return made

        return seen

    @contextmanager
    def _unseen(self, *, inside: bool) -> Iterator[None]:
        """Within it, ops are left alone, or, if not `inside`, compared again."""
        self._forget()
        token = _inside.set(inside)
        try:
            yield
        finally:
            _inside.reset(token)
            self._forget()

    def _forget(self) -> None:
        """See to it that the next calls of all ops are seen."""
        for op in self._called:
            op.forget()
        self._called.clear()

    def _is_unit(self, op: Op[..., Any]) -> bool:
        """Whether to compare the op itself: a composite that no device has a kernel for is compared by the ops in its body.

        So is, within a composite that is out of bounds, one that the second device has no kernel for.
        """
        devices = (self.second,) if self._within else (self.first, self.second)
        return op.is_primitive or any((op.name, d.backend.name) in KERNELS for d in devices)

    def _compare(
        self, op: Op[..., Any], run: Run, args: tuple[Tensor, ...], attrs: Mapping[str, Any], results: tuple[Tensor, ...]
    ) -> None:
        shadows = [tensor_of(Spec.of(a.shape, a.dtype, self.second), self._shadow(a)) for a in args]
        there = {k: self.second if isinstance(v, Device) else v for k, v in attrs.items()}
        is_open = op.body is not None and (op.name, self.second.backend.name) not in KERNELS
        try:
            with no_grad(), on(self.second.name):
                made = op(*shadows, **there)
        except NeedleError:
            if is_open:
                self._look_into(op, args, attrs)
            raise
        theirs = made if isinstance(made, tuple) else (made,)
        for y, shadow in zip(results, theirs, strict=True):
            self._shadows[id(y.buffer)] = y.buffer, shadow.buffer
        local, worst = self._local(op, [s.numpy() for s in shadows], attrs, theirs)
        if local > 1 and is_open:
            self._look_into(op, args, attrs)
        drift = max((_drift(y.numpy(), z.numpy()) for y, z in zip(results, theirs, strict=True)), default=0.0)
        number, place = len(self.compared) + 1, user_line()
        given = ", ".join([_specs(args)] * bool(args) + [f"{k}={v!r}" for k, v in attrs.items()])
        told = Compared(number, op.name, given, _specs(results), place, local, drift, worst, self._within)
        self.runs.append((lambda: run(*args), lambda: op(*shadows, **there)))
        self.compared.append(told)
        self.report(told)

    def _look_into(self, op: Op[..., Any], args: tuple[Tensor, ...], attrs: Mapping[str, Any]) -> None:
        """Compare the ops in the body of a composite that the second device has no kernel for."""
        before, self._within = self._within, op.name
        try:
            with self._unseen(inside=False), no_grad():
                op.run_body(*args, **attrs)
        finally:
            self._within = before

    def _shadow(self, a: Tensor) -> Any:
        """The second device's buffer for one of the first's; a copy of it where no op has made it."""
        known = self._shadows.get(id(a.buffer))
        if known is None:
            known = a.buffer, self.second.backend.from_numpy(a.numpy(), self.second)
            self._shadows[id(a.buffer)] = known
        return known[1]

    def measure(self) -> None:
        """Time all ops on one device, then on the other, so that threads that one keeps awake do not slow the other down."""
        with no_grad():
            times = []
            for i, device in enumerate((self.first, self.second)):
                with on(device.name):
                    time.sleep(PAUSE)
                    times.append([_timed(runs[i], device) for runs in self.runs])
        self.compared = [replace(c, seconds=pair) for c, pair in zip(self.compared, zip(*times, strict=True), strict=True)]

    # -- the judgement of one op ----------------------------------------------------------------------------------------

    def _local(
        self, op: Op[..., Any], inputs: list[Array], attrs: Mapping[str, Any], results: tuple[Tensor, ...]
    ) -> tuple[float, str]:
        """The greatest error of a result over its bound, and where it is."""
        expected = self._refer(op, inputs, attrs)
        still = [np.zeros(y.shape) for y in expected]
        found = _worst(op, inputs, results, expected, still)
        if found[0] > 1 and any(_is_floating(x) for x in inputs) and any(y.dtype.is_floating for y in results):
            squares = still
            for _ in range(DRAWS):
                moved = self._refer(op, [self._nudged(x) for x in inputs], attrs)
                with np.errstate(all="ignore"):
                    slopes = [(z.astype(np.float64) - y) / NUDGE for y, z in zip(expected, moved, strict=True)]
                squares = [
                    q + np.nan_to_num(d, posinf=0.0, neginf=0.0) ** 2 / DRAWS for q, d in zip(squares, slopes, strict=True)
                ]
            found = _worst(op, inputs, results, expected, [np.sqrt(q) for q in squares])
        return found

    def _refer(self, op: Op[..., Any], inputs: list[Array], attrs: Mapping[str, Any]) -> list[Array]:
        """The results in float64 on the first device; of what is only made, as random numbers are, in their own dtype."""
        wide = dict(attrs)
        if "dtype" in attrs and dtype(attrs["dtype"]).is_floating and any(_is_floating(x) for x in inputs):
            wide["dtype"] = DTYPES["float64"]
        with no_grad(), on(self.first.name):
            made = op(*(Tensor(_widened(x), device=self.first) for x in inputs), **wide)
        return [y.numpy() for y in (made if isinstance(made, tuple) else (made,))]

    def _nudged(self, x: Array) -> Array:
        """Floating numbers with a relative change of a random sign each."""
        return _widened(x) * (1 + NUDGE * self._rng.normal(size=x.shape)) if _is_floating(x) else x


_inside: ContextVar[bool] = ContextVar("_inside", default=False)


@contextmanager
def lockstep(
    first: Device, second: Device, *, steps: int | None = None, watch: Callable[[Compared], None] | None = None
) -> Iterator[Lockstep]:
    """Within it, ops on `first`, which is the default device, are also run on `second`, and compared in what it gives.

    After `steps` steps of an optimizer the program inside is ended, if it is still running. All intermediate results of both
    devices are kept. Compiled functions run eagerly. `watch` is called with each comparison.
    """
    session = Lockstep(first, second, watch or (lambda compared: None))
    whole = Optimizer.step

    def counted(self: Optimizer) -> None:
        whole(self)
        session.steps += 1
        if session.steps == steps:
            raise Enough

    forget_all()
    engine.watcher, Optimizer.step = session.watch, counted  # type: ignore[method-assign]
    try:
        with on(first.name):
            yield session
    except Enough:
        pass
    finally:
        engine.watcher, Optimizer.step = None, whole  # type: ignore[method-assign]
        forget_all()


def _timed(run: Run, device: Device) -> float:
    """The shortest time of some runs, in seconds."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        device.backend.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times)


# -- the bound --------------------------------------------------------------------------------------------------------------


def _worst(
    op: Op[..., Any], inputs: list[Array], results: tuple[Tensor, ...], expected: list[Array], effects: list[Array]
) -> tuple[float, str]:
    """The greatest error of a result over its bound, and where it is; `effects` are those of roundings of the inputs."""
    terms = _terms(op, inputs, results)
    greatest, worst = 0.0, ""
    for i, (y, reference, effect) in enumerate(zip(results, expected, effects, strict=True)):
        bound = _bound(CASES.get(op.name), y.dtype, reference, effect, terms)
        values = y.numpy()
        ratios = error_ratio(values, reference, y.dtype, bound)
        if ratios.size and not ratios.max() <= greatest:
            at = np.unravel_index(int(ratios.argmax()), ratios.shape)
            greatest, where = float(ratios.max()), [int(j) for j in at]
            place = f"result {i} at {where}" if len(results) > 1 else f"at {where}"
            worst = f"{place}: {values[at]!s} on {y.device} for {reference[at]!s}, bound {bound[at]:.3g}"
    return greatest, worst


def _bound(case: Case | None, dtype: DType, reference: Array, effect: Array, terms: int) -> Array:
    """The error that is allowed, elementwise."""
    if not dtype.is_floating or (case is not None and case.exact):
        return np.zeros(reference.shape)
    u = roundoff(case, dtype) if case else ROUNDOFF[dtype.name]
    size = np.abs(np.nan_to_num(reference, posinf=0.0, neginf=0.0))
    rounds, few = (case.rounds, case.terms) if case else (UNDECLARED[0], UNDECLARED[1] * size.max(initial=0.0))
    summing = min(u, ROUNDOFF["float32"])
    total = u * (rounds * size + few + 32 * effect) + gamma(min(terms, 0.5 / summing), summing) * effect
    return np.asarray(total + 4 * LEAST[dtype.name])


def _terms(op: Op[..., Any], inputs: list[Array], results: tuple[Tensor, ...]) -> int:
    """About how many operations there are for each element of a result."""
    device = results[0].device
    given = [Spec.of(x.shape, DTYPES[x.dtype.name], device) for x in inputs]
    return operations_of(op.name, given, [y.spec for y in results]) // max(1, min(y.size for y in results))


def _widened(x: Array) -> Array:
    """Floating numbers in float64."""
    return x.astype(np.float64) if _is_floating(x) else x


def _is_floating(x: Array) -> bool:
    return DTYPES[x.dtype.name].is_floating


def _drift(y: Array, z: Array) -> float:
    """The greatest difference, over the greatest number."""
    if not y.size:
        return 0.0
    a, b = (x.astype(np.float64) for x in (y, z))
    with np.errstate(all="ignore"):
        far = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
        return float(far.max() / max(np.abs(np.nan_to_num(a)).max(), LEAST["float32"]))


def _specs(tensors: tuple[Tensor, ...]) -> str:
    return ", ".join(f"{t.dtype}{list(t.shape)}" for t in tensors)
