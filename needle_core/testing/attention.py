"""Declarations of attention: one query after the other."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from needle_core.errors import ArgumentError, DtypeError, ShapeError
from needle_core.testing.reduce import FROM_ZERO
from needle_core.testing.samples import COMPLEX, FLOATING, Array, Input, declare, index, mask, real, refuses, sample

Place = tuple[int, ...]


def _together(operands: tuple[Array, ...], masks: tuple[Array, ...]) -> tuple[tuple[Array, ...], Array | None]:
    """Operands and mask with the batch in which they meet."""
    batch = np.broadcast_shapes(*(x.shape[:-2] for x in operands))
    size = (*batch, operands[0].shape[-2], operands[1].shape[-2])
    wide = tuple(np.broadcast_to(x, (*batch, *x.shape[-2:])) for x in operands)
    return wide, np.broadcast_to(masks[0], size) if masks else None


def _rows(q: Array, k: Array, mask: Array | None, causal: bool, scale: float | None) -> Iterator[tuple[Place, int, Array]]:
    """The batch index and number of each query, and its weights: exponentials over their sum, or zeros if it sees nothing."""
    t, s = q.shape[-2], k.shape[-2]
    factor = q.shape[-1] ** -0.5 if scale is None and q.shape[-1] else 1.0 if scale is None else scale
    for place in np.ndindex(q.shape[:-2]):
        for i in range(t):
            scores = np.array([np.sum(q[place][i] * k[place][j]) * factor for j in range(s)], q.dtype)
            if mask is not None:
                row = mask[place][i]
                scores = np.where(row, scores, -np.inf) if row.dtype.kind == "b" else scores + row
            if causal:
                scores = np.where([j - i <= s - t for j in range(s)], scores, -np.inf)
            top = np.max(scores.real, initial=-np.inf)
            e = np.zeros_like(scores) if top == -np.inf else np.exp(scores - top)
            yield place, i, e / (np.sum(e) if top != -np.inf else 1)


def _weights(q: Array, k: Array, *masks: Array, causal: bool = False, scale: float | None = None) -> Array:
    (q, k), given = _together((q, k), masks)
    p = np.zeros((*q.shape[:-1], k.shape[-2]), np.result_type(q, k, *masks, np.float64))
    for place, i, weights in _rows(q, k, given, causal, scale):
        p[place][i] = weights
    return p


def _attention(q: Array, k: Array, v: Array, *masks: Array, causal: bool = False, scale: float | None = None) -> Array:
    (q, k, v), given = _together((q, k, v), masks)
    y = np.zeros((*q.shape[:-1], v.shape[-1]), np.result_type(q, k, v, *masks, np.float64))
    for place, i, weights in _rows(q, k, given, causal, scale):
        y[place][i] = sum((w * value for w, value in zip(weights, v[place], strict=True)), np.zeros(v.shape[-1]))
    return y


def _attention_grad(
    g: Array, q: Array, k: Array, v: Array, *masks: Array, causal: bool = False, scale: float | None = None
) -> tuple[Array, ...]:
    """By the Jacobian of the softmax of each query, diag(p) - p p^T."""
    (q, k, v), given = _together((q, k, v), masks)
    kind = np.result_type(g, q, k, v, *masks, np.float64)
    factor = q.shape[-1] ** -0.5 if scale is None and q.shape[-1] else 1.0 if scale is None else scale
    by_q, by_k, by_v = (np.zeros(x.shape, kind) for x in (q, k, v))
    by_mask = np.zeros((*q.shape[:-1], k.shape[-2]), kind)
    for place, i, p in _rows(q, k, given, causal, scale):
        row = g[place][i]
        by_scores = (np.diag(p) - np.outer(p, p)) @ np.array([np.sum(row * value) for value in v[place]], kind)
        by_mask[place][i] = by_scores
        by_v[place] += np.outer(p, row)
        by_k[place] += np.outer(by_scores, q[place][i]) * factor
        by_q[place][i] = sum((d * key for d, key in zip(by_scores, k[place], strict=True)), np.zeros(k.shape[-1])) * factor
    floating = given is not None and given.dtype.kind != "b"
    return (by_q, by_k, by_v, by_mask) if floating else (by_q, by_k, by_v)


def _by_heads(x: Array, parts: int, heads: int) -> list[Array]:
    """The heads of each part of x, which lie side by side: (*b, h, t, d)."""
    columns = np.split(x, parts * heads, axis=-1)
    return [np.stack(columns[i * heads : (i + 1) * heads], axis=-3) for i in range(parts)]


def _side_by_side(y: Array) -> Array:
    return np.concatenate([y[..., i, :, :] for i in range(y.shape[-3])], axis=-1)


def _self_attention(x: Array, *masks: Array, heads: int, **attrs: Any) -> Array:
    return _side_by_side(_attention(*_by_heads(x, 3, heads), *masks, **attrs))


def _self_attention_grad(g: Array, x: Array, *masks: Array, heads: int, **attrs: Any) -> tuple[Array, ...]:
    parts = _attention_grad(_by_heads(g, 1, heads)[0], *_by_heads(x, 3, heads), *masks, **attrs)
    return np.concatenate([_side_by_side(part) for part in parts[:3]], axis=-1), *parts[3:]


# Shapes of q, k, v; a mask or none; attributes. Of more queries than keys, if `causal`, the first see nothing.
_CALLS: list[tuple[tuple[Input, ...], tuple[Input, ...], dict[str, Any]]] = [
    ((real(3, 4), real(5, 4), real(5, 2)), (), {}),
    ((real(2, 3, 4), real(2, 3, 4), real(2, 3, 4)), (), {"causal": True}),
    ((real(2, 1, 3, 2), real(2, 5, 2), real(5, 3)), (), {"scale": 0.3}),
    ((real(2, 3), real(4, 3), real(4, 3)), (), {"causal": True, "scale": 2}),
    ((real(4, 3), real(2, 3), real(2, 3)), (), {"causal": True}),
    ((real(2, 3, 4), real(2, 5, 4), real(2, 5, 2)), (mask(3, 5),), {}),
    ((real(2, 3, 2), real(1, 4, 2), real(2, 4, 1)), (mask(2, 1, 4),), {"causal": True}),
    ((real(2, 3, 2), real(2, 4, 2), real(2, 4, 1)), (real(3, 4),), {}),
    ((real(2, 2, 3), real(4, 3), real(4, 3)), (real(2, 1, 4),), {"causal": True}),
    ((real(2, 3), real(4, 3), real(2, 4, 3)), (), {"causal": True}),
    ((real(1, 1), real(1, 1), real(1, 1)), (mask(1),), {}),
    ((real(3, 2, 4), real(3, 0, 4), real(3, 0, 2)), (), {}),
    ((real(2, 0), real(3, 0), real(3, 2)), (), {}),
]  # fmt: skip


def _cotangent(q: Input, k: Input, v: Input) -> Input:
    """What is like the result of attention."""
    return real(*np.broadcast_shapes(*(x.shape[:-2] for x in (q, k, v))), q.shape[-2], v.shape[-1])


# Of queries, keys and values side by side: their shape, a mask or none, attributes.
_PACKED: list[tuple[Input, tuple[Input, ...], dict[str, Any]]] = [
    (real(3, 12), (), {"heads": 2}),
    (real(17, 3), (), {"heads": 1, "causal": True}),  # longer than a vector
    (real(2, 2, 3, 6), (), {"heads": 1, "causal": True, "scale": 0.3}),
    (real(2, 4, 9), (mask(4, 4),), {"heads": 3}),
    (real(3, 12), (real(2, 3, 3),), {"heads": 2, "causal": True}),
    (real(2, 3, 12), (mask(2, 1, 1, 3),), {"heads": 2}),
    (real(2, 0, 6), (), {"heads": 2}),
    (real(3, 0), (), {"heads": 2}),
]


def _packed_cotangent(x: Input) -> Input:
    return real(*x.shape[:-1], x.shape[-1] // 3)


_INFINITE = "where inf is the greatest, inf - inf is nan"
_SIZES = [
    refuses(ShapeError, "queries and keys differ in width, 3 != 4", real(2, 3), real(2, 4)),
    refuses(ShapeError, "at least two axes", real(3), real(2, 3)),
    refuses(ShapeError, "shapes do not broadcast, 2 != 3", real(2, 4, 3), real(3, 4, 3)),
    refuses(ShapeError, "a mask of shape [3, 2] does not broadcast to the scores, [2, 4]", real(2, 3), real(4, 3), mask(3, 2)),
    refuses(ShapeError, "a mask of shape [1, 2, 4] does not", real(2, 3), real(4, 3), mask(1, 2, 4)),
    refuses(DtypeError, "a mask is bool or floating, not int64", real(2, 3), real(4, 3), index(2, 4, below=2)),
    refuses(ArgumentError, "takes one mask at most, got 2", real(2, 3), real(4, 3), mask(2, 4), mask(2, 4)),
    refuses(ArgumentError, "scale is a finite number, not 'small'", real(2, 3), real(4, 3), scale="small"),
    refuses(ArgumentError, "scale is a finite number, not inf", real(2, 3), real(4, 3), scale=float("inf")),
]
_THIRD = [refuses(ShapeError, "each key has one value, but there are 4 keys and 3 values", real(2, 3), real(4, 3), real(3, 3))]
_FIRST = [refuses(ShapeError, "the gradient has the shape [2, 5] of what", real(2, 3), real(2, 3), real(4, 3), real(4, 5))]
_WIDTHS = [
    refuses(ShapeError, "a width of 8 does not make queries, keys and values of 2 heads", real(2, 8), heads=2),
    refuses(ShapeError, "a width of 6 does not make queries, keys and values of 0 heads", real(2, 6), heads=0),
    refuses(ArgumentError, "heads is an integer, not 'two'", real(2, 6), heads="two"),
    refuses(ShapeError, "side by side have at least two axes", real(6), heads=2),
    refuses(ShapeError, "a mask of shape [3, 2] does not broadcast to the scores, [2, 2, 2]", real(2, 6), mask(3, 2), heads=2),
    refuses(DtypeError, "are floating, not int64", index(2, 6, below=2), heads=2),
]
_FIRST_PACKED = [refuses(ShapeError, "the gradient has the shape [2, 2] of what", real(2, 3), real(2, 6), heads=2)]

_declare = partial(declare, gradient=COMPLEX, dtypes=FLOATING, rounds=16, either_zero=FROM_ZERO, lax=_INFINITE)
_declare("attention_weights", _weights, [sample(*x[:2], *m, **a) for x, m, a in _CALLS], terms=2, refusals=_SIZES)
_declare("scaled_dot_product_attention", _attention, [sample(*x, *m, **a) for x, m, a in _CALLS], terms=2, refusals=_THIRD)
_declare("scaled_dot_product_attention_grad", _attention_grad, [sample(_cotangent(*x), *x, *m, **a) for x, m, a in _CALLS],
         terms=32, refusals=_FIRST)  # fmt: skip  # what g, v and k, 2 at most, make of weights cancels
_declare("self_attention", _self_attention, [sample(x, *m, **a) for x, m, a in _PACKED], terms=2, refusals=_WIDTHS)
_declare("self_attention_grad", _self_attention_grad, [sample(_packed_cotangent(x), x, *m, **a) for x, m, a in _PACKED],
         terms=32, refusals=_FIRST_PACKED)  # fmt: skip
