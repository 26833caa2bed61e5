"""Attention and the layers of transformers."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from needle_core import nn
from needle_core.testing import CASES
from needle_core.testing.layers.layer import Layer, State
from needle_core.testing.samples import Array, mask, real


def _linear(s: State, name: str, x: Array) -> Array:
    return np.asarray(x @ s[f"{name}.weight"] + s.get(f"{name}.bias", 0))


def _norm(s: State, name: str, x: Array) -> Array:
    return np.asarray(CASES["layer_norm"].reference(x, s[f"{name}.weight"], s[f"{name}.bias"]))


def _attention(s: State, heads: int, q: Array, k: Array, v: Array, *masks: Array, name: str = "", **attrs: Any) -> Array:
    """One sample and one head after the other, each with its columns of the three maps; masks are of a sample."""
    dim = q.shape[-1]
    parts = [_linear(s, f"{name}in_proj", x)[..., i * dim : (i + 1) * dim] for i, x in enumerate((q, k, v))]
    y = np.zeros(q.shape, np.result_type(*parts))
    for n in range(len(q)):
        for columns in np.split(np.arange(dim), heads):
            own = [m[n] if m.ndim == 3 else m for m in masks]
            one = CASES["scaled_dot_product_attention"].reference(*(x[n][:, columns] for x in parts), *own, **attrs)
            y[n][:, columns] = one
    return _linear(s, f"{name}out_proj", y)


def _mapped(s: State, x: Array, activation: str) -> Array:
    return _linear(s, "linear2", np.asarray(CASES[activation].reference(_linear(s, "linear1", x))))


def _encoded(s: State, x: Array) -> Array:
    x = _norm(s, "norm1", x + _attention(s, 2, x, x, x, name="attention."))
    return _norm(s, "norm2", x + _mapped(s, x, "gelu"))


def _encoded_norm_first(s: State, x: Array) -> Array:
    h = _norm(s, "norm1", x)
    x = x + _attention(s, 1, h, h, h, name="attention.")
    return x + _mapped(s, _norm(s, "norm2", x), "gelu")


def _decoded(s: State, x: Array, memory: Array) -> Array:
    x = _norm(s, "norm1", x + _attention(s, 2, x, x, x, name="attention."))
    x = _norm(s, "norm2", x + _attention(s, 2, x, memory, memory, name="cross_attention."))
    return _norm(s, "norm3", x + _mapped(s, x, "gelu"))


LAYERS: Final = (
    Layer("MultiHeadAttention", "4, 2", lambda d: nn.MultiHeadAttention(4, 2, dtype=d),
          lambda s, x: _attention(s, 2, x, x, x), (real(2, 3, 4),)),
    Layer("MultiHeadAttention", "4, 2, bias=False, of three sequences",
          lambda d: nn.MultiHeadAttention(4, 2, bias=False, dtype=d),
          lambda s, q, k, v: _attention(s, 2, q, k, v), (real(2, 3, 4), real(2, 2, 4), real(2, 2, 4))),
    Layer("MultiHeadAttention", "4, 1, a mask for each sample", lambda d: nn.MultiHeadAttention(4, 1, dtype=d),
          lambda s, q, k, v, m: _attention(s, 1, q, k, v, m),
          (real(2, 3, 4), real(2, 3, 4), real(2, 3, 4), mask(2, 3, 3))),
    Layer("TransformerEncoderLayer", "4, 2, 3, dropout=0", lambda d: nn.TransformerEncoderLayer(4, 2, 3, 0.0, "gelu", dtype=d),
          _encoded, (real(1, 3, 4),)),
    Layer("TransformerEncoderLayer", "2, 1, norm_first, in evaluation",
          lambda d: nn.TransformerEncoderLayer(2, 1, activation="gelu", norm_first=True, dtype=d).eval(),
          _encoded_norm_first, (real(2, 2, 2),)),
    Layer("TransformerDecoderLayer", "4, 2, 3, dropout=0", lambda d: nn.TransformerDecoderLayer(4, 2, 3, 0.0, "gelu", dtype=d),
          _decoded, (real(1, 3, 4), real(1, 2, 4))),
    Layer("PositionalEncoding", "3", lambda d: nn.PositionalEncoding(3, max_len=5, dtype=d),
          lambda s, x: x + s["table"][: x.shape[1]], (real(2, 4, 3),)),
)  # fmt: skip
