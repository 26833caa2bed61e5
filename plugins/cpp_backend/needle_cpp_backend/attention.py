"""Which native kernels compute attention: their forms say where queries, keys, values, masks and results lie."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from needle_core.graph.program import broadcast_steps
from needle_core.spec import Spec
from needle_cpp_backend.call import Call, Kernel, code, in_float32
from needle_cpp_backend.native import native

Sizes = tuple[int, ...]


@in_float32
def scaled_dot_product_attention(call: Call) -> Kernel:
    return native.attention(code(call.inputs[0].dtype), _attention(call.inputs, call.outputs[0].shape[:-2], call.attrs))


@in_float32
def scaled_dot_product_attention_grad(call: Call) -> Kernel:
    g, *operands = call.inputs
    return native.attention_grad(code(g.dtype), _attention(operands, g.shape[:-2], call.attrs))


@in_float32
def self_attention(call: Call) -> Kernel:
    x, *mask = call.inputs
    kernel = native.attention(code(x.dtype), _self_attention(x, mask, call.attrs))
    return native.sequence([(kernel, [(1, 0)] * 3 + [(2, 0)] * len(mask), [(2 + len(mask), 0)])], len(call.inputs), 1)


@in_float32
def self_attention_grad(call: Call) -> Kernel:
    _, x, *mask = call.inputs
    kernel, n = native.attention_grad(code(x.dtype), _self_attention(x, mask, call.attrs)), len(call.inputs)
    results = [(1 + n, 0)] * 3 + [(2 + n, 0)] * (len(call.outputs) - 1)
    return native.sequence([(kernel, [(1, 0)] + [(2, 0)] * 3 + [(3, 0)] * len(mask), results)], n, len(call.outputs))


def _attention(operands: Sequence[Spec], batch: Sizes, attrs: Mapping[str, Any]) -> Any:
    """The form of attention with these queries, keys, values, and maybe a mask."""
    q, k, v, *mask = operands
    (t, d), (s, e) = q.shape[-2:], v.shape[-2:]
    there = {name: _matrices(x, (*batch, *x.shape[-2:])) for name, x in (("q", q), ("k", k), ("v", v))}
    made = {
        name: _matrices(q.like(shape=shape), shape)
        for name, shape in (("y", (*batch, t, e)), ("dq", (*batch, t, d)), ("dk", (*batch, s, d)), ("dv", (*batch, s, e)))
    }
    return native.Attention(t=t, s=s, d=d, e=e, **there, **made, **_mask(mask, (*batch, t, s)), **attrs)


def _self_attention(x: Spec, mask: Sequence[Spec], attrs: Mapping[str, Any]) -> Any:
    """The form of attention of x, which has queries, keys and values of all heads side by side, as its gradient has theirs."""
    *batch, t, wide = x.shape
    n, heads = math.prod(batch), attrs["heads"]
    d = wide // (3 * heads)

    def side_by_side(parts: int, part: int) -> Any:
        row = parts * heads * d
        return native.Matrices([i * t * row + (part * heads + h) * d for i in range(n) for h in range(heads)], row, 1)

    q, k, v = (side_by_side(3, part) for part in range(3))
    there = {"q": q, "k": k, "v": v, "dq": q, "dk": k, "dv": v, "y": side_by_side(1, 0)}
    form = {"causal": attrs["causal"], "scale": attrs["scale"]}
    return native.Attention(t=t, s=t, d=d, e=d, **there, **_mask(mask, (*batch, heads, t, t)), **form)


def _mask(mask: Sequence[Spec], scores: Sizes) -> dict[str, Any]:
    """What the form of attention says of its mask."""
    if not mask:
        return {"mask": native.Matrices([], 0, 0), "mask_dtype": native.DType.bool}
    return {"mask": _matrices(mask[0], scores), "mask_dtype": code(mask[0].dtype)}


def _matrices(x: Spec, space: Sizes) -> Any:
    """Where the matrices of x lie in a batch to which it is broadcast."""
    *outer, row, column = broadcast_steps(x.shape, space)
    offsets = [0]
    for size, step in zip(space, outer, strict=False):
        offsets = [offset + i * step for offset in offsets for i in range(size)]
    return native.Matrices(offsets, row, column)
