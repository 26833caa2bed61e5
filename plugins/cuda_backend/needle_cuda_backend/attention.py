"""Attention: cuDNN in half precision, else the products and kernels of its body."""

from __future__ import annotations

from needle_core.spec import Spec
from needle_cuda_backend.body import recipe_of_body
from needle_cuda_backend.convolution import CudnnCall
from needle_cuda_backend.cudnn import attention, self_attention as by_itself, supports
from needle_cuda_backend.recipe import Call, Place, Recipe, inputs_of, outputs_of


def scaled_dot_product_attention(call: Call) -> Recipe:
    q, k, v, *mask = call.inputs
    description = None if mask else attention(q.dtype, q.shape, k.shape, v.shape, **call.attrs)
    if description is None or not supports(description):
        return recipe_of_body("scaled_dot_product_attention", call)
    return Recipe([CudnnCall(description, (*inputs_of(3), Place("output")))])


def scaled_dot_product_attention_grad(call: Call) -> Recipe:
    _, q, k, v, *mask = call.inputs
    description = None if mask else attention(q.dtype, q.shape, k.shape, v.shape, **call.attrs, backward=True)
    if description is None or not supports(description):
        return recipe_of_body("scaled_dot_product_attention_grad", call)
    return Recipe([CudnnCall(description, (*inputs_of(4), *outputs_of(3)))])


def self_attention(call: Call) -> Recipe:
    x, *mask = call.inputs
    description, starts = by_itself(x.dtype, x.shape, **call.attrs)
    if mask or not supports(description):
        return recipe_of_body("self_attention", call)
    return Recipe([CudnnCall(description, (*_parts(Place("input"), x, starts), Place("output")))])


def self_attention_grad(call: Call) -> Recipe:
    _, x, *mask = call.inputs
    description, starts = by_itself(x.dtype, x.shape, **call.attrs, backward=True)
    if mask or not supports(description):
        return recipe_of_body("self_attention_grad", call)
    g, there = inputs_of(2)
    return Recipe([CudnnCall(description, (g, *_parts(there, x, starts), *_parts(Place("output"), x, starts)))])


def _parts(place: Place, x: Spec, starts: tuple[int, ...]) -> list[Place]:
    """Queries, keys and values, which begin at these elements of x."""
    return [place.plus(start * x.dtype.itemsize) for start in starts]
