"""Kernels of attention. Half precision computes in float32."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def attention_weights(q: Array, k: Array, *mask: Array, causal: bool, scale: float) -> Array:
    return _weights(_wide(q) * scale, _wide(k), mask, causal).astype(q.dtype, copy=False)


def scaled_dot_product_attention(q: Array, k: Array, v: Array, *mask: Array, causal: bool, scale: float) -> Array:
    return _attention(q, k, v, *mask, causal=causal, scale=scale)[0]


def scaled_dot_product_attention_grad(
    g: Array, q: Array, k: Array, v: Array, *mask: Array, causal: bool, scale: float
) -> tuple[Array, ...]:
    scaled = _stretched(_wide(q) * scale, k, v)
    return _attention_grad((_weights(scaled, _wide(k), mask, causal), scaled), g, q, k, v, *mask, causal=causal, scale=scale)


def _attention(q: Array, k: Array, v: Array, *mask: Array, causal: bool, scale: float) -> tuple[Array, tuple[Array, Array]]:
    """The op; the weights, and q as they were made of it."""
    scaled = _stretched(_wide(q) * scale, k, v)
    p = _weights(scaled, _wide(k), mask, causal)
    return _product(p, _wide(v), like=q).astype(q.dtype, copy=False), (p, scaled)


def _attention_grad(
    kept: tuple[Array, Array], g: Array, q: Array, k: Array, v: Array, *mask: Array, causal: bool, scale: float
) -> tuple[Array, ...]:
    """The gradients, given what `_attention` has kept."""
    p, scaled = kept
    g, wide_k, wide_v = _wide(g), _wide(k), _wide(v)
    by_v = _product(p.mT, g, like=v)
    by_scores = np.matmul(g, wide_v.mT)
    by_scores -= np.einsum("...ts,...ts->...t", by_scores, p)[..., None]
    by_scores *= p
    by_q = _product(by_scores, wide_k, like=q)
    by_q *= scale
    by_k = _product(by_scores.mT, scaled, like=k)
    gradients = (by_q, by_k, by_v, *([by_scores] if any(m.dtype != np.bool_ for m in mask) else []))
    return tuple(x.astype(q.dtype, copy=False) for x in gradients)


def _product(a: Array, b: Array, like: Array) -> Array:
    """a b, with its axes in memory as those of `like` are if it has its shape: what turned that turns this without a copy."""
    fits = like.shape == (*a.shape[:-1], b.shape[-1]) and like.dtype == a.dtype
    return np.asarray(np.matmul(a, b, out=np.empty_like(like) if fits else None))


def _wide(x: Array) -> Array:
    """`x` in the dtype to compute in: float32 for half precision."""
    return x.astype(np.float32) if x.dtype.itemsize == 2 else x


def _stretched(q: Array, k: Array, v: Array) -> Array:
    """q with the batch in which all meet, so that the scores have it too."""
    batch = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    return q if batch == q.shape[:-2] else np.broadcast_to(q, (*batch, *q.shape[-2:]))


def _weights(q: Array, k: Array, mask: tuple[Array, ...], causal: bool) -> Array:
    """softmax(q k^T + mask), in one buffer."""
    p = np.matmul(q, k.mT)
    if not p.size:
        return p
    for m in mask:
        if m.dtype == np.bool_:
            np.copyto(p, -np.inf, where=~m)
        else:
            p += m
    if causal:
        np.copyto(p, -np.inf, where=_future(*p.shape[-2:]))
    top = p.max(-1, keepdims=True)
    top[top == -np.inf] = 0
    p -= top
    np.exp(p, out=p)
    total = p.sum(-1, keepdims=True)
    total[total == 0] = 1
    p /= total
    return p


@lru_cache(maxsize=16)
def _future(t: int, s: int) -> Array:
    """Which of s keys lie ahead of each of t queries, the last of which is at the last key."""
    return ~np.tri(t, s, s - t, dtype=np.bool_)
