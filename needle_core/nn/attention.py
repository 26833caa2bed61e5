"""Attention as a layer."""

from __future__ import annotations

from needle_core.backend import DeviceLike
from needle_core.errors import ArgumentError, ShapeError
from needle_core.nn.dropout import Dropout
from needle_core.nn.linear import Linear
from needle_core.nn.module import Module
from needle_core.ops import (
    attention_weights,
    expand_dims,
    linear,
    permute_dims,
    reshape,
    scaled_dot_product_attention,
    self_attention,
)
from needle_core.spec import DTypeLike
from needle_core.tensor import Tensor


class MultiHeadAttention(Module):
    """Attention in `heads` parts of the features at once, between linear maps.

        y = concat(attention(Q_1, K_1, V_1), ..., attention(Q_h, K_h, V_h)) out,    (Q, K, V) = (query, key, value) in_proj

    Alone, `query` attends to itself; the values are by default the keys. A mask of bools is True where a query may look, a
    floating one is added to the scores; with `causal`, position i looks at positions up to i, as
    `ops.scaled_dot_product_attention` says in detail. In training, `dropout` of the weights are dropped.

    `in_proj` makes queries, keys and values side by side, `out_proj` the result.

    Shapes:   query (n, t, dim), key and value (n, s, dim), mask (t, s), (n, t, s) or (n, heads, t, s), each size or 1
              -> (n, t, dim)
    Raises:   ArgumentError if dim is not a multiple of heads
    Source:   Vaswani et al. 2017, arXiv:1706.03762
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        device: DeviceLike | None = None,
        dtype: DTypeLike = "float32",
    ) -> None:
        if heads < 1 or dim % heads:
            raise ArgumentError(f"MultiHeadAttention: {dim} features do not make {heads} heads of equal width")
        self.dim, self.heads = dim, heads
        self.in_proj = Linear(dim, 3 * dim, bias=bias, device=device, dtype=dtype)
        self.out_proj = Linear(dim, dim, bias=bias, device=device, dtype=dtype)
        self.dropout = Dropout(dropout)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        mask: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        masks = [] if mask is None else [expand_dims(mask, 1) if mask.ndim == 3 else mask]
        drops = self.training and self.dropout.p
        if key is None and value is None and not drops:
            self._check(query)
            return self.out_proj(self_attention(self.in_proj(query), *masks, heads=self.heads, causal=causal))  # type: ignore[no-any-return]
        key = query if key is None else key
        q, k, v = (self._heads(x, i) for i, x in enumerate((query, key, key if value is None else value)))
        if drops:
            y = self.dropout(attention_weights(q, k, *masks, causal=causal)) @ v
        else:
            y = scaled_dot_product_attention(q, k, v, *masks, causal=causal)
        return self.out_proj(reshape(permute_dims(y, axes=(0, 2, 1, 3)), shape=query.shape))  # type: ignore[no-any-return]

    def _check(self, x: Tensor) -> None:
        if x.ndim != 3 or x.shape[-1] != self.dim:
            raise ShapeError(f"MultiHeadAttention: expected (n, positions, {self.dim})", details={"got": x.spec})

    def _heads(self, x: Tensor, part: int) -> Tensor:
        """Queries, keys or values: x by the first, second or third part of `in_proj`, as (n, heads, t, dim / heads)."""
        self._check(x)
        columns = slice(part * self.dim, (part + 1) * self.dim)
        weight, bias = self.in_proj.weight[:, columns], self.in_proj.bias
        y = x @ weight if bias is None else linear(x, weight, bias[columns])
        return permute_dims(reshape(y, shape=(*x.shape[:2], self.heads, self.dim // self.heads)), axes=(0, 2, 1, 3))

    def extra_repr(self) -> str:
        return f"{self.dim}, heads={self.heads}"
