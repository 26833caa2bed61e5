"""The checks of an optimizer against its declaration. Each raises a MismatchError, or returns.

Numbers are compared with the formula that is declared, in float64, with the bounds of trajectories.py; what must be the same is
compared bit for bit.
"""

from __future__ import annotations

import tempfile
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

import needle_core as ndl
from needle_core import checkpoint
from needle_core.errors import NeedleError, ShapeError, StateError
from needle_core.optim import StepDecay
from needle_core.testing.samples import FLOATING, Check, MismatchError
from needle_core.testing.trajectories import STEPS, OptimizerCase, Row, Setting, Training, drawn, follow, optimizer_of, text

__all__ = ["OptimizerCase", "checks_of_optimizer", "promised_by_optimizer"]

STOP: Final = 9  # where a run is interrupted


def checks_of_optimizer(case: OptimizerCase, seed: int = 0, *, quick: bool = False) -> Iterator[Check]:
    """All checks of an optimizer on the default device: (dtypes + 10) for each setting, and one for each refusal.

    The dtypes are all four floating ones, float64 and float16 if `quick`.
    """
    for setting in case.settings:
        for dtype in FLOATING[::2] if quick else FLOATING:
            place = f"{case.name}/trajectory/{text(setting)}/{dtype}"
            yield Check(place, partial(_check_trajectory, place, case, setting, seed, dtype))
        for name, body in CHECKS.items():
            place = f"{case.name}/{name}/{text(setting)}"
            yield Check(place, partial(body, place, case, setting, seed))
    for hyper, error, message in case.refusals:
        place = f"{case.name}/refusal/{text(hyper)}"
        yield Check(place, partial(_check_refusal, place, case, hyper, error, message))


def promised_by_optimizer(case: OptimizerCase, *, quick: bool = False) -> Counter[str]:
    """How many checks of each kind `checks_of_optimizer` gives."""
    n = len(case.settings)
    return Counter({"trajectory": n * (2 if quick else 4), **dict.fromkeys(CHECKS, n), "refusal": len(case.refusals)})


def _check_trajectory(place: str, case: OptimizerCase, setting: Setting, seed: int, dtype: str) -> None:
    """20 steps by the formula, on parameters of 0 to 3 axes, one of them empty."""
    values, rows = drawn(case, setting, seed, dtype)
    follow(place, case, setting, Training(case, values, dtype, **setting), rows, [case.lr] * STEPS)


def _check_missing(place: str, case: OptimizerCase, setting: Setting, seed: int) -> None:
    """Without a gradient, a parameter and its state stay as they are, while the count goes on for all."""
    values, drawn_rows = drawn(case, setting, seed, "float64")
    rows = [[g if (i + t) % 3 else None for i, g in enumerate(row)] for t, row in enumerate(drawn_rows)]
    follow(place, case, setting, Training(case, values, "float64", **setting), rows, [case.lr] * STEPS)
    training = Training(case, values, **setting)
    for row in rows[:4]:
        before = [(p.buffer, {name: v.buffer for name, v in state.items()}) for p, state in training.pairs()]
        training.step(row)
        for (p, state), (value, kept), g in zip(training.pairs(), before, row, strict=True):
            if g is None and (p.buffer is not value or any(state[name].buffer is not v for name, v in kept.items())):
                raise MismatchError(f"{place}: a parameter without gradient, or its state, was changed")


def _check_zero(place: str, case: OptimizerCase, setting: Setting, seed: int) -> None:
    """Gradients that are zero from the start move nothing but what the formula moves, and leave no nan for later ones."""
    values, rows = drawn(case, setting, seed)
    rows[:5] = [[np.zeros_like(g) for g in row] for row in rows[:5]]
    follow(place, case, setting, Training(case, values, **setting), rows, [case.lr] * STEPS)


