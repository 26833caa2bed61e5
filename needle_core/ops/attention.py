"""Attention: means of values, weighted by how well keys fit queries.

Sizes: b the batch (any axes, broadcast), t queries, s keys and values, d the width of queries and keys, e that of values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

from needle_core.doors import broadcast_shapes, normalize_integer, promoting
from needle_core.errors import ArgumentError, DtypeError, ShapeError, brief
from needle_core.op import composite
from needle_core.ops.create import iota
from needle_core.ops.elementwise import less, not_equal, where
from needle_core.ops.normalize import softmax, softmax_grad
from needle_core.ops.reduce import max
from needle_core.ops.shape import concat, moveaxis, reshape, unstack
from needle_core.spec import DType, Spec, bool_, promote
from needle_core.tensor import Tensor

__all__ = [
    "attention_weights", "scaled_dot_product_attention", "scaled_dot_product_attention_grad", "self_attention",
    "self_attention_grad",
]  # fmt: skip

Attrs: TypeAlias = dict[str, Any]


def _promotion(count: int) -> Any:
    """The dtype rule of `count` operands and a mask: a floating mask meets with them, any other keeps its dtype."""

    def rule(*dtypes: DType | type) -> list[DType]:
        masks = [promote(d) for d in dtypes[count:]]
        met = promote(*dtypes[:count], *(d for d in masks if d.is_floating))
        return [met] * count + [met if d.is_floating else d for d in masks]

    return rule


@promoting(_promotion(2))
def _weighted(q: Spec, k: Spec, *mask: Spec, causal: bool = False, scale: float | None = None) -> tuple[Spec, Attrs]:
    return q.like(shape=_scores((q, k), mask)), _attributes(q, causal, scale)


@promoting(_promotion(3))
def _attended(q: Spec, k: Spec, v: Spec, *mask: Spec, causal: bool = False, scale: float | None = None) -> tuple[Spec, Attrs]:
    batch = _scores((q, k, v), mask)[:-2]
    if k.shape[-2] != v.shape[-2]:
        raise ShapeError(f"each key has one value, but there are {k.shape[-2]} keys and {v.shape[-2]} values")
    return q.like(shape=(*batch, q.shape[-2], v.shape[-1])), _attributes(q, causal, scale)


@promoting(_promotion(4))
def _attended_gradient(
    g: Spec, q: Spec, k: Spec, v: Spec, *mask: Spec, causal: bool = False, scale: float | None = None
) -> tuple[tuple[Spec, ...], Attrs]:
    y, attrs = _attended(q, k, v, *mask, causal=causal, scale=scale)
    if g.shape != y.shape:
        raise ShapeError(f"the gradient has the shape {list(y.shape)} of what attention gives, not {list(g.shape)}")
    operands = [q, k, v, *(q.like(shape=(q.shape[-2], k.shape[-2])) for m in mask if m.dtype.is_floating)]
    return tuple(x.like(shape=(*y.shape[:-2], *x.shape[-2:])) for x in operands), attrs


@promoting(_promotion(1))
def _attended_by_itself(
    x: Spec, *mask: Spec, heads: int, causal: bool = False, scale: float | None = None
) -> tuple[Spec, Attrs]:
    q, heads = _one_part(x, heads)
    _scores((q, q, q), mask)
    return x.like(shape=(*x.shape[:-1], x.shape[-1] // 3)), {"heads": heads, **_attributes(q, causal, scale)}


@promoting(_promotion(2))
def _attended_by_itself_gradient(
    g: Spec, x: Spec, *mask: Spec, heads: int, causal: bool = False, scale: float | None = None
) -> tuple[tuple[Spec, ...], Attrs]:
    y, attrs = _attended_by_itself(x, *mask, heads=heads, causal=causal, scale=scale)
    if g.shape != y.shape:
        raise ShapeError(f"the gradient has the shape {list(y.shape)} of what attention gives, not {list(g.shape)}")
    q, _ = _one_part(x, heads)
    return (x, *(x.like(shape=_scores((q, q, q), mask)) for m in mask if m.dtype.is_floating)), attrs


def _one_part(x: Spec, heads: Any) -> tuple[Spec, int]:
    """The queries, keys or values that are side by side in x, as (*b, heads, t, d); and the canonical number of heads."""
    count = normalize_integer("heads", heads)
    if x.ndim < 2:
        raise ShapeError("queries, keys and values side by side have at least two axes, (..., positions, width)")
    if count < 1 or x.shape[-1] % (3 * count):
        raise ShapeError(f"a width of {x.shape[-1]} does not make queries, keys and values of {count} heads")
    return x.like(shape=(*x.shape[:-2], count, x.shape[-2], x.shape[-1] // (3 * count))), count


def _scores(operands: Sequence[Spec], mask: Sequence[Spec]) -> tuple[int, ...]:
    """The shape (*b, t, s) in which the scores of queries and keys meet values and mask."""
    q, k = operands[:2]
    if not q.dtype.is_floating:
        raise DtypeError(f"queries, keys and values are floating, not {q.dtype}", hint="x.astype(ndl.float32)")
    if min(x.ndim for x in operands) < 2:
        raise ShapeError("queries, keys and values have at least two axes, (..., positions, width)")
    if q.shape[-1] != k.shape[-1]:
        raise ShapeError(f"queries and keys differ in width, {q.shape[-1]} != {k.shape[-1]}")
    scores = (*broadcast_shapes(*(x.like(shape=x.shape[:-2]) for x in operands)), q.shape[-2], k.shape[-2])
    if len(mask) > 1:
        raise ArgumentError(f"takes one mask at most, got {len(mask)}")
    for m in mask:
        if not m.dtype.is_floating and m.dtype is not bool_:
            raise DtypeError(f"a mask is bool or floating, not {m.dtype}", hint="mask != 0 is True where a query may look")
        if m.ndim > len(scores) or any(n not in (1, size) for n, size in zip(m.shape[::-1], scores[::-1], strict=False)):
            raise ShapeError(f"a mask of shape {list(m.shape)} does not broadcast to the scores, {list(scores)}")
    return scores


def _attributes(q: Spec, causal: bool, scale: Any) -> Attrs:
    if scale is None:
        scale = 1 / math.sqrt(q.shape[-1]) if q.shape[-1] else 1.0
    elif type(scale) not in (int, float) or not math.isfinite(scale):
        raise ArgumentError(f"scale is a finite number, not {brief(scale)}")
    return {"causal": bool(causal), "scale": float(scale)}


@composite(_weighted, product=True)
def attention_weights(q: Tensor, k: Tensor, *mask: Tensor, causal: bool = False, scale: Any = None) -> Tensor:
    """How much each query looks at each key: the weights that `scaled_dot_product_attention` takes the mean of values with.

        p = softmax(q k^T scale + mask) over the keys

    Shapes:   q (*b, t, d), k (*b, s, d), mask broadcast to (*b, t, s) -> (*b, t, s)
    Numerics: the weights of a query that may look at no key are 0
    """
    scores = (q * scale) @ k.mT
    for m in mask:
        scores = where(m, scores, -math.inf) if m.dtype is bool_ else scores + m
    if causal:
        scores = where(_past(scores), scores, -math.inf)
    if not scores.size or not (mask or causal):
        return softmax(scores)
    sees = not_equal(max(scores, axis=-1, keepdims=True), -math.inf)
    return where(sees, softmax(where(sees, scores, 0)), 0)


def _past(scores: Tensor) -> Tensor:
    """Where a query may look that knows only what came before it and itself: the last query is at the last key."""
    t, s = scores.shape[-2:]
    return less(iota(n=s, device=scores.device), reshape(iota(n=t, device=scores.device), shape=(t, 1)) + (s - t + 1))


@composite(_attended_gradient, product=True)
def scaled_dot_product_attention_grad(
    g: Tensor, q: Tensor, k: Tensor, v: Tensor, *mask: Tensor, causal: bool = False, scale: Any = None
) -> tuple[Tensor, ...]:
    """The gradients of scaled_dot_product_attention for q, k, v and a floating mask, in the shapes in which they meet.

    Numerics: the weights are computed again, which costs less than to keep them
    Source:   Dao et al. 2022, arXiv:2205.14135
    """
    p = attention_weights(q, k, *mask, causal=causal, scale=scale)
    by_scores = softmax_grad(g @ v.mT, p)
    gradients = (by_scores @ k * scale, by_scores.mT @ (q * scale), p.mT @ g)
    return (*gradients, by_scores) if any(m.dtype.is_floating for m in mask) else gradients


@composite(_attended, product=True)
def scaled_dot_product_attention(
    q: Tensor, k: Tensor, v: Tensor, *mask: Tensor, causal: bool = False, scale: Any = None
) -> Tensor:
    """For each query, the mean of the values, weighted by how well their keys fit it.

        y = softmax(q k^T scale + mask) v,    scale = 1 / sqrt(d) by default

    A mask of bools is True where a query may look; a floating one is added to the scores. With `causal`, a query looks at
    what came before it and at itself: query i at key j <= i + s - t, so that t new queries fit behind s - t older keys.

    Shapes:   q (*b, t, d), k (*b, s, d), v (*b, s, e), mask broadcast to (*b, t, s) -> (*b, t, e)
    Dtypes:   floating; the mask floating or bool
    Numerics: a query that may look at no key gives 0, and has gradients of 0
    Raises:   ShapeError if the sizes do not fit, DtypeError for a mask of integers
    Source:   Vaswani et al. 2017, arXiv:1706.03762
    """
    return attention_weights(q, k, *mask, causal=causal, scale=scale) @ v


def _attention_gradient(
    g: Tensor, y: Tensor, q: Tensor, k: Tensor, v: Tensor, *mask: Tensor, causal: bool, scale: float
) -> tuple[Tensor | None, ...]:
    gradients = scaled_dot_product_attention_grad(g, q, k, v, *mask, causal=causal, scale=scale)
    return (*gradients, None) if len(gradients) < 3 + len(mask) else gradients


scaled_dot_product_attention.vjp_joint(_attention_gradient)


@composite(_attended_by_itself_gradient, product=True)
def self_attention_grad(
    g: Tensor, x: Tensor, *mask: Tensor, heads: int, causal: bool = False, scale: Any = None
) -> tuple[Tensor, ...]:
    """The gradients of self_attention for x, and for a floating mask in the shape of the scores.

    Source: Dao et al. 2022, arXiv:2205.14135
    """
    parts = scaled_dot_product_attention_grad(
        _by_heads(g, 1, heads)[0], *_by_heads(x, 3, heads), *mask, causal=causal, scale=scale
    )
    return concat(*(_side_by_side(part) for part in parts[:3]), axis=-1), *parts[3:]


@composite(_attended_by_itself, product=True)
def self_attention(x: Tensor, *mask: Tensor, heads: int, causal: bool = False, scale: Any = None) -> Tensor:
    """Attention of a sequence to itself in several heads, of queries, keys and values that one map has made side by side.

        y = (y_1, ..., y_h),    y_i = scaled_dot_product_attention(q_i, k_i, v_i),    x = (q_1, ..., q_h, k_1, ..., v_h)

    Masks, `causal` and `scale` are those of scaled_dot_product_attention.

    Shapes:   x (*b, t, 3 h d), mask broadcast to (*b, h, t, t) -> (*b, t, h d)
    Dtypes:   floating; the mask floating or bool
    Numerics: a query that may look at no key gives 0, and has gradients of 0
    Raises:   ShapeError if the sizes do not fit, DtypeError for a mask of integers
    Source:   Vaswani et al. 2017, arXiv:1706.03762
    """
    return _side_by_side(scaled_dot_product_attention(*_by_heads(x, 3, heads), *mask, causal=causal, scale=scale))


def _by_heads(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """x (*b, t, parts h d) as so many tensors (*b, h, t, d)."""
    width = x.shape[-1] // (parts * heads)
    return unstack(moveaxis(reshape(x, shape=(*x.shape[:-1], parts, heads, width)), (-3, -2), (0, -3)))


def _side_by_side(y: Tensor) -> Tensor:
    """y (*b, h, t, d) as (*b, t, h d)."""
    turned = moveaxis(y, -3, -2)
    return reshape(turned, shape=(*turned.shape[:-2], turned.shape[-2] * turned.shape[-1]))


def _self_attention_gradient(g: Tensor, y: Tensor, x: Tensor, *mask: Tensor, **attrs: Any) -> tuple[Tensor | None, ...]:
    gradients = self_attention_grad(g, x, *mask, **attrs)
    return (*gradients, None) if len(gradients) < 1 + len(mask) else gradients


self_attention.vjp_joint(_self_attention_gradient)
