"""Softmax and the normalisations.

Their backward passes are ops of their own (`..._grad`), so that a backend can fuse them.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

from needle_core.doors import along_floating, normalize_integer, promoting, to_floating
from needle_core.errors import ShapeError
from needle_core.op import composite
from needle_core.ops.elementary import exp, rsqrt, sqrt
from needle_core.ops.elementwise import square
from needle_core.ops.reduce import logsumexp, max, mean, sum, var
from needle_core.spec import DType, Spec, float32
from needle_core.tensor import Axes, Tensor

__all__ = [
    "batch_norm", "batch_norm_grad", "batch_statistics", "batch_statistics_grad", "group_norm", "group_norm_grad",
    "instance_norm", "layer_norm", "layer_norm_grad", "log_softmax", "rms_norm", "rms_norm_grad", "softmax", "softmax_grad",
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


# -- over the batch ---------------------------------------------------------------------------------------------------------


def _statistical(dtype: DType) -> DType:
    """The dtype of mean and variance: squares of numbers in half precision may be beyond its range."""
    return float32 if dtype.itemsize == 2 else dtype


def _keep_statistics(x: DType | type, mean: DType | type, var: DType | type, *rest: DType | type) -> list[DType]:
    """x and the rest in the floating dtype where they meet; mean and variance as batch_statistics gives them for it."""
    met, *others = to_floating(x, *rest)
    return [met, _statistical(met), _statistical(met), *others]


def _require_channels(x: Spec, **rest: Spec) -> None:
    if x.ndim < 2 or any(s.shape != x.shape[-1:] for s in rest.values()):
        raise ShapeError(f"{', '.join(rest)} need the shape {list(x.shape[-1:])} of x's last axis, of two or more")


def _keep_x(by_mean: DType | type, by_var: DType | type, x: DType | type, mean: DType | type) -> list[DType]:
    """x in its floating dtype; the others as batch_statistics gives them for it."""
    met = to_floating(x)[0]
    return [_statistical(met), _statistical(met), met, _statistical(met)]


@promoting(_keep_x)
def _statistics_gradient(by_mean: Spec, by_var: Spec, x: Spec, mean: Spec) -> tuple[Spec, Attrs]:
    _require_channels(x, by_mean=by_mean, by_var=by_var, mean=mean)
    return x, {}


@composite(_statistics_gradient)
def batch_statistics_grad(by_mean: Tensor, by_var: Tensor, x: Tensor, mean: Tensor) -> Tensor:
    """The gradient of batch_statistics, given those for mean and variance: (by_mean + 2 by_var (x - mean)) / n."""
    n = math.prod(x.shape[:-1]) or 1  # of no samples there are no gradients
    return ((x - mean) * (by_var * (2 / n)) + by_mean / n).astype(x.dtype)


@promoting(to_floating)
def _of_channels(x: Spec) -> tuple[tuple[Spec, Spec], Attrs]:
    if x.ndim < 2:
        raise ShapeError("channels are the last axis of two or more")
    found = x.like(shape=x.shape[-1:], dtype=_statistical(x.dtype))
    return (found, found), {}


@composite(_of_channels)
def batch_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel (last axis) over the batch, the variance with divisor n, the number of samples.

    Shapes:   x (*s, c) -> (c), (c); n is the product of s
    Dtypes:   floating; float32 of float16 and bfloat16
    """
    wide, axes = x.astype(_statistical(x.dtype)), _but_last(x)
    middle = mean(wide, axes=axes)
    return middle, mean(square(wide - middle), axes=axes)


batch_statistics.vjp(lambda g, y, x: batch_statistics_grad(g[0], g[1], x, y[0]))


@promoting(_keep_statistics)
def _batch_normalized(x: Spec, mean: Spec, var: Spec, weight: Spec, bias: Spec, *, eps: float = 1e-5) -> tuple[Spec, Attrs]:
    _require_channels(x, mean=mean, var=var, weight=weight, bias=bias)
    return x, {"eps": eps}


@promoting(lambda g, *rest: [to_floating(g, rest[0], rest[3])[0], *_keep_statistics(*rest)])
def _batch_normalized_gradient(
    g: Spec, x: Spec, mean: Spec, var: Spec, weight: Spec, *, eps: float = 1e-5
) -> tuple[tuple[Spec, ...], Attrs]:
    return (x, mean, var, weight, weight), {"eps": eps}


