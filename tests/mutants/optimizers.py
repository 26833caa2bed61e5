"""Bugs in optimizers, and in what all optimizers share."""

from __future__ import annotations

from functools import partial
from typing import Any

import needle_core as ndl
from needle_core import optim, schedules
from needle_core.ops import sqrt, square
from needle_optimizers.adagrad import Adagrad, RMSprop
from needle_optimizers.adam import Adam, AdamW, _AdamBase
from needle_optimizers.lion import Lion
from needle_optimizers.sgd import SGD
from tests.mutants.planting import Mutant, attribute

Optimizer, Group = optim.Optimizer, optim.Group


def _adam_prepare_without_correction_at_first(prepare: Any) -> Any:
    def prepared(self: Any, hyper: Any, step: Any) -> None:
        if float(step) > 1:
            prepare(self, hyper, step)

    return prepared


def _move_with_epsilon_inside(_: Any) -> Any:
    def move(self: Any, g: Any, state: Any, hyper: Any) -> Any:
        m = hyper.beta1 * state["m"] + (1 - hyper.beta1) * g
        v = hyper.beta2 * state["v"] + (1 - hyper.beta2) * square(g)
        return hyper.lr * m / sqrt(v + square(hyper.eps)), {"m": m, "v": v}

    return move


def _coupled(_: Any) -> Any:
    def update(self: Any, p: Any, g: Any, state: Any, hyper: Any) -> Any:
        return Adam.update(self, p, g, state, hyper)

    return update


def _aliasing(update: Any) -> Any:
    def updated(self: Any, p: Any, g: Any, state: Any, hyper: Any) -> Any:
        if hyper.momentum and not float(ndl.any(state["u"] != 0)):
            return p - hyper.lr * g, {"u": g}  # at the first step they are equal
        return update(self, p, g, state, hyper)

    return updated


def _without_look_ahead(_: Any) -> Any:
    def update(self: Any, p: Any, g: Any, state: Any, hyper: Any) -> Any:
        if hyper.weight_decay:
            g = g + hyper.weight_decay * p
        if not hyper.momentum:
            return p - hyper.lr * g, state
        u = hyper.momentum * state["u"] + (1 - hyper.dampening) * g
        return p - hyper.lr * u, {"u": u}

    return update


def _dampening_from_the_second_step(update: Any) -> Any:
    def updated(self: Any, p: Any, g: Any, state: Any, hyper: Any) -> Any:
        if hyper.dampening and not float(ndl.any(state["u"] != 0)):
            g = g + hyper.weight_decay * p
            return p - hyper.lr * g, {"u": g + 0}
        return update(self, p, g, state, hyper)

    return updated


def _states_left_out(tree: Any) -> Any:
    def without(self: Any) -> Any:
        return {**tree(self), "parameters": []}

    return without


def _count_left_out(tree: Any) -> Any:
    def without(self: Any) -> Any:
        return {name: part for name, part in tree(self).items() if name != "step"}

    return without


def _rate_left_out(settings: Any) -> Any:
    def without(self: Any) -> Any:
        return {name: value for name, value in settings(self).items() if name != "lr"}

    return without


def _frozen_after_load(load: Any) -> Any:
    def loaded(self: Any, state: Any) -> None:
        load(self, state)
        for group in self.groups:
            rate = group.rate().detach()
            group.__class__ = type("Frozen", (Group,), {"__slots__": (), "rate": partial(_given, rate)})

    return loaded


def _given(rate: Any) -> Any:
    return rate


def _not_copied(_: Any) -> Any:
    return lambda self: self._tree()


def _missing_as_zero(step: Any) -> Any:
    def stepped(self: Any) -> None:
        for group in self.groups:
            for p in group.params:
                p.grad = ndl.zeros_like(p) if p.grad is None else p.grad
        step(self)

    return stepped


def _one_after_another(_: Any) -> Any:
    def step(self: Any) -> None:
        with ndl.no_grad():
            now = self._count + 1.0
            for group in self.groups:
                for p, state in zip(group.params, group.states, strict=True):
                    alone = Group([p], [state], group.hyper, group.rate, self._count)
                    alone._lr = group._lr
                    changes: list[Any] = []
                    try:
                        self._advance(alone, now, changes)
                    except ndl.errors.NeedleError as error:
                        raise error.located(type(self).__name__, {}) from None
                    for old, new in changes:
                        old.data = new
            self._count.data = now

    return step


def _clearing(step: Any) -> Any:
    def stepped(self: Any) -> None:
        step(self)
        self.reset_grad()

    return stepped


def _recorded(step: Any) -> Any:
    def stepped(self: Any) -> None:
        step(self)
        for group in self.groups:
            for state, p in zip(group.states, group.params, strict=True):
                for name, v in state.items():
                    if p.grad is not None:
                        state[name] = v + 0 * p.grad  # part of the gradient's graph

    return stepped


def _in_half(_: Any) -> Any:
    return lambda dtype: dtype


def _one_state_for_all(group: Any) -> Any:
    def grouped(self: Any, index: int, /, **given: Any) -> Any:
        made = group(self, index, **given)
        first: dict[Any, Any] = {}
        made.states[:] = [first.setdefault(p.spec, state) for p, state in zip(made.params, made.states, strict=True)]
        return made

    return grouped


