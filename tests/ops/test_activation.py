"""Activations where the declarations do not reach: extreme inputs, gradients there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core.testing import CASES

ALL = [getattr(ndl, name) for name in ndl.ops.activation.__all__ if not name.endswith("_grad")]
EXTREME = np.array([-1e4, -500.0, -40.0, 0.0, 40.0, 500.0, 1e4])


@pytest.mark.parametrize("f", ALL, ids=lambda f: f.name)
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_gradients_of_extreme_inputs_are_finite(f: Callable[..., Any], dtype: str) -> None:
    x = ndl.Tensor(EXTREME, dtype=dtype)
    first = ndl.grad(lambda t: f(t).sum())
    second = ndl.grad(lambda t: first(t).sum())
    assert np.isfinite(first(x).numpy()).all()
    assert np.isfinite(second(x).numpy()).all()


@pytest.mark.parametrize("f", ALL, ids=lambda f: f.name)
def test_integers_become_float32(f: Callable[..., Any]) -> None:
    y = f(ndl.Tensor([-1, 0, 2]))
    assert y.dtype is ndl.float32
    np.testing.assert_allclose(y.numpy(), CASES[f.name].reference(np.array([-1.0, 0.0, 2.0])), rtol=1e-6, atol=1e-7)  # type: ignore[attr-defined]


def test_attributes_are_read() -> None:
    x = ndl.Tensor([-2.0])
    assert ndl.leaky_relu(x, slope=0.5).item() == -1
    assert ndl.elu(x, alpha=2.0).item() == pytest.approx(2 * np.expm1(-2))
    assert ndl.gelu(x, approximate="tanh").item() != ndl.gelu(x).item()


# PyTorch 2.13, float64: the derivatives of F.gelu, F.gelu(approximate="tanh") and F.silu.
PLACES = [-3.0, -1.0, -0.1, 0.0, 0.5, 2.0, 5.0]
SLOPES = [
    (ndl.gelu, {}, [-0.01194564720418392, -0.08331547058768635, 0.4204769079752698, 0.5, 0.8674951246561629, 1.085231801078197,
                    1.000007146946002]),
    (ndl.gelu, {"approximate": "tanh"}, [-0.011584166630969648, -0.08296408384578252, 0.4204782107282433, 0.5,
                                         0.8673699035346424, 1.0860992566236183, 1.000001546361988]),
    (ndl.silu, {}, [-0.08810410601516962, 0.07232948812851325, 0.4500832085017708, 0.5, 0.7399611873026519, 1.0907842487848955,
                    1.0265474324296655]),
]  # fmt: skip


@pytest.mark.parametrize(("f", "attrs", "expected"), SLOPES)
def test_slopes_are_those_of_pytorch(f: Callable[..., Any], attrs: dict[str, Any], expected: list[float]) -> None:
    slopes = ndl.grad(lambda t: f(t, **attrs).sum())(ndl.Tensor(PLACES, dtype="float64"))
    np.testing.assert_allclose(slopes.numpy(), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_slopes_of_gelu_far_out_are_zero_and_one(approximate: str, dtype: str) -> None:
    x = ndl.Tensor([-np.inf, -1e4, -50.0, 50.0, 1e4, np.inf], dtype=dtype)
    assert ndl.gelu_grad(ndl.ones_like(x), x, approximate=approximate).tolist() == [0, 0, 0, 1, 1, 1]
