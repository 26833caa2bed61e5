"""Softmax and the normalisations.

Their backward passes are ops of their own (`..._grad`), so that a backend can fuse them.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from needle_core.doors import along_floating, promoting, to_floating
from needle_core.errors import ShapeError
from needle_core.op import composite
from needle_core.ops.elementary import exp, sqrt
from needle_core.ops.reduce import logsumexp, max, mean, sum, var
from needle_core.spec import Spec
from needle_core.tensor import Axes, Tensor

__all__ = [
    "batch_norm", "batch_norm_grad", "layer_norm", "layer_norm_grad", "log_softmax", "softmax", "softmax_grad",
]  # fmt: skip

Attrs: TypeAlias = dict[str, Any]


@promoting(to_floating)
def _softmax_gradient(g: Spec, y: Spec, **attrs: Any) -> tuple[Spec, Attrs]:
    return along_floating(g, **attrs)


@composite(_softmax_gradient)
def softmax_grad(g: Tensor, y: Tensor, *, axis: Axes = -1, axes: Axes = None) -> Tensor:
    """The gradient of softmax from its output: y (g - sum g y)."""
    return y * (g - sum(g * y, axes=axes, keepdims=True))


@composite(along_floating)
def softmax(x: Tensor, *, axis: Axes = -1, axes: Axes = None) -> Tensor:
    """Softmax over `axis`, one or several.

        y[i] = exp(x[i] - max x) / sum_j exp(x[j] - max x)

    Shapes:   x (*s) -> (*s)
    Numerics: all -inf along `axis` gives nan
    Source:   Bridle 1990, doi:10.1007/978-3-642-76153-9_28
    """
    if x.size == 0:
        return x.detach()
    e = exp(x - max(x, axes=axes, keepdims=True))
    return e / sum(e, axes=axes, keepdims=True)


softmax.vjp(lambda g, y, x, axes: softmax_grad(g, y, axes=axes))


@composite(along_floating)
def log_softmax(x: Tensor, *, axis: Axes = -1, axes: Axes = None) -> Tensor:
    """log(softmax(x)) over `axis`, one or several, computed as x - logsumexp(x).

    Shapes:   x (*s) -> (*s)
    Numerics: all -inf along `axis` gives nan
    """
    if x.size == 0:
        return x.detach()
    low = x - max(x, axes=axes, keepdims=True)
    return low - logsumexp(low, axes=axes, keepdims=True)


log_softmax.vjp(lambda g, y, x, axes: g - exp(y) * sum(g, axes=axes, keepdims=True))


@promoting(to_floating)
def _normalized_gradient(g: Spec, x: Spec, weight: Spec, *, eps: float = 1e-5) -> tuple[tuple[Spec, ...], Attrs]:
    return (x, weight, weight), {"eps": eps}


@composite(_normalized_gradient)
def layer_norm_grad(g: Tensor, x: Tensor, weight: Tensor, *, eps: float = 1e-5) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of layer_norm for x, weight and bias."""
    axes = _last(x, weight)
    samples = tuple(range(x.ndim - weight.ndim))
    h, deviation = _standard(x, axes, eps)
    return _unstandardize(g * weight, h, deviation, axes), sum(g * h, axes=samples), sum(g, axes=samples)


@promoting(to_floating)
def _layer_normalized(x: Spec, weight: Spec, bias: Spec, *, eps: float = 1e-5) -> tuple[Spec, Attrs]:
    if not weight.ndim or weight.shape != bias.shape or x.shape[-weight.ndim :] != weight.shape:
        raise ShapeError(f"weight and bias need the shape of x's last axes, not {list(weight.shape)} and {list(bias.shape)}")
    return x, {"eps": eps}


@composite(_layer_normalized)
def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, *, eps: float = 1e-5) -> Tensor:
    """Each sample shifted and scaled to mean 0 and variance 1 over its last axes, then scaled by weight and shifted by bias.

        y = (x - mean) / sqrt(var + eps) * weight + bias

    Shapes:   x (*s, *d), weight (*d), bias (*d) -> (*s, *d)
    Source:   Ba, Kiros & Hinton 2016, arXiv:1607.06450
    """
    return _standard(x, _last(x, weight), eps)[0] * weight + bias


layer_norm.vjp_joint(lambda g, y, x, weight, bias, eps: layer_norm_grad(g, x, weight, eps=eps))


@composite(_normalized_gradient)
def batch_norm_grad(g: Tensor, x: Tensor, weight: Tensor, *, eps: float = 1e-5) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of batch_norm for x, weight and bias."""
    axes = _but_last(x)
    h, deviation = _standard(x, axes, eps)
    return _unstandardize(g * weight, h, deviation, axes), sum(g * h, axes=axes), sum(g, axes=axes)


@promoting(to_floating)
def _batch_normalized(x: Spec, weight: Spec, bias: Spec, *, eps: float = 1e-5) -> tuple[Spec, Attrs]:
    if x.ndim < 2 or weight.shape != x.shape[-1:] or bias.shape != weight.shape:
        raise ShapeError(f"weight and bias need the shape {list(x.shape[-1:])} of x's last axis")
    return x, {"eps": eps}


@composite(_batch_normalized)
def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, *, eps: float = 1e-5) -> Tensor:
    """Each channel (last axis) shifted and scaled to mean 0 and variance 1 over the batch, then scaled and shifted.

        y = (x - mean) / sqrt(var + eps) * weight + bias

    Shapes:   x (*s, c), weight (c), bias (c) -> (*s, c)
    Source:   Ioffe & Szegedy 2015, arXiv:1502.03167
    """
    return _standard(x, _but_last(x), eps)[0] * weight + bias


batch_norm.vjp_joint(lambda g, y, x, weight, bias, eps: batch_norm_grad(g, x, weight, eps=eps))


def _last(x: Tensor, weight: Tensor) -> tuple[int, ...]:
    return tuple(range(x.ndim - weight.ndim, x.ndim))


def _but_last(x: Tensor) -> tuple[int, ...]:
    return tuple(range(x.ndim - 1))


def _standard(x: Tensor, axes: tuple[int, ...], eps: float) -> tuple[Tensor, Tensor]:
    """x with mean 0 and variance 1 over `axes`, and the deviation that it was divided by."""
    centred = x - mean(x, axes=axes, keepdims=True)
    deviation = sqrt(var(x, axes=axes, keepdims=True) + eps)
    return centred / deviation, deviation


def _unstandardize(g: Tensor, h: Tensor, deviation: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The gradient for x of its standard form h, given `g` for h."""
    return (g - mean(g, axes=axes, keepdims=True) - h * mean(g * h, axes=axes, keepdims=True)) / deviation