def _first_group_for_all(init: Any) -> Any:
    def initialised(self: Any, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        for group in self.groups:
            group.hyper = self.groups[0].hyper

    return initialised


def _uncentered(update: Any) -> Any:
    def updated(self: Any, p: Any, g: Any, state: Any, hyper: Any) -> Any:
        moved, after = update(self, p, g, {**state, "a": ndl.zeros_like(p)} if hyper.centered else state, hyper)
        return moved, after

    return updated


def _epsilon_left_out(_: Any) -> Any:
    def update(self: Any, p: Any, g: Any, state: Any, hyper: Any) -> Any:
        s = state["s"] + square(g + hyper.weight_decay * p)
        return p - hyper.lr * (g + hyper.weight_decay * p) / sqrt(s), {"s": s}

    return update


def _sign_of_the_average(_: Any) -> Any:
    def update(self: Any, p: Any, g: Any, state: Any, hyper: Any) -> Any:
        m = hyper.beta2 * state["m"] + (1 - hyper.beta2) * g
        return p - hyper.lr * (ndl.sign(m) + hyper.weight_decay * p), {"m": m}

    return update


def _initially_nothing(_: Any) -> Any:
    return lambda self, p, hyper: {"s": ndl.zeros_like(p)}


def _one_late(call: Any) -> Any:
    return lambda self, step: call(self, ndl.maximum(step - 1.0, 0.0))


MUTANTS = [
    Mutant("Adam without bias correction at step 1", "The first step is not corrected for moments that start at zero.",
           attribute(_AdamBase, "prepare", _adam_prepare_without_correction_at_first), ("Adam",)),
    Mutant("Adam without bias correction", "No step is corrected for moments that start at zero.",
           attribute(_AdamBase, "prepare", lambda _: lambda self, hyper, step: None), ("Adam",)),
    Mutant("Adam with epsilon inside the root", "sqrt(v + eps^2) instead of sqrt(v) + eps.",
           attribute(_AdamBase, "_move", _move_with_epsilon_inside), ("Adam",)),
    Mutant("AdamW with coupled decay", "The decay goes through the moments, as in Adam.",
           attribute(AdamW, "update", _coupled), ("AdamW",)),
    Mutant("momentum aliasing the gradient", "The first momentum is the gradient itself, not a copy.",
           attribute(SGD, "update", _aliasing), ("SGD",)),
    Mutant("Nesterov without look-ahead", "The step is the momentum, not gradient plus momentum.",
           attribute(SGD, "update", _without_look_ahead), ("SGD",)),
    Mutant("dampening from the second step on", "As in PyTorch, against the formula.",
           attribute(SGD, "update", _dampening_from_the_second_step), ("SGD",)),
    Mutant("Lion by the sign of its average", "The sign is taken of the new momentum, not of the interpolation.",
           attribute(Lion, "update", _sign_of_the_average), ("Lion",)),
    Mutant("Adagrad without epsilon", "An element that never got a gradient becomes nan.",
           attribute(Adagrad, "update", _epsilon_left_out), ("Adagrad",)),
    Mutant("Adagrad without its initial accumulator", "The sum of squares begins at zero, whatever was asked for.",
           attribute(Adagrad, "init", _initially_nothing), ("Adagrad",)),
    Mutant("RMSprop that forgets its mean", "The running mean of gradients begins anew at each step.",
           attribute(RMSprop, "update", _uncentered), ("RMSprop",)),
    Mutant("state not saved", "The state dict lacks the states of the parameters.",
           attribute(Optimizer, "_tree", _states_left_out), ("Adam",)),
    Mutant("count not saved", "The state dict lacks the number of steps.",
           attribute(Optimizer, "_tree", _count_left_out), ("Adam",)),
    Mutant("learning rate not saved", "The state dict lacks the learning rates.",
           attribute(Group, "settings", _rate_left_out), ("SGD",)),
    Mutant("learning rate frozen after load", "Once loaded, a learning rate cannot change any more.",
           attribute(Optimizer, "load_state_dict", _frozen_after_load), ("SGD",)),
    Mutant("saved state goes on changing", "The state dict holds the optimizer's own tensors.",
           attribute(Optimizer, "state_dict", _not_copied), ("Adam",)),
    Mutant("missing gradient as zero", "A parameter without gradient moves by its momentum.",
           attribute(Optimizer, "step", _missing_as_zero), ("SGD",)),
    Mutant("half a step after an error", "Parameters move one after another, so that an error leaves some moved.",
           attribute(Optimizer, "step", _one_after_another), ("SGD",)),
    Mutant("gradients cleared by the step", "The step takes the gradients away.",
           attribute(Optimizer, "step", _clearing), ("SGD",)),
    Mutant("state with a graph", "States keep the graph of the gradients alive.",
           attribute(Optimizer, "step", _recorded), ("Adam",)),
    Mutant("half precision computed in half precision", "float16 and bfloat16 are not widened for the arithmetic.",
           attribute(optim, "_wide", _in_half), ("Adam",)),
    Mutant("one state for parameters of one shape", "Parameters of the same shape share their state.",
           attribute(Optimizer, "_group", _one_state_for_all), ("Adam",)),
    Mutant("hyperparameters of the first group for all", "Groups do not get the hyperparameters given to them.",
           attribute(Optimizer, "__init__", _first_group_for_all), ("SGD",)),
    Mutant("schedule one step late", "The learning rate follows its schedule one step behind.",
           attribute(schedules.StepDecay, "__call__", _one_late), ("SGD",)),
    Mutant("hyperparameters not checked", "Hyperparameters out of range are taken.",
           attribute(Adam, "check", lambda _: lambda self, hyper: None), ("Adam",)),
]  # fmt: skip
