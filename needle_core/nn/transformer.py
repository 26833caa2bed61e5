"""The layers of transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from needle_core import ops
from needle_core.backend import DeviceLike
from needle_core.errors import ArgumentError, ShapeError, brief
from needle_core.nn.attention import MultiHeadAttention
from needle_core.nn.dropout import Dropout
from needle_core.nn.linear import Linear
from needle_core.nn.module import Buffer, Module
from needle_core.nn.normalization import LayerNorm
from needle_core.spec import DTypeLike
from needle_core.tensor import Tensor

Activation: TypeAlias = str | Callable[[Tensor], Tensor]


class _TransformerLayer(Module):
    """What the layers of encoders and decoders share: `attention`, the maps of each position, and the ways around."""

    def __init__(
        self,
        dim: int,
        heads: int,
        hidden: int | None = None,
        dropout: float = 0.1,
        activation: Activation = "relu",
        norm_first: bool = False,
        eps: float = 1e-5,
        device: DeviceLike | None = None,
        dtype: DTypeLike = "float32",
    ) -> None:
        inner = 4 * dim if hidden is None else hidden
        self.norm_first, self.activation = norm_first, _function(type(self).__name__, activation)
        self.attention = MultiHeadAttention(dim, heads, dropout, device=device, dtype=dtype)
        self.linear1 = Linear(dim, inner, device=device, dtype=dtype)
        self.linear2 = Linear(inner, dim, device=device, dtype=dtype)
        self.norm1 = LayerNorm(dim, eps, device=device, dtype=dtype)
        self.norm2 = LayerNorm(dim, eps, device=device, dtype=dtype)
        self.dropout = Dropout(dropout)

    def _beside(self, norm: LayerNorm, x: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:
        """x plus what a branch makes of it, normalised before the branch or after the sum."""
        y = branch(norm(x)) if self.norm_first else branch(x)
        y = x + self.dropout(y)
        return y if self.norm_first else norm(y)  # type: ignore[no-any-return]

    def _mapped(self, x: Tensor) -> Tensor:
        return self.linear2(self.dropout(self.activation(self.linear1(x))))  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return f"norm_first={self.norm_first}"


class TransformerEncoderLayer(_TransformerLayer):
    """Attention of a sequence to itself, then two linear maps of each position, each with a way around it.

        x = norm1(x + attention(x)),    y = norm2(x + linear2(activation(linear1(x))))

    With `norm_first`: x + attention(norm1(x)), x + linear2(activation(linear1(norm2(x)))), which trains more easily if deep.
    With `causal` it is the layer of language models such as GPT. `hidden` is the width between the maps, by default 4 dim;
    `activation` is "relu", "gelu" or a function of a tensor. In training, `dropout` of the weights of attention are dropped,
    and of what is added and what is between the maps.

    Shapes:   x (n, t, dim), mask as in MultiHeadAttention -> (n, t, dim)
    Source:   Vaswani et al. 2017, arXiv:1706.03762; for `norm_first`, Xiong et al. 2020, arXiv:2002.04745
    """

    def forward(self, x: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        x = self._beside(self.norm1, x, lambda h: self.attention(h, mask=mask, causal=causal))
        return self._beside(self.norm2, x, self._mapped)


class TransformerDecoderLayer(_TransformerLayer):
    """As TransformerEncoderLayer, with attention to another sequence, `memory`, before the maps.

        x = norm1(x + attention(x)),  x = norm2(x + cross_attention(x, memory)),  y = norm3(x + linear2(activation(linear1(x))))

    `mask` and `causal` are for the attention of x to itself, `memory_mask` is for that to `memory`.

    Shapes:   x (n, t, dim), memory (n, s, dim), masks as in MultiHeadAttention -> (n, t, dim)
    Source:   Vaswani et al. 2017, arXiv:1706.03762
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        hidden: int | None = None,
        dropout: float = 0.1,
        activation: Activation = "relu",
        norm_first: bool = False,
        eps: float = 1e-5,
        device: DeviceLike | None = None,
        dtype: DTypeLike = "float32",
    ) -> None:
        super().__init__(dim, heads, hidden, dropout, activation, norm_first, eps, device, dtype)
        self.cross_attention = MultiHeadAttention(dim, heads, dropout, device=device, dtype=dtype)
        self.norm3 = LayerNorm(dim, eps, device=device, dtype=dtype)

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        x = self._beside(self.norm1, x, lambda h: self.attention(h, mask=mask, causal=causal))
        x = self._beside(self.norm2, x, lambda h: self.cross_attention(h, memory, mask=memory_mask))
        return self._beside(self.norm3, x, self._mapped)


class PositionalEncoding(Module):
    """Adds to each position a vector of its own, made of waves, so that attention can tell where things stand.

        y[t, 2i] = x[t, 2i] + sin(t w_i),    y[t, 2i + 1] = x[t, 2i + 1] + cos(t w_i),    w_i = 10000^(-2i / dim)

    In training, `dropout` of the sums are dropped. The waves of `max_len` positions are kept in a buffer.

    Shapes:   x (n, t, dim), t at most max_len -> (n, t, dim)
    Raises:   ShapeError for a longer sequence
    Source:   Vaswani et al. 2017, arXiv:1706.03762
    """

    def __init__(
        self,
        dim: int,
        max_len: int = 5000,
        dropout: float = 0.0,
        device: DeviceLike | None = None,
        dtype: DTypeLike = "float32",
    ) -> None:
        self.dim, self.max_len = dim, max_len
        angles = np.arange(max_len)[:, None] * 10000.0 ** (-2 * (np.arange(dim) // 2) / dim)
        self.table = Buffer(np.where(np.arange(dim) % 2, np.cos(angles), np.sin(angles)), device=device, dtype=dtype)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 3 or x.shape[-1] != self.dim or x.shape[1] > self.max_len:
            expected = f"(n, t, {self.dim}) with t at most {self.max_len}"
            raise ShapeError(f"PositionalEncoding: expected {expected}", details={"x": x.spec})
        return self.dropout(x + self.table[: x.shape[1]])  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return f"{self.dim}, max_len={self.max_len}"


def _function(layer: str, activation: Activation) -> Callable[[Tensor], Tensor]:
    """The function that a layer's `activation` names, or is."""
    if callable(activation):
        return activation
    if activation not in ("relu", "gelu"):
        raise ArgumentError(f"{layer}: activation is 'relu', 'gelu' or a function of a tensor, not {brief(activation)}")
    return ops.relu if activation == "relu" else ops.gelu
