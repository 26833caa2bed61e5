"""Eager calls as plans: the same numbers, and nothing that a body or an optimizer may do is lost."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core import launch, nn, tree
from needle_core.errors import BoundsError
from needle_core.graph import bodies
from needle_core.op import KERNELS, forget_all
from needle_core.optim import Hyper, Optimizer, State

RUNS = launch.PLANNED_FROM + 2


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The default device plans eager calls, the bodies of this module included."""
    monkeypatch.setattr(launch, "OURS", ("needle_core.", __name__))
    monkeypatch.setattr(type(ndl.default_device().backend), "plans_eagerly", True)
    _forget()
    yield
    _forget()


def _forget() -> None:
    forget_all()
    _distance.forget()


# -- bodies -----------------------------------------------------------------------------------------------------------------


@ndl.composite(lambda a, b: (a.like(shape=()), {}))
def _distance(a: ndl.Tensor, b: ndl.Tensor) -> ndl.Tensor:
    seen.append("body")
    return ndl.sqrt(((a - b) ** 2).sum())


_distance.vjp(lambda g, y, a, b: g * (a - b) / y, lambda g, y, a, b: g * (b - a) / y)
seen: list[str] = []


def _draw(*shape: int) -> ndl.Tensor:
    return ndl.Tensor(np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32), requires_grad=True)


def test_a_body_that_comes_again_is_one_program_with_the_same_numbers_and_gradients(plans: None) -> None:
    seen.clear()
    a, b = _draw(4, 5), _draw(5)
    found = []
    for _ in range(RUNS):
        y = _distance(a, b.broadcast_to(4, 5))
        a.grad = b.grad = None
        y.backward()
        found.append([y.numpy(), a.grad.numpy(), b.grad.numpy()])
    assert len(seen) == launch.PLANNED_FROM, "the last is the capture"
    for other in found[1:]:
        assert all(map(np.array_equal, found[0], other))


def test_the_body_of_an_op_of_somebody_else_is_called_every_time(plans: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "OURS", "needle_core.")
    _forget()
    seen.clear()
    for _ in range(RUNS):
        _distance(_draw(4), _draw(4))
    assert len(seen) == RUNS


def test_a_body_with_several_results_gives_them_in_order(plans: None) -> None:
    x = _draw(6, 3)
    first = [y.numpy() for y in ndl.batch_statistics(x)]
    for _ in range(RUNS):
        assert all(map(np.array_equal, first, (y.numpy() for y in ndl.batch_statistics(x))))


def test_a_body_without_a_rule_is_one_program_where_no_gradient_flows(plans: None) -> None:
    @ndl.composite(lambda a, b: (a, {}))
    def mixed(a: ndl.Tensor, b: ndl.Tensor) -> ndl.Tensor:
        seen.append("body")
        return ndl.exp(a) * b + a

    seen.clear()
    a, b = _draw(4), _draw(4).detach()
    with ndl.no_grad():
        found = [mixed(a, b).numpy() for _ in range(RUNS)]
    assert len(seen) == launch.PLANNED_FROM
    y = mixed(a, b)
    assert len(seen) == launch.PLANNED_FROM + 1
    assert all(np.array_equal(y.numpy(), other) for other in found)
    y.sum().backward()
    assert a.grad is not None
    np.testing.assert_allclose(a.grad.numpy(), np.exp(a.numpy()) * b.numpy() + 1, 1e-6)


@pytest.mark.skipif(not ndl.default_device().backend.host, reason="only the host shows that memory is shared")
def test_a_body_that_gives_a_view_gives_one_always(plans: None) -> None:
    @ndl.composite(lambda a: (a.like(shape=(a.shape[1], 1, a.shape[0])), {}))
    def turned(a: ndl.Tensor) -> ndl.Tensor:
        return a.T[:, None]

    x = _draw(4, 5).detach()
    for _ in range(RUNS):
        assert np.shares_memory(turned(x).numpy(), x.numpy())


def test_other_shapes_and_attributes_have_programs_of_their_own(plans: None) -> None:
    for shape in ((3, 4), (5, 4), (3, 4)):
        x = _draw(*shape)
        for approximate in ("none", "tanh", "none"):
            expected = ndl.gelu(x.detach().astype("float64"), approximate=approximate).numpy()
            for _ in range(RUNS):
                np.testing.assert_allclose(ndl.gelu(x, approximate=approximate).numpy(), expected, 1e-5, 1e-6)


