"""Eager calls that copy nothing: what they give is a view of the operand. Tensors are never written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Sizes = tuple[int, ...]


def _reshape(x: Array, *, shape: Sizes) -> Array:
    return x.reshape(shape)


def _permute_dims(x: Array, *, axes: Sizes) -> Array:
    return x.transpose(axes)


def _broadcast_to(x: Array, *, shape: Sizes) -> Array:
    return np.broadcast_to(x, shape)


def _expand_as(x: Array, like: Array) -> Array:
    return np.broadcast_to(x, like.shape)


def _strided_slice(x: Array, *, start: Sizes, stop: Sizes, step: Sizes) -> Array:
    key: Any = (..., *map(slice, start, stop, step))  # ... keeps a 0-d array an array
    y: Array = x[key]
    return y


def _flip(x: Array, *, axes: Sizes) -> Array:
    key: Any = (..., *(slice(None, None, -1 if i in axes else 1) for i in range(x.ndim)))
    y: Array = x[key]
    return y


VIEWS: Final[Mapping[str, Callable[..., Array]]] = {
    "reshape": _reshape,
    "permute_dims": _permute_dims,
    "broadcast_to": _broadcast_to,
    "expand_as": _expand_as,
    "strided_slice": _strided_slice,
    "flip": _flip,
}
"""What takes the place of a kernel in an eager call."""
