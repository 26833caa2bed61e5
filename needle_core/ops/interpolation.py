"""Images in another size."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from needle_core.doors import normalize_integers, promoting, to_floating
from needle_core.errors import ArgumentError, ShapeError, brief
from needle_core.op import composite
from needle_core.ops.create import zeros
from needle_core.ops.index import scatter_add, take
from needle_core.spec import Spec
from needle_core.tensor import Tensor

__all__ = [
    "interpolate", "interpolate_grad",
]  # fmt: skip

Attrs: TypeAlias = dict[str, Any]
Sources: TypeAlias = list[tuple[npt.NDArray[Any], npt.NDArray[Any] | None]]


def sources(n: int, size: int, mode: str, align_corners: bool) -> Sources:
    """Where each of `size` elements comes from along an axis of n: indices and their weights, None for 1; one pair or two."""
    to = np.arange(size)
    if mode == "nearest":
        return [(to * n // size, None)]
    place = to * (n - 1) / max(size - 1, 1) if align_corners else np.maximum((to + 0.5) * n / size - 0.5, 0)
    low = place.astype(np.int64)
    high = place - low
    return [(low, 1 - high), (np.minimum(low + 1, n - 1), high)]


def _sizes(x: Spec, size: Any, scale: Any) -> tuple[int, ...]:
    """The size along each spatial axis, from what was given for all or for each."""
    axes = x.ndim - 2
    if axes < 1:
        raise ShapeError(f"images have the axes (n, *s, c), three or more, not {x.ndim}")
    if (size is None) == (scale is None):
        raise ArgumentError("give either a size or a scale", details={"size": size, "scale": scale})
    if size is not None:
        given = normalize_integers("size", size)
        found = given * axes if isinstance(size, int) else given
    else:
        each = (scale,) * axes if isinstance(scale, int | float) else tuple(scale)
        if not all(isinstance(s, int | float) and math.isfinite(s) for s in each):
            raise ArgumentError(f"scale is a number or one for each spatial axis, not {brief(scale)}")
        found = tuple(math.floor(n * s) for n, s in zip(x.shape[1:], each, strict=False))
    if len(found) != axes:
        raise ShapeError(f"{len(found)} sizes for {axes} spatial axes")
    if min(*found, *x.shape[1:-1]) < 1:
        raise ShapeError(f"nothing is between {list(x.shape[1:-1])} and {list(found)} elements")
    return found


def _mode(mode: Any, align_corners: bool, axes: int) -> Attrs:
    if mode not in ("nearest", "linear", "bilinear") or (mode == "bilinear" and axes != 2):
        raise ArgumentError(f"mode is 'nearest', 'linear' or, for two spatial axes, 'bilinear', not {mode!r}")
    if mode == "nearest" and align_corners:
        raise ArgumentError("there are no corners to align where elements are copied", hint="mode='linear'")
    return {"mode": "nearest" if mode == "nearest" else "linear", "align_corners": bool(align_corners)}


@promoting(to_floating)
def _interpolated(
    x: Spec, *, size: Any = None, scale: Any = None, mode: str = "nearest", align_corners: bool = False
) -> tuple[Spec, Attrs]:
    sizes = _sizes(x, size, scale)
    shape = (x.shape[0], *sizes, x.shape[-1])
    return x.like(shape=shape), {"size": sizes, **_mode(mode, align_corners, len(sizes))}


@composite(_interpolated)
def interpolate(
    x: Tensor, *, size: Any = None, scale: Any = None, mode: str = "nearest", align_corners: bool = False
) -> Tensor:
    """Images stretched or shrunk to a `size`, or by a `scale`: then each size is the whole part of n scale.

        y[i] = x[floor(i n / size)]                                  "nearest"
        y[i] = (1 - f) x[p] + f x[min(p + 1, n - 1)]                 "linear" along each axis, "bilinear" for two
        p + f = max((i + 1/2) n / size - 1/2, 0), or i (n - 1) / (size - 1) with align_corners

    Shapes:   x (n, *s, c) -> (n, *size, c); `size` and `scale` are one number for all spatial axes, or one for each
    """
    for axis, n in enumerate(size, 1):
        parts = [
            _weighted(take(x, Tensor(places, device=x.device), axis=axis), weights, axis)
            for places, weights in sources(x.shape[axis], n, mode, align_corners)
        ]
        x = parts[0] if mode == "nearest" else parts[0] + parts[1]
    return x


@promoting(to_floating)
def _interpolated_gradient(g: Spec, *, size: Any, mode: str = "nearest", align_corners: bool = False) -> tuple[Spec, Attrs]:
    return _interpolated(g, size=size, mode=mode, align_corners=align_corners)


@composite(_interpolated_gradient)
def interpolate_grad(g: Tensor, *, size: Any, mode: str = "nearest", align_corners: bool = False) -> Tensor:
    """The gradient of interpolate for images that had the spatial `size`: its adjoint."""
    for axis, n in enumerate(size, 1):
        total = zeros((*g.shape[:axis], n, *g.shape[axis + 1 :]), dtype=g.dtype, device=g.device)
        for places, weights in sources(n, g.shape[axis], mode, align_corners):
            total = scatter_add(total, Tensor(places, device=g.device), _weighted(g, weights, axis), axis=axis)
        g = total
    return g


interpolate.vjp(lambda g, y, x, size, **how: interpolate_grad(g, size=x.shape[1:-1], **how))
interpolate_grad.vjp(lambda g, y, x, size, **how: interpolate(g, size=x.shape[1:-1], **how))


def _weighted(x: Tensor, weights: npt.NDArray[Any] | None, axis: int) -> Tensor:
    """x with each element along an axis multiplied by its weight."""
    if weights is None:
        return x
    return x * Tensor(weights, dtype=x.dtype, device=x.device).reshape(-1, *(1,) * (x.ndim - axis - 1))
