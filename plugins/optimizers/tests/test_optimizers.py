"""What the papers say of the optimizers, and their defaults; the conformance kit checks the rest."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest

import needle_core as ndl
from needle_core import optim

NAMES = ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Lion")


@pytest.mark.parametrize(
    ("name", "rate"), [("SGD", 0.01), ("Adam", 1e-3), ("AdamW", 1e-3), ("RMSprop", 0.01), ("Adagrad", 0.01), ("Lion", 1e-4)]
)
def test_default_learning_rate(name: str, rate: float) -> None:
    assert inspect.signature(getattr(optim, name)).parameters["lr"].default == rate


def test_adam_in_half_precision_survives_tiny_gradients() -> None:
    p = ndl.Tensor([1.0, 1.0], dtype="float16", requires_grad=True)
    p.grad = ndl.Tensor([1e-5, 0.0], dtype="float16")  # its square is 0 in float16, and so is eps
    optim.Adam([p], lr=0.125).step()
    assert p.tolist() == [0.875, 1.0]


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
    p.grad = ndl.Tensor([0.1])
    optimizer = optim.RMSprop([p], lr=0.01, centered=True, alpha=0.5)
    for _ in range(200):
        optimizer.step()
    assert math.isfinite(p.item())


@pytest.mark.parametrize("name", NAMES)
def test_descends_a_quadratic(name: str) -> None:
    target = ndl.Tensor([1.0, -2.0, 3.0])
    w = ndl.Tensor([0.0, 0.0, 0.0], requires_grad=True)
    optimizer = getattr(optim, name)([w], lr=optim.CosineDecay(0.3, steps=300))
    for _ in range(300):
        optimizer.reset_grad()
        ((w - target) ** 2).sum().backward()
        optimizer.step()
    np.testing.assert_allclose(w.numpy(), target.numpy(), atol=0.05)
