"""Trajectories of every optimizer against its formula in float64 NumPy, written out here once more."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import needle_core as ndl
from needle_core import optim
from needle_core.errors import ArgumentError

Array = npt.NDArray[Any]
Kept = dict[str, Array]
Gradients = Sequence[Sequence[Array | None]]  # for each step, one for each parameter

STEPS = 20
SHAPES = [(3, 4), (5,), (), (2, 0)]


# -- the formulas: the next value of a parameter; `s` keeps its state, 0 at first ---------------------------------------------


def sgd(
    p: Array,
    g: Array,
    s: Kept,
    t: int,
    lr: float,
    momentum: float = 0,
    dampening: float = 0,
    nesterov: bool = False,
    weight_decay: float = 0,
) -> Array:
    g = g + weight_decay * p
    if momentum == 0:
        return p - lr * g
    s["u"] = momentum * s.get("u", 0) + (1 - dampening) * g
    return p - lr * (g + momentum * s["u"]) if nesterov else p - lr * s["u"]


def moments(g: Array, s: Kept, t: int, beta1: float, beta2: float, eps: float) -> Array:
    s["m"] = beta1 * s.get("m", 0) + (1 - beta1) * g
    s["v"] = beta2 * s.get("v", 0) + (1 - beta2) * g**2
    return s["m"] / (1 - beta1**t) / (np.sqrt(s["v"] / (1 - beta2**t)) + eps)


def adam(
    p: Array,
    g: Array,
    s: Kept,
    t: int,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0,
) -> Array:
    return p - lr * moments(g + weight_decay * p, s, t, beta1, beta2, eps)


def adamw(
    p: Array,
    g: Array,
    s: Kept,
    t: int,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.01,
) -> Array:
    return p * (1 - lr * weight_decay) - lr * moments(g, s, t, beta1, beta2, eps)


def rmsprop(
    p: Array,
    g: Array,
    s: Kept,
    t: int,
    lr: float,
    alpha: float = 0.99,
    eps: float = 1e-8,
    momentum: float = 0,
    centered: bool = False,
    weight_decay: float = 0,
) -> Array:
    g = g + weight_decay * p
    s["v"] = alpha * s.get("v", 0) + (1 - alpha) * g**2
    s["a"] = alpha * s.get("a", 0) + (1 - alpha) * g
    variance = np.maximum(s["v"] - s["a"] ** 2, 0) if centered else s["v"]
    s["u"] = momentum * s.get("u", 0) + g / (np.sqrt(variance) + eps)
    return p - lr * s["u"]


def adagrad(
    p: Array, g: Array, s: Kept, t: int, lr: float, eps: float = 1e-10, weight_decay: float = 0, initial_accumulator: float = 0
) -> Array:
    g = g + weight_decay * p
    s["s"] = s.get("s", initial_accumulator) + g**2
    return p - lr * g / (np.sqrt(s["s"]) + eps)


def lion(
    p: Array, g: Array, s: Kept, t: int, lr: float, beta1: float = 0.9, beta2: float = 0.99, weight_decay: float = 0
) -> Array:
    m = s.get("m", np.zeros_like(g))
    s["m"] = beta2 * m + (1 - beta2) * g
    return p - lr * (np.sign(beta1 * m + (1 - beta1) * g) + weight_decay * p)


Formula = Callable[..., Array]
FORMULAS: dict[str, Formula] = {
    "SGD": sgd,
    "Adam": adam,
    "AdamW": adamw,
    "RMSprop": rmsprop,
    "Adagrad": adagrad,
    "Lion": lion,
}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {}),
    ("SGD", {"weight_decay": 0.1}),
    ("SGD", {"momentum": 0.9}),
    ("SGD", {"momentum": 0.9, "dampening": 0.9, "weight_decay": 0.01}),
    ("SGD", {"momentum": 0.5, "nesterov": True, "weight_decay": 0.1}),
    ("Adam", {}),
    ("Adam", {"beta1": 0.5, "beta2": 0.9, "eps": 1e-3, "weight_decay": 0.1}),
    ("Adam", {"beta1": 0.0, "beta2": 0.0}),
    ("AdamW", {}),
    ("AdamW", {"beta1": 0.8, "beta2": 0.95, "eps": 1e-6, "weight_decay": 0.5}),
    ("RMSprop", {}),
    ("RMSprop", {"alpha": 0.9, "momentum": 0.9, "weight_decay": 0.1}),
    ("RMSprop", {"centered": True, "eps": 1e-2}),
    ("RMSprop", {"centered": True, "eps": 1e-2, "momentum": 0.5}),
    ("Adagrad", {}),
    ("Adagrad", {"initial_accumulator": 0.1, "weight_decay": 0.1, "eps": 1e-4}),
    ("Lion", {}),
    ("Lion", {"beta1": 0.95, "beta2": 0.98, "weight_decay": 0.1}),
]
EVERY = pytest.mark.parametrize("name", FORMULAS)
EVERY_CASE = pytest.mark.parametrize(("name", "hyper"), CASES)


# -- the two ways through a training --------------------------------------------------------------------------------------


def start(seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) for shape in SHAPES]


def gradients(seed: int = 1) -> list[list[Array]]:
    """For each step, a gradient for each parameter, over several orders of magnitude."""
    rng = np.random.default_rng(seed)
    return [[rng.standard_normal(shape) * 10.0 ** rng.uniform(-3, 3, shape) for shape in SHAPES] for _ in range(STEPS)]


def parameters(values: list[Array], dtype: str = "float64") -> list[ndl.Tensor]:
    return [ndl.Tensor(v, dtype=dtype, requires_grad=True) for v in values]


def train(optimizer: optim.Optimizer, params: list[ndl.Tensor], grads: Gradients) -> None:
    for row in grads:
        optimizer.reset_grad()
        for p, g in zip(params, row, strict=True):
            if g is not None:
                p.grad = ndl.Tensor(g, dtype=p.dtype)
        optimizer.step()


def trained(formula: Formula, p: Array, grads: Sequence[Array | None], lr: float, **hyper: Any) -> Array:
    kept: Kept = {}
    for t, g in enumerate(grads, 1):
        if g is not None:
            p = formula(p, g, kept, t, lr, **hyper)
    return p


def column(grads: Gradients, i: int) -> Sequence[Array | None]:
    return [row[i] for row in grads]


def check(params: list[ndl.Tensor], grads: Any, name: str, lr: float, rtol: float = 1e-11, **hyper: Any) -> None:
    for i, p in enumerate(params):
        expected = trained(FORMULAS[name], start()[i], column(grads, i), lr, **hyper)
        np.testing.assert_allclose(p.numpy(), expected, rtol=rtol, atol=rtol)


# -- trajectories ---------------------------------------------------------------------------------------------------------


@EVERY_CASE
def test_trajectory_follows_the_formula(name: str, hyper: dict[str, Any]) -> None:
    params = parameters(start())
    train(getattr(optim, name)(params, lr=0.03, **hyper), params, gradients())
    check(params, gradients(), name, 0.03, **hyper)


@EVERY_CASE
def test_trajectory_in_float32_follows_the_formula(name: str, hyper: dict[str, Any]) -> None:
    params = parameters(start(), "float32")
    train(getattr(optim, name)(params, lr=0.03, **hyper), params, gradients())
    assert {p.dtype for p in params} == {ndl.float32}
    check(params, gradients(), name, 0.03, rtol=2e-4, **hyper)


@EVERY
def test_default_hyperparameters_are_those_of_the_formula(name: str) -> None:
    params = parameters(start())
    optimizer = getattr(optim, name)(params)
    train(optimizer, params, gradients())
    assert optimizer.lr == {"SGD": 0.01, "Adam": 1e-3, "AdamW": 1e-3, "RMSprop": 0.01, "Adagrad": 0.01, "Lion": 1e-4}[name]
    check(params, gradients(), name, optimizer.lr)


@EVERY
def test_missing_gradients_leave_parameter_and_state(name: str) -> None:
    grads: Gradients = [[g if (i + t) % 3 else None for i, g in enumerate(row)] for t, row in enumerate(gradients())]
    params = parameters(start())
    train(getattr(optim, name)(params, lr=0.03), params, grads)
    check(params, grads, name, 0.03)


@EVERY
def test_zero_gradients_do_not_move(name: str) -> None:
    params = parameters(start())
    hyper = {"weight_decay": 0.0} if name == "AdamW" else {}
    train(getattr(optim, name)(params, lr=0.03, **hyper), params, [[np.zeros(s) for s in SHAPES]] * 3)
    for p, before in zip(params, start(), strict=True):
        assert np.array_equal(p.numpy(), before)


@EVERY
def test_groups_have_hyperparameters_of_their_own(name: str) -> None:
    params = parameters(start())
    groups = [{"params": params[:1], "lr": 0.1, "weight_decay": 0.2}, {"params": params[1:]}]
    train(getattr(optim, name)(groups, lr=0.01, weight_decay=0.0), params, gradients())
    for i, p in enumerate(params):
        lr, decay = (0.1, 0.2) if i == 0 else (0.01, 0.0)
        expected = trained(FORMULAS[name], start()[i], column(gradients(), i), lr, weight_decay=decay)
        np.testing.assert_allclose(p.numpy(), expected, rtol=1e-11)


@EVERY
def test_learning_rate_follows_a_schedule(name: str) -> None:
    params = parameters(start())
    train(getattr(optim, name)(params, lr=optim.StepDecay(0.1, every=7, factor=0.5)), params, gradients())
    for i, p in enumerate(params):
        value, kept = start()[i], Kept()
        for t, row in enumerate(gradients()):
            value = FORMULAS[name](value, row[i], kept, t + 1, [0.1, 0.05, 0.025][t // 7])
        np.testing.assert_allclose(p.numpy(), value, rtol=1e-11)


@pytest.mark.parametrize(("dtype", "unit"), [("float16", 2.0**-10), ("bfloat16", 2.0**-7)])
@EVERY
def test_half_precision_rounds_once_a_step(name: str, dtype: str, unit: float) -> None:
    half = getattr(ndl, dtype)
    first, grads = start()[0].astype(half.numpy), [row[0].astype(half.numpy) for row in gradients()]
    (p,) = parameters([first], dtype)
    train(getattr(optim, name)([p], lr=0.03), [p], [[g] for g in grads])
    value, kept = first.astype(np.float64), Kept()
    for t, g in enumerate(grads, 1):
        value = FORMULAS[name](value, g.astype(np.float64), kept, t, 0.03).astype(half.numpy).astype(np.float64)
    assert p.dtype is half
    np.testing.assert_allclose(p.numpy().astype(np.float64), value, rtol=2 * unit)


def test_adam_in_half_precision_survives_tiny_gradients() -> None:
    p = ndl.Tensor([1.0, 1.0], dtype="float16", requires_grad=True)
    p.grad = ndl.Tensor([1e-5, 0.0], dtype="float16")  # its square is 0 in float16, and so is eps
    optim.Adam([p], lr=0.125).step()
    assert p.tolist() == [0.875, 1.0]


# -- properties that the papers name --------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.9, 0.999, 1 - 1e-12])
def test_adam_first_step_is_lr_times_sign(beta: float) -> None:
    g = np.array([1e-4, -1.0, 3e4])
    p = ndl.Tensor(np.zeros(3), requires_grad=True)
    p.grad = ndl.Tensor(g)
    optim.Adam([p], lr=0.1, beta1=beta, beta2=beta, eps=0.0).step()
    np.testing.assert_allclose(p.numpy(), -0.1 * np.sign(g), rtol=1e-14 if beta < 0.9999 else 1e-9)


def test_sgd_with_dampening_equal_to_momentum_averages_gradients() -> None:
    p = ndl.Tensor([0.0], dtype="float64", requires_grad=True)
    optimizer = optim.SGD([p], lr=1.0, momentum=0.75, dampening=0.75)
    moves = []
    for g in (4.0, 8.0):
        before = p.item()
        p.grad = ndl.Tensor([g], dtype="float64")
        optimizer.step()
        moves.append(before - p.item())
    assert moves == [1.0, 0.75 * 1.0 + 0.25 * 8.0]


def test_adamw_decay_is_not_scaled_by_the_moments() -> None:
    p = ndl.Tensor([2.0], dtype="float64", requires_grad=True)
    p.grad = ndl.Tensor([0.0], dtype="float64")
    optim.AdamW([p], lr=0.1, weight_decay=0.5).step()
    assert p.item() == pytest.approx(2.0 - 0.1 * 0.5 * 2.0)


def test_lion_moves_every_element_by_lr() -> None:
    p = ndl.Tensor([0.0, 0.0, 0.0], requires_grad=True)
    p.grad = ndl.Tensor([1e-6, -1e6, 0.0])
    optim.Lion([p], lr=0.5).step()
    assert p.tolist() == [-0.5, 0.5, 0.0]


def test_rmsprop_centered_survives_a_constant_gradient() -> None:
    p = ndl.Tensor([0.0], requires_grad=True)
    optimizer = optim.RMSprop([p], lr=0.01, centered=True, alpha=0.5)
    train(optimizer, [p], [[np.array([0.1])]] * 200)
    assert math.isfinite(p.item())


@EVERY
def test_descends_a_quadratic(name: str) -> None:
    target = ndl.Tensor([1.0, -2.0, 3.0])
    w = ndl.Tensor([0.0, 0.0, 0.0], requires_grad=True)
    optimizer = getattr(optim, name)([w], lr=optim.CosineDecay(0.3, steps=300))
    for _ in range(300):
        optimizer.reset_grad()
        ((w - target) ** 2).sum().backward()
        optimizer.step()
    np.testing.assert_allclose(w.numpy(), target.numpy(), atol=0.05)


# -- resuming -------------------------------------------------------------------------------------------------------------


@EVERY_CASE
def test_resumed_training_is_bitwise_the_same(name: str, hyper: dict[str, Any]) -> None:
    whole = parameters(start(), "float32")
    train(getattr(optim, name)(whole, lr=0.03, **hyper), whole, gradients())

    first = parameters(start(), "float32")
    stopped = getattr(optim, name)(first, lr=0.03, **hyper)
    train(stopped, first, gradients()[:9])
    saved = stopped.state_dict()
    second = parameters([p.numpy() for p in first], "float32")
    train(stopped, first, gradients()[9:12])  # what happens afterwards does not reach the saved state
    resumed = getattr(optim, name)(second, lr=123.0, **hyper)
    resumed.load_state_dict(saved)
    train(resumed, second, gradients()[9:])

    for a, b in zip(whole, second, strict=True):
        assert a.numpy().tobytes() == b.numpy().tobytes()


# -- errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "hyper", "message"),
    [
        ("SGD", {"momentum": 1.0}, "SGD: momentum must be a number in [0, 1), not 1.0"),
        ("SGD", {"dampening": -0.5}, "SGD: dampening must be a number in [0, 1), not -0.5"),
        ("SGD", {"weight_decay": math.nan}, "SGD: weight_decay must be a number in [0, inf), not nan"),
        ("SGD", {"nesterov": True}, "SGD: nesterov needs momentum, and no dampening"),
        ("SGD", {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "SGD: nesterov needs momentum, and no dampening"),
        ("Adam", {"beta1": 1}, "Adam: beta1 must be a number in [0, 1), not 1"),
        ("AdamW", {"beta2": "0.9"}, "AdamW: beta2 must be a number in [0, 1), not '0.9'"),
        ("Adam", {"eps": -1e-8}, "Adam: eps must be a number in [0, inf), not -1e-08"),
        ("RMSprop", {"alpha": 2.0}, "RMSprop: alpha must be a number in [0, 1), not 2.0"),
        ("Adagrad", {"initial_accumulator": math.inf}, "Adagrad: initial_accumulator must be a number in [0, inf), not inf"),
        ("Lion", {"beta2": None}, "Lion: beta2 must be a number in [0, 1), not None"),
    ],
)
def test_hyperparameter_out_of_range_is_refused(name: str, hyper: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        getattr(optim, name)([ndl.Tensor([1.0], requires_grad=True)], **hyper)
    assert str(caught.value).splitlines()[0] == message
