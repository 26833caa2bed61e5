"""The layers of transformers against numbers from PyTorch; positions against their formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core import nn
from needle_core.errors import ArgumentError, ShapeError
from needle_core.tensor import Tensor

# PyTorch 2.13, float64, batch_first: TransformerEncoderLayer(4, 2, 6, 0.0, "gelu", norm_first=...) and
# TransformerDecoderLayer(4, 2, 6, 0.0, "relu") with a causal mask. Parameter i there is 0.5 sin(0.9 j + i) at its element j.
NAMES = ("in_proj.weight", "in_proj.bias", "out_proj.weight", "out_proj.bias")
MAPS = ("linear1.weight", "linear1.bias", "linear2.weight", "linear2.bias")
X = np.cos(0.3 * np.arange(12)).reshape(1, 3, 4)
MEMORY = np.sin(0.5 * np.arange(8)).reshape(1, 2, 4)
ENCODED = {
    False: [-0.9310878787212165, -0.3182271077483138, 0.2833408553546504, 0.37837061489063534, -0.9303740581770028,
            -0.33573995946938767, 0.3026171223792381, 0.37990459506069685, -0.9238170400231551, -0.31308227419241175,
            0.24313188583353254, 0.3731153760229451],
    True: [2.2145608008510664, 1.1300145270631534, 1.1990588369352728, 0.055996064769931186, 1.5757551286906226,
           0.2531738125891323, 0.12533495939642503, -1.0912386270197434, 0.44818096321027046, -0.689723615207321,
           -0.6041748360703563, -1.551876027518994],
}  # fmt: skip
DECODED = [-0.42800257293944416, -0.30685569975062627, 0.43516385825425835, 0.2534991946058131, -0.4198137933807052,
           -0.3466756530456473, 0.44148482099854175, 0.2545609314170183, -0.44323739140551327, -0.24850829379198877,
           0.42966839575191945, 0.25297101465849625]  # fmt: skip


def fill(layer: nn.Module, names: list[str]) -> None:
    """Give parameters, listed in PyTorch's order, the values they had there; its weights map by x @ weight.T."""
    state = {}
    for i, name in enumerate(names):
        shape = layer.state_dict()[name].shape
        state[name] = 0.5 * np.sin(0.9 * np.arange(np.prod(shape)) + i).reshape(shape[::-1]).T
    layer.load_state_dict(state)


@pytest.mark.parametrize("norm_first", [False, True])
def test_encoder_layer_is_that_of_pytorch(norm_first: bool) -> None:
    layer = nn.TransformerEncoderLayer(4, 2, 6, 0.0, "gelu", norm_first, dtype="float64")
    norms = [f"norm{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")]
    fill(layer, [*(f"attention.{name}" for name in NAMES), *MAPS, *norms])
    np.testing.assert_allclose(layer(Tensor(X), causal=True).numpy().ravel(), ENCODED[norm_first], rtol=1e-12)


def test_decoder_layer_is_that_of_pytorch() -> None:
    layer = nn.TransformerDecoderLayer(4, 2, 6, 0.0, dtype="float64")
    norms = [f"norm{i}.{kind}" for i in (1, 2, 3) for kind in ("weight", "bias")]
    attentions = [f"{kind}.{name}" for kind in ("attention", "cross_attention") for name in NAMES]
    fill(layer, [*attentions, *MAPS, *norms])
    np.testing.assert_allclose(layer(Tensor(X), Tensor(MEMORY), causal=True).numpy().ravel(), DECODED, rtol=1e-12)


def test_hidden_width_is_four_times_dim_by_default() -> None:
    assert nn.TransformerEncoderLayer(4, 2).linear1.weight.shape == (4, 16)


def test_masks_of_a_decoder_are_for_their_own_sequence() -> None:
    layer = nn.TransformerDecoderLayer(4, 2, dropout=0.0)
    x, memory = Tensor(X, dtype="float32"), Tensor(MEMORY, dtype="float32")
    first = layer(x, memory, memory_mask=Tensor([True, False])).numpy()
    np.testing.assert_allclose(first, layer(x, memory[:, :1]).numpy(), rtol=1e-6)
    np.testing.assert_array_equal(
        layer(x, memory, mask=Tensor(np.tri(3, dtype=bool))).numpy(), layer(x, memory, causal=True).numpy()
    )


def test_dropout_is_of_training_only() -> None:
    layer, x = nn.TransformerEncoderLayer(4, 2, dropout=0.5), Tensor(X, dtype="float32")
    assert layer(x).tolist() != layer(x).tolist()
    layer.eval()
    assert layer(x).tolist() == layer(x).tolist()


def test_activation_may_be_any_function() -> None:
    layer, x = nn.TransformerEncoderLayer(4, 2, dropout=0.0), Tensor(X, dtype="float32")
    other = nn.TransformerEncoderLayer(4, 2, dropout=0.0, activation=nn.ReLU())
    other.load_state_dict(layer.state_dict())
    np.testing.assert_array_equal(other(x).numpy(), layer(x).numpy())
    with pytest.raises(ArgumentError, match=r"^TransformerEncoderLayer: activation is 'relu', 'gelu' or a function"):
        nn.TransformerEncoderLayer(4, 2, activation="swish")


@pytest.mark.parametrize("dim", [1, 4, 5])
def test_positions_are_waves(dim: int) -> None:
    layer, expected = nn.PositionalEncoding(dim, max_len=7, dtype="float64"), np.ones((2, 6, dim))
    for t, i in np.ndindex(6, dim):
        angle = t / 10000 ** (2 * (i // 2) / dim)
        expected[:, t, i] += np.cos(angle) if i % 2 else np.sin(angle)
    np.testing.assert_allclose(layer(ndl.ones((2, 6, dim), dtype="float64")).numpy(), expected, rtol=1e-12)
    assert [name for name, _ in layer.named_buffers()] == ["table"]
    assert repr(layer).startswith(f"PositionalEncoding({dim}, max_len=7")


@pytest.mark.parametrize("shape", [(6, 4), (1, 8, 4), (1, 6, 3)])
def test_sequences_that_are_too_long_or_wide_are_refused(shape: Any) -> None:
    with pytest.raises(ShapeError, match=r"^PositionalEncoding: expected \(n, t, 4\) with t at most 7"):
        nn.PositionalEncoding(4, max_len=7)(ndl.zeros(shape))