def test_what_is_captured_is_not_planned_by_itself(plans: None) -> None:
    x = _draw(6, 3)

    @ndl.compile
    def step() -> ndl.Tensor:
        y = x.detach()
        for _ in range(RUNS):
            y = ndl.gelu(ndl.softplus(y))
        return y

    expected = x.detach()
    for _ in range(RUNS):
        expected = ndl.gelu(ndl.softplus(expected))
    assert np.array_equal(step().numpy(), expected.numpy())
    assert "gelu" not in str(step.graph) or ("gelu", x.device.backend.name) in KERNELS


def test_a_body_that_looks_at_numbers_goes_on_as_it_was(plans: None) -> None:
    @ndl.composite(lambda a: (a, {}))
    def clipped(a: ndl.Tensor) -> ndl.Tensor:
        return a * 0.5 if a.max().item() > 1 else a * 1.0

    clipped.vjp(lambda g, y, a: g)
    for value in (2.0, 2.0, 2.0, 0.5, 2.0, 0.5):
        assert clipped(ndl.Tensor([value])).numpy() == [value * 0.5 if value > 1 else value]


def test_a_body_that_reads_a_tensor_from_outside_reads_its_latest_value(plans: None) -> None:
    scale = ndl.Tensor([1.0])

    @ndl.composite(lambda a: (a, {}))
    def scaled(a: ndl.Tensor) -> ndl.Tensor:
        return a * scale

    scaled.vjp(lambda g, y, a: g)
    for i in range(RUNS):
        scale.data = ndl.Tensor([float(i)])
        assert scaled(ndl.Tensor([2.0])).numpy() == [2.0 * i]


def test_a_body_that_gives_back_its_operand(plans: None) -> None:
    @ndl.composite(lambda a: (a, {}))
    def same(a: ndl.Tensor) -> ndl.Tensor:
        return a

    same.vjp(lambda g, y, a: g)
    x = _draw(3)
    for _ in range(RUNS):
        y = same(x)
        assert y is not x
        assert np.array_equal(y.numpy(), x.numpy())


def test_errors_are_those_of_the_body(plans: None) -> None:
    x = _draw(3, 4)
    told = []
    for i in range(RUNS):
        ndl.cross_entropy(x, ndl.Tensor([0, 1, i % 3]))
        with pytest.raises(BoundsError) as caught:
            ndl.cross_entropy(x, ndl.Tensor([0, 1, 7]))
        told.append(caught.value.summary)
    assert len(set(told)) == 1


def test_a_body_that_needs_much_memory_is_no_program(plans: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "LARGEST", -1)
    seen.clear()
    for _ in range(RUNS):
        _distance(_draw(4), _draw(4))
    assert len(seen) == RUNS + 1, "once it was captured in vain"


# -- optimizers -------------------------------------------------------------------------------------------------------------


def _trained(make: Any, *, steps: int = 8, each: Any = lambda i, opt, params: None) -> list[np.ndarray[Any, Any]]:
    ndl.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    params = model.parameters()
    opt, x = make(params), _draw(8, 4).detach()
    for i in range(steps):
        opt.reset_grad()
        (model(x) ** 2).mean().backward()
        each(i, opt, params)
        opt.step()
    return [p.numpy() for p in params]


def _same(make: Any, plan: Any, **options: Any) -> None:
    """The same training as without plans."""
    planned = _trained(make, **options)
    plan.setattr(type(ndl.default_device().backend), "plans_eagerly", False)
    assert all(map(np.array_equal, planned, _trained(make, **options)))


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Lion"])
def test_steps_are_planned_with_the_same_numbers(name: str, plans: None, monkeypatch: pytest.MonkeyPatch) -> None:
    _same(lambda params: getattr(ndl.optim, name)(params, lr=0.05), monkeypatch)


