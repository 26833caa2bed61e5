"""Tensors of the same values that lie differently in memory, made with view ops; what lies between the elements is garbage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

import needle_core as ndl
from needle_core.testing.samples import Array


def _contiguous(x: Array) -> ndl.Tensor:
    return ndl.Tensor(x)


def _transposed(x: Array) -> ndl.Tensor:
    """Strides in the order of Fortran."""
    return ndl.Tensor(x.T).T


def _stepped(x: Array) -> ndl.Tensor:
    """Every second element, from the second: strides of two elements and an offset."""
    wide = np.full([2 * n + 1 for n in x.shape] or [3], _garbage(x.dtype))
    if not x.ndim:
        wide[1] = x
        return ndl.Tensor(wide)[1]
    every_second = (slice(1, None, 2),) * x.ndim
    wide[every_second] = x
    return ndl.Tensor(wide)[every_second]


def _padded(x: Array) -> ndl.Tensor:
    """Rows with a gap after each, as in an aligned image."""
    rows = x.reshape(-1, 1) if x.ndim < 2 else x
    wide = np.full((*rows.shape[:-1], rows.shape[-1] + 3), _garbage(x.dtype))
    wide[..., : rows.shape[-1]] = rows
    view = ndl.Tensor(wide)[..., : rows.shape[-1]]
    return view[..., 0] if x.ndim == 1 else view[0, 0] if not x.ndim else view


def _flipped(x: Array) -> ndl.Tensor:
    """Negative strides."""
    return ndl.Tensor(np.flip(x))[(slice(None, None, -1),) * x.ndim]


def _repeated(x: Array) -> ndl.Tensor:
    """Zero strides along the first axis: its first element again and again."""
    return ndl.Tensor(x[:1] if x.ndim else x).broadcast_to(x.shape)


def _garbage(dtype: np.dtype[Any]) -> Any:
    return np.array(True if dtype.kind == "b" else 99 if dtype.kind in "iu" else np.nan, dtype)


LAYOUTS: Final[dict[str, Callable[[Array], ndl.Tensor]]] = {
    "contiguous": _contiguous,
    "transposed": _transposed,
    "stepped": _stepped,
    "padded": _padded,
    "flipped": _flipped,
    "repeated": _repeated,
}
"""By name: from values to a tensor. `repeated` alone changes the values, which are then those of the tensor."""
