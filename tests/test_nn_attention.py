"""MultiHeadAttention: against a loop over heads, its masks, dropout and errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import needle_core as ndl
from needle_core import nn
from needle_core.errors import ArgumentError, ShapeError
from needle_core.tensor import Tensor

Array = npt.NDArray[Any]
RNG = np.random.default_rng(0)
X: Array = RNG.normal(size=(2, 4, 6))


def attend(layer: nn.MultiHeadAttention, x: Array, mask: Array) -> Array:
    """Sample by sample, head by head, query by query; the mask is of shape (n, heads, t, s)."""
    weight, out = layer.in_proj.weight.numpy(), layer.out_proj.weight.numpy()
    assert layer.in_proj.bias is not None
    assert layer.out_proj.bias is not None
    width, y = layer.dim // layer.heads, np.zeros(x.shape)
    for n, h, t in np.ndindex(len(x), layer.heads, x.shape[1]):
        columns = slice(h * width, (h + 1) * width)
        q, k, v = (p[:, columns] for p in np.split(x[n] @ weight + layer.in_proj.bias.numpy(), 3, axis=1))
        e = np.exp(q[t] @ k.T / np.sqrt(width)) * mask[n, h, t]
        y[n, t, columns] = e / e.sum() @ v
    return np.asarray(y @ out + layer.out_proj.bias.numpy())


@pytest.mark.parametrize("shape", [(4, 4), (1, 4), (2, 4, 4), (2, 1, 4), (2, 3, 4, 4), (2, 1, 1, 4)])
def test_masks_of_all_shapes(shape: tuple[int, ...]) -> None:
    layer = nn.MultiHeadAttention(6, 3, dtype="float64")
    mask = np.random.default_rng(1).random(shape) < 0.5
    mask[..., 0] = True
    full = np.broadcast_to(mask[:, None] if mask.ndim == 3 else mask, (2, 3, 4, 4))
    np.testing.assert_allclose(layer(Tensor(X), mask=Tensor(mask)).numpy(), attend(layer, X, full), rtol=1e-12)


def test_causal_looks_back_only() -> None:
    layer = nn.MultiHeadAttention(6, 2, dtype="float64")
    y = layer(Tensor(X), causal=True).numpy()
    np.testing.assert_allclose(y, attend(layer, X, np.broadcast_to(np.tri(4), (2, 2, 4, 4))), rtol=1e-12)
    changed = X.copy()
    changed[:, 2:] += 1
    np.testing.assert_array_equal(layer(Tensor(changed), causal=True).numpy()[:, :2], y[:, :2])


def test_keys_are_the_values_by_default() -> None:
    layer, memory = nn.MultiHeadAttention(6, 2), Tensor(RNG.normal(size=(2, 5, 6)), dtype="float32")
    x = Tensor(X, dtype="float32")
    np.testing.assert_array_equal(layer(x, memory).numpy(), layer(x, memory, memory).numpy())


def test_dropout_of_weights_keeps_the_mean_and_only_in_training() -> None:
    layer = nn.MultiHeadAttention(6, 2, dropout=0.5, dtype="float64")
    x, exact = Tensor(X), nn.MultiHeadAttention(6, 2, dtype="float64")
    exact.load_state_dict(layer.state_dict())
    expected = exact(x, causal=True).numpy()
    ndl.manual_seed(0)
    drawn = np.array([layer(x, causal=True).numpy() for _ in range(2000)])
    deviation = drawn.std(0) / np.sqrt(len(drawn))
    assert (deviation > 0).all()
    assert (np.abs(drawn.mean(0) - expected) < 6 * deviation).all()
    np.testing.assert_array_equal(layer.eval()(x, causal=True).numpy(), expected)


def test_parameters_are_two_linear_maps() -> None:
    layer = nn.MultiHeadAttention(6, 2)
    shapes = {name: p.shape for name, p in layer.named_parameters()}
    assert shapes == {"in_proj.weight": (6, 18), "in_proj.bias": (18,), "out_proj.weight": (6, 6), "out_proj.bias": (6,)}
    assert len(nn.MultiHeadAttention(6, 2, bias=False).parameters()) == 2
    assert repr(layer).startswith("MultiHeadAttention(6, heads=2\n")


@pytest.mark.parametrize("heads", [0, 4])
def test_heads_of_unequal_width_are_refused(heads: int) -> None:
    with pytest.raises(ArgumentError, match=rf"^MultiHeadAttention: 6 features do not make {heads} heads of equal width$"):
        nn.MultiHeadAttention(6, heads)


@pytest.mark.parametrize("shape", [(4, 6), (2, 4, 5)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"^MultiHeadAttention: expected \(n, positions, 6\)"):
        nn.MultiHeadAttention(6, 2)(ndl.zeros(shape))