@composite(_batch_normalized_gradient)
def batch_norm_grad(
    g: Tensor, x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, *, eps: float = 1e-5
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of batch_norm for x, mean, var, weight and bias."""
    r = rsqrt(var + eps)
    scale, h = weight * r, (x - mean) * r
    by_weight, by_bias = sum(g * h, axes=_but_last(x)), sum(g.astype(h.dtype), axes=_but_last(x))
    by_x, by_mean, by_var = g * scale, -scale * by_bias, scale * r * by_weight * -0.5
    return by_x.astype(x.dtype), by_mean, by_var, by_weight.astype(weight.dtype), by_bias.astype(weight.dtype)


@composite(_batch_normalized)
def batch_norm(x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, *, eps: float = 1e-5) -> Tensor:
    """Each channel (last axis) shifted and scaled by a mean and a variance, of batch_statistics(x) or from before.

        y = (x - mean) / sqrt(var + eps) * weight + bias

    Shapes:   x (*s, c), mean, var, weight, bias (c) -> (*s, c)
    Dtypes:   floating; mean and var float32 where x is float16 or bfloat16
    Source:   Ioffe & Szegedy 2015, arXiv:1502.03167
    """
    return ((x - mean) * (weight * rsqrt(var + eps)) + bias).astype(x.dtype)


batch_norm.vjp_joint(lambda g, y, x, mean, var, weight, bias, eps: batch_norm_grad(g, x, mean, var, weight, eps=eps))


# -- over groups of channels ------------------------------------------------------------------------------------------------


@promoting(to_floating)
def _group_normalized(x: Spec, weight: Spec, bias: Spec, *, groups: int, eps: float = 1e-5) -> tuple[Spec, Attrs]:
    if x.ndim < 2 or weight.shape != x.shape[-1:] or bias.shape != weight.shape:
        raise ShapeError(f"weight and bias need the shape {list(x.shape[-1:])} of x's last axis, of two or more")
    count = normalize_integer("groups", groups)
    if count < 1 or x.shape[-1] % count:
        raise ShapeError(f"{x.shape[-1]} channels do not make {count} groups")
    return x, {"groups": count, "eps": eps}


@promoting(to_floating)
def _group_normalized_gradient(
    g: Spec, x: Spec, weight: Spec, *, groups: int, eps: float = 1e-5
) -> tuple[tuple[Spec, ...], Attrs]:
    return (x, weight, weight), _group_normalized(x, weight, weight, groups=groups, eps=eps)[1]


@composite(_group_normalized_gradient)
def group_norm_grad(g: Tensor, x: Tensor, weight: Tensor, *, groups: int, eps: float = 1e-5) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of group_norm for x, weight and bias."""
    h, deviation = _standard(_grouped(x, groups), (1, 3), eps)
    by_x = _unstandardize(_grouped(g * weight, groups), h, deviation, (1, 3)).reshape(x.shape)
    return by_x, sum(g * h.reshape(x.shape), axes=_but_last(x)), sum(g, axes=_but_last(x))


@composite(_group_normalized)
def group_norm(x: Tensor, weight: Tensor, bias: Tensor, *, groups: int, eps: float = 1e-5) -> Tensor:
    """In each sample each group of channels shifted and scaled to mean 0 and variance 1, then each channel scaled and shifted.

        y = (x - mean) / sqrt(var + eps) * weight + bias

    Shapes:   x (n, *s, c), weight, bias (c) -> (n, *s, c); a group has c / groups neighbouring channels
    Raises:   ShapeError if the channels do not make so many groups
    Source:   Wu & He 2018, arXiv:1803.08494
    """
    return _standard(_grouped(x, groups), (1, 3), eps)[0].reshape(x.shape) * weight + bias


group_norm.vjp_joint(lambda g, y, x, weight, bias, groups, eps: group_norm_grad(g, x, weight, groups=groups, eps=eps))


@promoting(to_floating)
def _instance_normalized(x: Spec, weight: Spec, bias: Spec, *, eps: float = 1e-5) -> tuple[Spec, Attrs]:
    return _group_normalized(x, weight, bias, groups=x.shape[-1] or 1 if x.ndim else 1, eps=eps)[0], {"eps": eps}


@composite(_instance_normalized)
def instance_norm(x: Tensor, weight: Tensor, bias: Tensor, *, eps: float = 1e-5) -> Tensor:
    """In each sample each channel shifted and scaled to mean 0 and variance 1, then scaled and shifted: groups of one channel.

    Shapes:   x (n, *s, c), weight, bias (c) -> (n, *s, c)
    Source:   Ulyanov, Vedaldi & Lempitsky 2016, arXiv:1607.08022
    """
    return group_norm(x, weight, bias, groups=x.shape[-1] or 1, eps=eps)


# -- without a mean ---------------------------------------------------------------------------------------------------------


@promoting(to_floating)
def _rms_normalized(x: Spec, weight: Spec, *, eps: float = 1e-5) -> tuple[Spec, Attrs]:
    if not weight.ndim or x.shape[-weight.ndim :] != weight.shape:
        raise ShapeError(f"weight needs the shape of x's last axes, not {list(weight.shape)}")
    return x, {"eps": eps}


@promoting(to_floating)
def _rms_normalized_gradient(g: Spec, x: Spec, weight: Spec, *, eps: float = 1e-5) -> tuple[tuple[Spec, Spec], Attrs]:
    return (x, weight), {"eps": eps}


@composite(_rms_normalized_gradient)
def rms_norm_grad(g: Tensor, x: Tensor, weight: Tensor, *, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """The gradients of rms_norm for x and weight."""
    axes, z = _last(x, weight), g * weight
    r = _by_root_mean_square(x, axes, eps)
    h = x * r
    return (z - h * mean(z * h, axes=axes, keepdims=True)) * r, sum(g * h, axes=tuple(range(x.ndim - weight.ndim)))


@composite(_rms_normalized)
def rms_norm(x: Tensor, weight: Tensor, *, eps: float = 1e-5) -> Tensor:
    """Each sample scaled to a mean square of 1 over its last axes, then scaled by weight.

        y = x / sqrt(mean(x^2) + eps) * weight

    Shapes:   x (*s, *d), weight (*d) -> (*s, *d)
    Source:   Zhang & Sennrich 2019, arXiv:1910.07467
    """
    return x * _by_root_mean_square(x, _last(x, weight), eps) * weight


rms_norm.vjp_joint(lambda g, y, x, weight, eps: rms_norm_grad(g, x, weight, eps=eps))


# -- what they share --------------------------------------------------------------------------------------------------------


def _grouped(x: Tensor, groups: int) -> Tensor:
    """(n, *s, c) -> (n, product of s, groups, c / groups)."""
    return x.reshape(x.shape[0], math.prod(x.shape[1:-1]), groups, x.shape[-1] // groups)


def _by_root_mean_square(x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    wide = x.astype(_statistical(x.dtype))
    return rsqrt(mean(wide * wide, axes=axes, keepdims=True) + eps).astype(x.dtype)


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