def test_schedules_groups_and_new_learning_rates(plans: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(params: list[ndl.Tensor]) -> Optimizer:
        schedule = ndl.optim.Warmup(ndl.optim.CosineDecay(0.1, 20), 4)
        adam: Optimizer = ndl.optim.Adam([{"params": params[:2], "lr": schedule}, {"params": params[2:], "lr": 0.01}])
        return adam

    def each(i: int, opt: Optimizer, params: list[ndl.Tensor]) -> None:
        opt.groups[1].lr = 0.01 / (i + 1)

    _same(make, monkeypatch, each=each)


def test_missing_gradients_and_changing_hyperparameters(plans: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def each(i: int, opt: Optimizer, params: list[ndl.Tensor]) -> None:
        if i % 2:
            params[i % 4].grad = None
        opt.groups[0].hyper["momentum"] = i / 10

    _same(lambda params: ndl.optim.SGD(params, lr=0.05, momentum=0.5), monkeypatch, each=each, steps=16)


def test_what_changes_at_every_step_is_left_alone_in_the_end(plans: None) -> None:
    p = ndl.Tensor([1.0, 2.0], requires_grad=True)
    opt = ndl.optim.SGD([p], lr=0.1, momentum=0.5)
    for i in range(20):
        p.grad = ndl.ones(2)
        opt.groups[0].hyper["momentum"] = i / 40
        opt.step()
    assert opt._steps._compiled is None


class Careful(Optimizer):
    """Looks at its gradients, though it says that it does not."""

    is_pure = True

    def update(self, p: ndl.Tensor, g: ndl.Tensor, state: State, hyper: Hyper) -> tuple[ndl.Tensor, State]:
        return (p if abs(g).max().item() > 1 else p - hyper.lr * g), state


def test_an_optimizer_that_looks_at_numbers_goes_on_as_it_was(plans: None) -> None:
    p = ndl.Tensor([0.0], requires_grad=True)
    opt, expected = Careful([p], lr=1.0), 0.0
    for g in (0.5, 2.0, 0.25, 4.0, 0.125, 1.0, 3.0):
        p.grad = ndl.Tensor([g])
        opt.step()
        expected -= g if g <= 1 else 0
        assert p.numpy() == [expected]


class Counting(ndl.optim.SGD):  # type: ignore[misc]
    """Counts its steps in Python, which is its right: what it inherits from does not speak for it."""

    steps = 0

    def update(self, p: ndl.Tensor, g: ndl.Tensor, state: State, hyper: Hyper) -> tuple[ndl.Tensor, State]:
        self.steps += 1
        return p - g * self.steps, state


def test_an_optimizer_that_does_not_say_it_is_pure_is_called_at_every_step(plans: None) -> None:
    p = ndl.Tensor([0.0], requires_grad=True)
    opt = Counting([p], lr=1.0)
    assert not opt.is_pure
    for i in range(1, 9):
        p.grad = ndl.Tensor([1.0])
        opt.step()
        assert p.numpy() == [-i * (i + 1) / 2]


@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: ndl.optim.Warmup(f, 0)])
def test_a_schedule_that_is_any_function_is_called_at_every_step(wrap: Any, plans: None) -> None:
    rates = iter(range(1, 20))
    p = ndl.Tensor([0.0], requires_grad=True)
    opt, expected = ndl.optim.SGD([p], lr=wrap(lambda step: step * 0 + next(rates))), 0.0
    for i in range(1, 9):
        p.grad = ndl.Tensor([1.0])
        opt.step()
        expected -= i
        assert p.numpy() == [expected]


def test_old_values_that_somebody_holds_stay(plans: None) -> None:
    p = nn.Parameter(ndl.zeros((300, 300)))
    opt = ndl.optim.SGD([p], lr=1.0)
    kept = []
    for _ in range(RUNS + 3):
        kept.append((p.numpy(), p.detach()))
        p.grad = ndl.ones((300, 300))
        opt.step()
    for i, (array, tensor) in enumerate(kept):
        assert (array == -i).all()
        assert (tensor.numpy() == -i).all()


def test_planned_optimizers_are_copied_and_saved_as_others(plans: None) -> None:
    p = ndl.Tensor([1.0], requires_grad=True)
    opt = ndl.optim.Adam([p], lr=0.1)
    for _ in range(RUNS):
        p.grad = ndl.Tensor([1.0])
        opt.step()
    saved = opt.state_dict()
    for other in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        q = other.groups[0].params[0]
        q.grad = ndl.Tensor([1.0])
        other.step()
        assert q.numpy() != p.numpy()
    assert all(map(np.array_equal, _leaves(opt.state_dict()), _leaves(saved)))


def _leaves(state: Any) -> list[np.ndarray[Any, Any]]:
    return [leaf.numpy() for leaf in tree.flatten(state)[0] if isinstance(leaf, ndl.Tensor)]
