"""Declarations of the family interpolation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from needle_core.errors import ArgumentError, ShapeError
from needle_core.testing.reduce import FROM_ZERO
from needle_core.testing.samples import COMPLEX, Array, declare, floats, real, refuses, sample


def _sizes(x: Array, size: Any, scale: Any) -> tuple[int, ...]:
    axes = x.ndim - 2
    given = np.broadcast_to(size if scale is None else scale, (axes,)).tolist()
    return tuple(given) if scale is None else tuple(int(n * s) for n, s in zip(x.shape[1:-1], given, strict=True))


def _taps(n: int, size: int, mode: str, align_corners: bool) -> list[tuple[int, int, float]]:
    """Which element of the result takes which of the input, with what weight: a hat of width 1, and 1 beyond the last."""
    found = []
    for i in range(size):
        if mode == "nearest":
            found.append((i, i * n // size, 1.0))
            continue
        place = (i * (n - 1) / max(size - 1, 1)) if align_corners else max((i + 0.5) * n / size - 0.5, 0.0)
        for k in range(n):
            if abs(place - k) <= 1 and k in (math.floor(place), math.floor(place) + 1):
                found.append((i, k, 1 - abs(place - k) if place < n - 1 else 1.0))
    return found


def _mapped(x: Array, to: tuple[int, ...], mode: str, align_corners: bool, *, adjoint: bool) -> Array:
    if 0 in x.shape[1:-1]:
        raise ValueError("nothing comes from nothing")
    for axis, size in enumerate(to, 1):
        before = np.moveaxis(x, axis, 0)
        after = np.zeros((size, *before.shape[1:]), x.dtype)
        for i, k, weight in _taps(*((size, len(before)) if adjoint else (len(before), size)), mode, align_corners):
            if adjoint:
                after[k] += weight * before[i]
            else:
                after[i] += weight * before[k]
        x = np.moveaxis(after, 0, axis)
    return x


def _interpolate(x: Array, size: Any = None, scale: Any = None, mode: str = "nearest", align_corners: bool = False) -> Array:
    return _mapped(x, _sizes(x, size, scale), mode, align_corners, adjoint=False)


def _interpolate_grad(g: Array, size: Any, mode: str = "nearest", align_corners: bool = False) -> Array:
    return _mapped(g, _sizes(g, size, None), mode, align_corners, adjoint=True)


_SAMPLES: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((1, 3, 1), {"size": 7}), ((2, 5, 2), {"size": 3, "mode": "linear"}), ((1, 4, 2), {"size": (4,), "mode": "linear"}),
    ((1, 1, 2), {"size": 3, "mode": "linear"}), ((1, 4, 1), {"size": 1, "mode": "linear", "align_corners": True}),
    ((2, 3, 2, 1), {"size": (5, 4)}), ((1, 3, 2, 2), {"size": (5, 4), "mode": "bilinear"}),
    ((1, 2, 3, 1), {"size": 4, "mode": "bilinear", "align_corners": True}), ((1, 4, 4, 1), {"size": (2, 3), "mode": "linear"}),
    ((0, 2, 2, 1), {"size": 3, "mode": "bilinear"}), ((1, 2, 2, 2, 1), {"size": 3, "mode": "linear"}),
]  # fmt: skip
_ROUNDED: dict[str, Any] = {"gradient": COMPLEX, "result": floats, "rounds": 8, "terms": 8,
                            "either_zero": FROM_ZERO, "lax": "an infinity times a weight of 0 is nan"}  # fmt: skip
_MODES = [
    refuses(ArgumentError, "mode is 'nearest', 'linear' or", real(1, 2, 2, 1), size=3, mode="cubic"),
    refuses(ArgumentError, "for two spatial axes", real(1, 2, 1), size=3, mode="bilinear"),
    refuses(ArgumentError, "no corners to align", real(1, 2, 1), size=3, align_corners=True),
    refuses(ShapeError, "(n, *s, c)", real(2, 3), size=3),
    refuses(ShapeError, "3 sizes for 2 spatial axes", real(1, 2, 2, 1), size=(1, 2, 3)),
    refuses(ShapeError, "nothing is between [2] and [0]", real(1, 2, 1), size=0),
    refuses(ShapeError, "nothing is between [0] and [2]", real(1, 0, 1), size=2),
    refuses(ArgumentError, "size is an integer", real(1, 2, 1), size=1.5),
]  # fmt: skip
declare("interpolate", _interpolate, [
    *(sample(real(*shape), **attrs) for shape, attrs in _SAMPLES),
    sample(real(1, 3, 2, 2), scale=2), sample(real(1, 3, 4, 1), scale=(1.5, 0.5), mode="bilinear"),
], refusals=[
    *_MODES,
    refuses(ArgumentError, "either a size or a scale", real(1, 2, 1)),
    refuses(ArgumentError, "either a size or a scale", real(1, 2, 1), size=2, scale=2),
    refuses(ArgumentError, "scale is a number", real(1, 2, 2, 1), scale=(2, "2")),
    refuses(ShapeError, "nothing is between [2] and [0]", real(1, 2, 1), scale=0.3),
], **_ROUNDED)  # fmt: skip
declare("interpolate_grad", _interpolate_grad, [sample(real(*shape), **attrs) for shape, attrs in _SAMPLES],
        refusals=_MODES, **_ROUNDED)  # fmt: skip
