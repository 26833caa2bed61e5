"""Recipes of softmax and the normalisations, whose rows are programs; of batch norm, what is not a program of the core's."""

from __future__ import annotations

from math import inf
from typing import Any

import needle_core as ndl
from needle_core import Tensor
from needle_cuda_backend.body import recipe_of_rows
from needle_cuda_backend.recipe import Call, Place, Recipe, inputs_of, outputs_of, wide


def softmax(call: Call) -> Recipe:
    over = _over(call)

    def function(x: Tensor) -> Tensor:
        e = ndl.exp(x - ndl.max(x, **over))
        return e * (1 / ndl.sum(e, **over))

    return recipe_of_rows(call, function)


def log_softmax(call: Call) -> Recipe:
    over = _over(call)

    def function(x: Tensor) -> Tensor:
        low = x - ndl.max(x, **over)
        return low - ndl.log(ndl.sum(ndl.exp(low), **over))

    return recipe_of_rows(call, function)


def softmax_grad(call: Call) -> Recipe:
    return recipe_of_rows(call, lambda g, y: y * (g - ndl.sum(g * y, **_over(call))))


def layer_norm(call: Call) -> Recipe:
    over, eps = _over(call), call.attrs["eps"]

    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        left = x - ndl.mean(x, **over)
        return left * ndl.rsqrt(ndl.mean(left * left, **over) + eps) * weight + bias

    return recipe_of_rows(call, function)


def rms_norm(call: Call) -> Recipe:
    over, eps = _over(call), call.attrs["eps"]
    return recipe_of_rows(call, lambda x, weight: x * ndl.rsqrt(ndl.mean(x * x, **over) + eps) * weight)


def layer_norm_grad(call: Call) -> Recipe:
    return _normalized_grad(call, is_centred=True)


def rms_norm_grad(call: Call) -> Recipe:
    return _normalized_grad(call, is_centred=False)


def _normalized_grad(call: Call, *, is_centred: bool) -> Recipe:
    """Some values for each row first, and then what reads these with the operands, and adds up columns."""
    over, eps, x, weight = _over(call), call.attrs["eps"], *call.inputs[1:]
    samples = tuple(range(x.ndim - weight.ndim))

    def of_rows(g: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        z, means = g * weight, [ndl.mean(x, **over)] * is_centred
        left = x - means[0] if means else x
        r = ndl.rsqrt(ndl.mean(left * left, **over) + eps)
        return (r, ndl.mean(z * left, **over) * r, *means, *([ndl.mean(z, **over)] * is_centred))

    def of_columns(g: Tensor, x: Tensor, weight: Tensor, r: Tensor, zh: Tensor, *means: Tensor) -> tuple[Tensor, ...]:
        h = (x - means[0] if means else x) * r
        z = g * weight - means[1] if means else g * weight
        return ((z - h * zh) * r, ndl.sum(g * h, axes=samples), ndl.sum(g, axes=samples))[: len(call.outputs)]

    row = x.like(shape=(*x.shape[: len(samples)], *(1 for _ in weight.shape)), dtype=wide(x.dtype))
    rows, given, recipe = (row,) * (4 if is_centred else 2), inputs_of(3), Recipe()
    values = [recipe.space(row.nbytes) for row in rows]
    recipe.then(recipe_of_rows(call._replace(outputs=rows), of_rows), given, values)
    made = recipe_of_rows(call._replace(inputs=(*call.inputs, *rows)), of_columns)
    recipe.then(made, [*given, *values], outputs_of(len(call.outputs)))
    return recipe


def batch_statistics(call: Call) -> Recipe:
    """Mean and variance in one pass, where the body would read x twice, and write what is left of it without its mean.

    Sums are those of x less its first sample, so that the variance is the mean square of what is left, less the square of its
    mean.

    Numerics: the variance has an error of (1 + k^2) n eps at worst where the first of n samples is k deviations from the mean
    """
    x, axes = call.inputs[0], tuple(range(call.inputs[0].ndim - 1))
    first = [x.like(shape=x.shape[-1:])] * (x.size > 0)

    def function(x: Tensor, *first: Tensor) -> tuple[Tensor, Tensor]:
        shifts = [ndl.where(ndl.abs(s) < inf, s, 0) for s in first]
        left = x - shifts[0] if shifts else x
        mean, square = (ndl.mean(z, axes=axes, keepdims=True) for z in (left, left * left))
        return mean + shifts[0] if shifts else mean, ndl.maximum(square - mean * mean, 0)

    recipe = Recipe()
    made = recipe_of_rows(call._replace(inputs=(x, *first)), function)
    recipe.then(made, [Place("input")] * 2, outputs_of(2))
    return recipe


def _over(call: Call) -> dict[str, Any]:
    """How rows are reduced: over the axes that are said, or the last, which are those of the weight."""
    x, weight = call.inputs[0], call.inputs[-1]
    return {"axes": call.attrs.get("axes", tuple(range(x.ndim - weight.ndim, x.ndim))), "keepdims": True}