def _check_lr(place: str, case: OptimizerCase, setting: Setting, seed: int) -> None:
    """A learning rate that is assigned between steps holds from the next one on, also after resuming."""
    values, rows = drawn(case, setting, seed, "float64")
    rates = [case.lr] * STOP + [case.lr / 4] * (STEPS - STOP)
    rest = iter(rates)

    class Assigning(Training):
        def step(self, row: Row) -> None:
            self.optimizer.lr = next(rest)
            super().step(row)

    follow(place, case, setting, Assigning(case, values, "float64", **setting), rows, rates)
    first = Training(case, values, **setting)
    first.optimizer.lr = case.lr / 4
    second = Training(case, values, **setting)
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    if second.optimizer.lr != case.lr / 4:
        raise MismatchError(f"{place}: after loading, the learning rate is {second.optimizer.lr}, not {case.lr / 4}")
    second.optimizer.lr = first.optimizer.lr = case.lr / 8
    for row in rows[:2]:
        first.step(row)
        second.step(row)
    _same_bits(place, first, second)


def _check_schedule(place: str, case: OptimizerCase, setting: Setting, seed: int) -> None:
    """The learning rate follows a schedule."""
    values, rows = drawn(case, setting, seed, "float64")
    training = Training(case, values, "float64", **{"lr": StepDecay(case.lr, every=7, factor=0.5), **setting})
    follow(place, case, setting, training, rows, [case.lr * 0.5 ** (t // 7) for t in range(STEPS)])


def _check_groups(place: str, case: OptimizerCase, setting: Setting, seed: int) -> None:
    """Groups with hyperparameters of their own move as under optimizers of their own, bit for bit."""
    values, rows = drawn(case, setting, seed)
    others = [case.settings[(case.settings.index(setting) + 1) % len(case.settings)], setting]
    whole, single = Training(case, values), Training(case, values)
    halves = [slice(2), slice(2, None)]
    hypers: list[dict[str, Any]] = [{"lr": case.lr, **others[0]}, {"lr": case.lr / 4, **others[1]}]
    whole.optimizer = optimizer_of(
        case, [{"params": whole.params[half], **hyper} for half, hyper in zip(halves, hypers, strict=True)]
    )
    apart = [optimizer_of(case, single.params[half], **hyper) for half, hyper in zip(halves, hypers, strict=True)]
    for row in rows:
        whole.step(row)
        single.give(row)
        for optimizer in apart:
            optimizer.step()
    for i, (a, b) in enumerate(zip(whole.values(), single.values(), strict=True)):
        if a.tobytes() != b.tobytes():
            raise MismatchError(f"{place}: parameter {i} does not move as under an optimizer of its own")


def _check_resume(place: str, case: OptimizerCase, setting: Setting, seed: int) -> None:
    """From a state, also one from a file, training goes on bit for bit, in a fresh optimizer and in the same."""
    values, rows = drawn(case, setting, seed)
    whole = Training(case, values, **setting)
    for row in rows[:STOP]:
        whole.step(row)
    middle, state = whole.values(), whole.optimizer.state_dict()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(Path(folder) / "state", state)
        read = checkpoint.load(Path(folder) / "state")
    for row in rows[STOP:]:
        whole.step(row)
    expected = whole.bits()
    again = Training(case, middle, **{"lr": 2 * case.lr, **setting})
    for training, saved in ((again, state), (again, read), (whole, state)):  # one fresh, two that went on already
        training.optimizer.load_state_dict(saved)
        for p, v in zip(training.params, middle, strict=True):
            p.data = v
        for row in rows[STOP:]:
            training.step(row)
        if training.bits() != expected:
            raise MismatchError(f"{place}: resumed training ends elsewhere")


def _check_determinism(place: str, case: OptimizerCase, setting: Setting, seed: int) -> None:
    """The same start and the same gradients give the same parameters and states, bit for bit."""
    values, rows = drawn(case, setting, seed)
    runs = [Training(case, values, **setting) for _ in range(2)]
    for training in runs:
        for row in rows:
            training.step(row)
    _same_bits(place, *runs)


def _check_gradients(place: str, case: OptimizerCase, setting: Setting, seed: int) -> None:
    """A step leaves the gradients as they are, and keeps nothing that lies in their memory or in another state's."""
    values, rows = drawn(case, setting, seed)
    training = Training(case, values, **setting)
    for row in rows[:2]:
        training.give(row)
        gradients = [p.grad for p in training.params]
        training.optimizer.step()
        for p, given, g in zip(training.params, gradients, row, strict=True):
            if given is None or p.grad is not given or given.numpy().tobytes() != np.asarray(g).tobytes():
                raise MismatchError(f"{place}: a step changed a gradient")
        states = [v for _, state in training.pairs() for v in state.values()]
        for i, v in enumerate(states):
            for other in (*states[:i], *(g for g in gradients if g is not None)):
                if v.size and (v.buffer is other.buffer or np.shares_memory(v.numpy(), other.numpy())):
                    raise MismatchError(f"{place}: a state shares memory with a gradient or another state")


def _check_memory(place: str, case: OptimizerCase, setting: Setting, seed: int) -> None:
    """From step to step no graph grows: gradients that are part of one are let go of, and parameters stay leaves."""
    values, rows = drawn(case, setting, seed)
    training = Training(case, values, **setting)
    past: list[weakref.ref[ndl.Tensor]] = []
    for row in rows[:4]:
        training.give(row)
        for p in training.params:
            assert p.grad is not None
            p.grad = p.grad + 0.0 * p  # as with gradients of gradients
            past.append(weakref.ref(p.grad))
        training.optimizer.step()
    training.optimizer.reset_grad()
    if any(g() is not None for g in past):
        raise MismatchError(f"{place}: a gradient outlives its step")
    if not all(p.is_leaf and p.requires_grad and p.grad is None for p in training.params):
        raise MismatchError(f"{place}: after a step, a parameter is no leaf that requires gradients")
    if any(v.requires_grad or not v.is_leaf for _, state in training.pairs() for v in state.values()):
        raise MismatchError(f"{place}: a state is part of a graph")
    for p in training.params:
        (p * p).sum().backward()
        if p.grad is None or p.grad.requires_grad:
            raise MismatchError(f"{place}: after a step, a parameter gets no gradient, or one that requires gradients")


def _check_failure(place: str, case: OptimizerCase, setting: Setting, seed: int) -> None:
    """An error in the middle of a step, or in a state, leaves parameters, states and count as they were."""
    values, rows = drawn(case, setting, seed)
    training, twin = Training(case, values, **setting), Training(case, values, **setting)
    for run in (training, twin):
        run.step(rows[0])
    training.give([*rows[1][:-1], np.zeros((1, 1, 1, 7))])
    _raises(place, ShapeError, f"{case.name}: ", training.optimizer.step)
    _same_bits(place, training, twin)
    broken = {**training.optimizer.state_dict(), "step": "first"}
    _raises(place, StateError, f"{case.name}: ", partial(training.optimizer.load_state_dict, broken))
    _same_bits(place, training, twin)
    for run in (training, twin):
        run.step(rows[1])
    _same_bits(place, training, twin)


def _check_refusal(place: str, case: OptimizerCase, hyper: Setting, error: type[NeedleError], message: str) -> None:
    """Hyperparameters that make no sense raise, in words that begin with the optimizer's name; the parameter stays as it is."""
    p = ndl.Tensor([1.0, -2.0], requires_grad=True)
    p.grad = g = ndl.Tensor([3.0, 4.0])
    _raises(place, error, f"{case.name}: ", partial(optimizer_of, case, [p], **hyper), message)
    if p.tolist() != [1.0, -2.0] or p.grad is not g or not p.requires_grad or not p.is_leaf:
        raise MismatchError(f"{place}: the refusal changed the parameter")


CHECKS: Final[Mapping[str, Callable[[str, OptimizerCase, Setting, int], None]]] = {
    "missing": _check_missing,
    "zero": _check_zero,
    "lr": _check_lr,
    "schedule": _check_schedule,
    "groups": _check_groups,
    "resume": _check_resume,
    "determinism": _check_determinism,
    "gradients": _check_gradients,
    "memory": _check_memory,
    "failure": _check_failure,
}
"""What is checked of each setting besides its trajectories."""


def _raises(place: str, error: type[NeedleError], beginning: str, call: Callable[[], object], message: str = "") -> None:
    try:
        call()
    except NeedleError as raised:
        said = str(raised)
        if type(raised) is not error or not said.startswith(beginning) or message not in said:
            raise MismatchError(
                f"{place}: expected {error.__name__} {message!r}, got {type(raised).__name__} {said}"
            ) from raised
    else:
        raise MismatchError(f"{place}: nothing was raised")


def _same_bits(place: str, one: Training, other: Training) -> None:
    if one.bits() != other.bits():
        raise MismatchError(f"{place}: parameters or states differ, which must be the same bit for bit")
