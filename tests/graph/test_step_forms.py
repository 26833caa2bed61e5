"""Steps of all forms give the same bits compiled, eager and mixed: trees, Modules, methods, gradients of gradients."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

import needle_core as ndl
from needle_core import nn
from tests.graph.regimes import (
    Batch,
    Function,
    Wrap,
    adam,
    batch,
    bits,
    different,
    eager,
    network,
    outcome,
    require_same,
    width,
)

__all__ = ["width"]

NUMPY = ndl.default_device().backend.name == "numpy"
SUMS = pytest.mark.skipif(not NUMPY, reason="only NumPy promises that a sum in a fused node is added up in the same order")

# -- the form of steps ------------------------------------------------------------------------------------------------------


def test_trees_go_in_and_out() -> None:
    def program(wrap: Wrap) -> Any:
        @wrap
        def f(given: dict[str, Any], *more: Any, names: tuple[str, ...]) -> Any:
            x, (y, none) = given["x"], given["rest"]
            assert none is None
            return {"product": x * y, "list": [x, None, (y + more[0][0], names)], "shape": x.shape, "same": given}

        x, y, z = (ndl.Tensor([float(i), 2.0]) for i in range(3))
        return [f({"x": a, "rest": [b, None]}, (c,), names=("a", "b")) for a, b, c in itertools.permutations([x, y, z])]

    require_same(program)


def test_a_module_is_an_argument_and_its_gradients_are_one() -> None:
    def program(wrap: Wrap) -> Any:
        @wrap
        def step(model: nn.Module, x: ndl.Tensor, y: ndl.Tensor) -> Any:
            loss, gradients = ndl.value_and_grad(lambda m: nn.SoftmaxLoss()(m(x), y))(model)
            for p, g in zip(model.parameters(), gradients.parameters(), strict=True):
                p.data = p - 0.1 * g
            return loss

        models = [network(), network()]
        return models, [step(models[i % 2], *batch(i)) for i in range(10)]

    require_same(program)


def test_a_module_is_a_result() -> None:
    def program(wrap: Wrap) -> Any:
        model = network()
        gradients = wrap(lambda x, y: ndl.grad(lambda m: nn.SoftmaxLoss()(m(x), y))(model))
        return [gradients(*batch(i)) for i in range(4)]

    require_same(program)


class Classifier(nn.Module):
    """A network with its optimizer and its step."""

    def __init__(self) -> None:
        self.layers = network()
        self.opt = adam(self.layers.parameters())

    def forward(self, x: ndl.Tensor) -> ndl.Tensor:
        scores: ndl.Tensor = self.layers(x)
        return scores

    def step(self, x: ndl.Tensor, y: ndl.Tensor) -> Any:
        self.opt.reset_grad()
        loss = nn.SoftmaxLoss()(self(x), y)
        loss.backward()
        self.opt.step()
        return loss.detach()


class StepCompiled(Classifier):
    """Its step is compiled where it is defined."""

    step = ndl.compile(Classifier.step)


class AllCompiled(StepCompiled):
    """So is what the step calls."""

    forward = ndl.compile(Classifier.forward)


def test_a_bound_method() -> None:
    def program(wrap: Wrap) -> Any:
        models = [Classifier(), Classifier()]
        steps = [wrap(model.step) for model in models]
        return models, [step(*batch(i)) for i in range(10) for step in steps]

    require_same(program)


@pytest.mark.parametrize("compiled", [StepCompiled, AllCompiled])
def test_methods_of_a_class(compiled: type[Classifier]) -> None:
    def program(kind: type[Classifier]) -> Any:
        models = [kind(), kind()]
        losses = [model.step(*batch(i)) for i in range(10) for model in models]
        with ndl.no_grad():
            return [model.state_dict() for model in models], losses, [model.eval()(batch(100)[0]) for model in models]

    result, expected = outcome(lambda _: program(compiled), eager), outcome(lambda _: program(Classifier), eager)
    assert different(result, expected) == []


@SUMS
def test_gradients_of_gradients_in_a_loss() -> None:
    def program(wrap: Wrap) -> Any:
        model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))
        opt = adam(model.parameters())

        @wrap
        def step(x: ndl.Tensor) -> Any:
            opt.reset_grad()
            slope = ndl.grad(lambda x: model(x).sum())(x)
            loss = ((ndl.sqrt((slope**2).sum(axis=1)) - 1.0) ** 2).mean()
            loss.backward()
            opt.step()
            return loss.detach(), slope.detach()

        return model, opt, [step(batch(i)[0]) for i in range(10)]

    require_same(program)


def test_products_with_hessians_and_pullbacks() -> None:
    def program(wrap: Wrap) -> Any:
        def f(x: ndl.Tensor) -> ndl.Tensor:
            return (ndl.sin(x) * ndl.exp(x * 0.5)).sum()

        @wrap
        def second(x: ndl.Tensor, v: ndl.Tensor) -> Any:
            return ndl.grad(lambda x: (ndl.grad(f)(x) * v).sum())(x), ndl.grad(lambda x: ndl.grad(f)(x).sum())(x)

        @wrap
        def pulled(x: ndl.Tensor, v: ndl.Tensor) -> Any:
            y, pullback = ndl.vjp(lambda x: ndl.tanh(x) * v, x)
            return y, pullback(v)[0], pullback(v * 2.0)[0]

        pairs = [(batch(i)[0], batch(i + 1)[0]) for i in range(4)]
        return [(second(x, v), pulled(x, v)) for x, v in pairs]

    require_same(program)


def test_inference_without_gradients() -> None:
    def program(wrap: Wrap) -> Any:
        model = network()
        predict, found = wrap(lambda x: model(x)), []
        inside = wrap(ndl.no_grad()(lambda x: model(x).argmax(axis=1)))
        for i in range(4):
            x, _ = batch(i)
            with ndl.no_grad():
                found.append(predict(x))
            found += [predict(x), inside(x)]
        return model, found

    require_same(program)


def test_gradients_of_several_batches_add_up_in_a_step() -> None:
    def program(wrap: Wrap) -> Any:
        model = network()
        opt = adam(model.parameters())

        @wrap
        def step(batches: list[Batch]) -> Any:
            opt.reset_grad()
            losses = [nn.SoftmaxLoss()(model(x), y) / len(batches) for x, y in batches]
            for loss in losses:
                loss.backward()
            opt.step()
            return [loss.detach() for loss in losses]

        return model, opt, [step([batch(3 * i + j) for j in range(3)]) for i in range(6)]

    require_same(program)


@SUMS
@pytest.mark.parametrize("keep_grads", [False, True])
def test_two_networks_train_against_each_other(keep_grads: bool) -> None:
    def program(wrap: Wrap) -> Any:
        maker, judge = nn.Linear(2, 5), nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 1))
        making, judging, loss_of = adam(maker.parameters()), adam(judge.parameters()), nn.BCEWithLogitsLoss()

        @wrap
        def judged(x: ndl.Tensor) -> Any:
            judging.reset_grad()
            made = maker(nn.init.randn(len(x), 2)).detach()
            true, false = judge(x), judge(made)
            loss = loss_of(true, ndl.ones_like(true)) + loss_of(false, ndl.zeros_like(false))
            loss.backward()
            judging.step()
            return loss.detach()

        @wrap
        def made() -> Any:
            making.reset_grad()
            scores = judge(maker(nn.init.randn(6, 2)))
            loss = loss_of(scores, ndl.ones_like(scores))
            loss.backward()
            making.step()
            return loss.detach()

        losses = [(judged(batch(i)[0]), made()) for i in range(10)]
        return maker, judge, making, judging, losses, [p.grad for p in judge.parameters() if keep_grads]

    require_same(program, keep_grads=keep_grads)


def test_a_state_that_is_carried_and_an_average_of_weights() -> None:
    def program(wrap: Wrap) -> Any:
        cell, head = nn.LSTM(5, 4), nn.Linear(4, 3)
        params = [*cell.parameters(), *head.parameters()]
        opt, averages = adam(params), [p.detach() for p in params]

        @wrap
        def step(x: ndl.Tensor, y: ndl.Tensor, state: Any) -> Any:
            opt.reset_grad()
            h, state = cell(x.reshape((3, 2, 5)), state)
            loss = nn.SoftmaxLoss()(head(h.reshape((6, 4))), y)
            loss.backward()
            opt.step()
            for average, p in zip(averages, params, strict=True):
                average.data = 0.9 * average + 0.1 * p.detach()
            return loss.detach(), tuple(s.detach() for s in state)

        state, losses = None, []
        for i in range(10):
            loss, state = step(*batch(i), state)
            losses.append(loss)
        return cell, head, opt, averages, state, losses

    require_same(program)


# -- threads ----------------------------------------------------------------------------------------------------------------


def test_two_threads_call_one_step_on_data_of_their_own() -> None:
    model = network().eval()

    def gradients(x: ndl.Tensor, y: ndl.Tensor) -> Any:
        loss, (of_model, of_x) = ndl.value_and_grad(lambda m, x: nn.SoftmaxLoss()(m(x), y), argnums=(0, 1))(model, x)
        return loss, of_model.parameters(), of_x

    def work(step: Function, thread: int) -> list[Any]:  # two shapes each, one of them shared
        return [bits(step(*batch(i, n=4 + i % 2 * thread))) for i in range(100 * thread, 100 * thread + 40)]

    compiled = ndl.compile(gradients)
    with ThreadPoolExecutor(2) as pool:
        found = [*pool.map(partial(work, compiled), (1, 2))]
    assert found == [work(gradients, 1), work(gradients, 2)]
