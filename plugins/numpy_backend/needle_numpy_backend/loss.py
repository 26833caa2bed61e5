"""Kernels of losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def cross_entropy(x: Array, labels: Array, *, reduction: str) -> Array:
    wide = x.astype(np.float32) if x.dtype.itemsize == 2 else x
    rows, places = wide.reshape(-1, x.shape[-1]), labels.reshape(-1)
    low = rows - rows.max(1, keepdims=True)
    named = low[np.arange(len(places)), places]
    losses = np.log(np.exp(low, out=low).sum(1)) - named
    if reduction == "none":
        return losses.reshape(labels.shape).astype(x.dtype, copy=False)
    total = losses.sum()
    if reduction == "mean":
        total = total / total.dtype.type(len(places))
    return np.asarray(total, x.dtype)


def cross_entropy_grad(g: Array, x: Array, labels: Array, *, reduction: str) -> Array:
    wide = x.astype(np.float32) if x.dtype.itemsize == 2 else x
    rows, places = wide.reshape(-1, x.shape[-1]), labels.reshape(-1)
    y = rows - rows.max(1, keepdims=True)
    np.exp(y, out=y)
    y /= y.sum(1, keepdims=True)
    y[np.arange(len(places)), places] -= 1
    y *= g.reshape(-1, 1) if reduction == "none" else g / max(len(places), 1) if reduction == "mean" else g
    return y.reshape(x.shape).astype(x.dtype, copy=False)
