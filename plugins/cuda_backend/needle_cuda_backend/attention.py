"""Attention: cuDNN in half precision, else the products and kernels of its body."""

from __future__ import annotations

from needle_core.spec import Spec
from needle_cuda_backend.convolution import by_cudnn
from needle_cuda_backend.cudnn import attention, self_attention as by_itself
from needle_cuda_backend.recipe import Call, Place, Recipe, inputs_of, outputs_of


def scaled_dot_product_attention(call: Call) -> Recipe:
    q, k, v, *mask = call.inputs
    description = None if mask else attention(q.dtype, q.shape, k.shape, v.shape, **call.attrs)
    return by_cudnn("scaled_dot_product_attention", call, description, *inputs_of(3), Place("output"))


def scaled_dot_product_attention_grad(call: Call) -> Recipe:
    _, q, k, v, *mask = call.inputs
    description = None if mask else attention(q.dtype, q.shape, k.shape, v.shape, **call.attrs, backward=True)
    return by_cudnn("scaled_dot_product_attention_grad", call, description, *inputs_of(4), *outputs_of(3))


def self_attention(call: Call) -> Recipe:
    x, *mask = call.inputs
    description, starts = by_itself(x.dtype, x.shape, **call.attrs)
    parts = _parts(Place("input"), x, starts)
    return by_cudnn("self_attention", call, None if mask else description, *parts, Place("output"))


def self_attention_grad(call: Call) -> Recipe:
    (_, x, *mask), (g, there) = call.inputs, inputs_of(2)
    description, starts = by_itself(x.dtype, x.shape, **call.attrs, backward=True)
    parts = [*_parts(there, x, starts), *_parts(Place("output"), x, starts)]
    return by_cudnn("self_attention_grad", call, None if mask else description, g, *parts)


def _parts(place: Place, x: Spec, starts: tuple[int, ...]) -> list[Place]:
    """Queries, keys and values, which begin at these elements of x."""
    return [place.plus(start * x.dtype.itemsize) for start in starts]
