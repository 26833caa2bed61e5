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
