"""Training gives the same bits with compiled, eager and mixed steps: optimizers, schedules, dtypes, changes between calls."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core import nn, optim
from needle_core.plugins import registry
from needle_core.testing.optimizers import OptimizerCase
from needle_optimizers.conformance import CASES
from tests.devices import on_the_host
from tests.graph.regimes import (
    Wrap,
    adam,
    batch,
    bits,
    different,
    eager,
    mixed,
    network,
    outcome,
    require_same,
    trained,
    training,
    width,
)

__all__ = ["width"]

# -- optimizers, clipping, schedules ----------------------------------------------------------------------------------------

SETTINGS = [(case, setting) for case in CASES for setting in case.settings]


def test_every_installed_optimizer_is_here() -> None:
    assert sorted(case.name for case in CASES) == sorted(registry.names("optimizers"))


@pytest.mark.parametrize(("case", "setting"), SETTINGS, ids=[f"{case.name}-{setting}" for case, setting in SETTINGS])
def test_every_optimizer(case: OptimizerCase, setting: dict[str, Any]) -> None:
    require_same(lambda wrap: trained(wrap, lambda params: getattr(optim, case.name)(params, lr=0.01, **setting)))


@pytest.mark.parametrize("clip", [lambda p: optim.clip_grad_norm(p, 0.1), lambda p: optim.clip_grad_value(p, 0.01)])
def test_clipping(clip: Callable[[list[ndl.Tensor]], Any]) -> None:
    def program(wrap: Wrap) -> Any:
        model = network()
        opt = adam(model.parameters())
        step = wrap(training(model, opt, clip))
        return model, opt, [step(*batch(i)) for i in range(20)]

    require_same(program)


SCHEDULES: dict[str, optim.Schedule] = {
    "constant": optim.Constant(0.05),
    "step": optim.StepDecay(0.1, every=4, factor=0.5),
    "cosine": optim.CosineDecay(0.1, 15, end=0.01),
    "warmup": optim.Warmup(optim.CosineDecay(0.1, 10), 5),
    "own": lambda step: 0.1 / ndl.sqrt(step + 1.0),
}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_every_schedule(schedule: optim.Schedule) -> None:
    require_same(lambda wrap: trained(wrap, lambda params: ndl.optim.SGD(params, schedule, momentum=0.9)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("opt_of", [adam, lambda params: ndl.optim.SGD(params, 0.1, momentum=0.9)], ids=["adam", "momentum"])
def test_other_dtypes(opt_of: Callable[[list[ndl.Tensor]], optim.Optimizer], dtype: str) -> None:
    require_same(lambda wrap: trained(wrap, opt_of, dtype=dtype))


# -- what changes between calls ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("second", [eager, ndl.compile, mixed])
@pytest.mark.parametrize("first", [eager, ndl.compile, mixed])
def test_a_checkpoint_is_resumed_by_other_steps(first: Wrap, second: Wrap, tmp_path: Path) -> None:
    def interrupted(_: Wrap) -> Any:
        model, opt, losses = trained(first, adam, 10)
        kept = {"model": model.state_dict(), "opt": opt.state_dict(), "random": ndl.random.default_generator().state}
        ndl.checkpoint.save(tmp_path / "kept", kept)

        ndl.manual_seed(1)
        model = network()
        opt, state = adam(model.parameters()), ndl.checkpoint.load(tmp_path / "kept")
        model.load_state_dict(state["model"])
        opt.load_state_dict(state["opt"])
        ndl.random.default_generator().state.data = state["random"]
        step = second(training(model, opt))
        return model, opt, losses + [step(*batch(i)) for i in range(10, 20)]

    result, expected = outcome(interrupted, eager), outcome(lambda wrap: trained(wrap, adam), eager)
    assert different(result, expected) == []


def test_train_and_eval_in_turn() -> None:
    def program(wrap: Wrap) -> Any:
        model = network()
        opt = adam(model.parameters())
        step, predict, found = wrap(training(model, opt)), wrap(lambda x: ndl.softmax(model(x))), []
        for i in range(10):
            found.append(step(*batch(i)))
            with ndl.no_grad():
                found.append(predict(batch(100)[0]))
                model.eval()
                found.append(predict(batch(100)[0]))
            model.train()
        return model, opt, found

    require_same(program)


def between_calls(change: Callable[[int, nn.Sequential, optim.Optimizer], object]) -> Callable[[Wrap], Any]:
    """Training with something changed before each step."""

    def program(wrap: Wrap) -> Any:
        model = network()
        body, head = model[:2].parameters(), model[4].parameters()
        opt = ndl.optim.AdamW([{"params": body, "weight_decay": 0.1}, {"params": head, "lr": 0.02}], lr=0.01)
        step, losses = wrap(training(model, opt)), []
        for i in range(12):
            change(i, model, opt)
            losses.append(step(*batch(i)))
        return model, opt, losses

    return program


def load_the_first(kept: dict[str, Any]) -> Callable[[int, nn.Module, optim.Optimizer], None]:
    """Goes back to the first step at the sixth."""

    def change(i: int, model: nn.Module, opt: optim.Optimizer) -> None:
        if i == 0:
            kept.update(model=model.state_dict(), opt=opt.state_dict())
        elif i == 6:
            model.load_state_dict(kept["model"])
            opt.load_state_dict(kept["opt"])

    return change


def set_rate(i: int, model: nn.Module, opt: optim.Optimizer) -> None:
    if i % 3 == 0:
        opt.lr = 0.1 / (1 + i)


def set_rate_of_group(i: int, model: nn.Module, opt: optim.Optimizer) -> None:
    opt.groups[i % 2].lr = 0.01 * (1 + i)


def set_hyperparameter(i: int, model: nn.Module, opt: optim.Optimizer) -> None:
    opt.groups[1].hyper["weight_decay"] = 0.5 if i >= 6 else 0.0


def freeze(i: int, model: nn.Sequential, opt: optim.Optimizer) -> None:
    for p in model[0].parameters():
        p.requires_grad = not 4 <= i < 8


def replace_head(i: int, model: nn.Sequential, opt: optim.Optimizer) -> None:
    if i == 6:
        for p in model[4].parameters():
            p.data = ndl.zeros_like(p)


def seed(i: int, model: nn.Module, opt: optim.Optimizer) -> None:
    if i % 4 == 0:
        ndl.manual_seed(i)


@pytest.mark.parametrize(
    "change",
    [load_the_first({}), set_rate, set_rate_of_group, set_hyperparameter, freeze, replace_head, seed],
    ids=["load_state_dict", "lr", "lr of a group", "hyperparameter", "requires_grad", "data", "manual_seed"],
)
def test_changes_between_calls(change: Callable[[int, nn.Sequential, optim.Optimizer], object]) -> None:
    require_same(between_calls(change))


TAKEN: dict[str, Callable[[nn.Module, optim.Optimizer], Any]] = {
    "state_dict": lambda model, opt: (model.state_dict(), opt.state_dict()),
    "data": lambda model, opt: [t.data for t in (*model.parameters(), *opt.groups[0].states[0].values())],
    "detach": lambda model, opt: [t.detach() for t in (*model.parameters(), *model.buffers())],
    "numpy": lambda model, opt: [p.numpy() for p in model.parameters()],
    "dlpack": lambda model, opt: [np.from_dlpack(p) for p in model.parameters()],
}


@pytest.mark.parametrize("way", [pytest.param(way, marks=on_the_host) if way == "dlpack" else way for way in TAKEN])
def test_what_was_taken_before_a_step_stays_as_it_was(way: str) -> None:
    def program(wrap: Wrap) -> Any:
        model = network()
        opt = adam(model.parameters())
        step, kept = wrap(training(model, opt)), []
        for i in range(6):
            kept.append(TAKEN[way](model, opt))
            step(*batch(i))
        return model, opt, kept

    require_same(program)


def test_seeds_draw_again_what_they_drew() -> None:
    def program(wrap: Wrap) -> Any:
        draw, found = wrap(lambda: (nn.init.randn(3), nn.init.rand(2, low=-1.0))), []
        for s in (0, 1, 0):
            ndl.manual_seed(s)
            found += [draw(), draw()]
        assert bits(found[:2]) == bits(found[4:])
        return found

    require_same(program)


def test_batches_of_several_sizes_and_a_network_that_is_rebuilt() -> None:
    def program(wrap: Wrap) -> Any:
        model = network()
        opt = adam(model.parameters())
        step = wrap(training(model, opt))
        losses = [step(*batch(i, n=(6, 4)[i % 2])) for i in range(8)]
        model.layers = (*model.layers[:2], nn.GELU(), *model.layers[3:])
        return model, opt, losses, [step(*batch(i, n=(6, 4)[i % 2])) for i in range(8)]

    require_same(program)
