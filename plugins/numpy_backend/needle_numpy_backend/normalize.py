"""Kernels of softmax and the normalisations."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Axes = tuple[int, ...]


def softmax(x: Array, *, axes: Axes) -> Array:
    if not x.size:
        return x
    wide = x.astype(np.float32) if x.dtype.itemsize == 2 else x
    y = wide - wide.max(axes, keepdims=True)
    np.exp(y, out=y)
    y /= y.sum(axes, keepdims=True)
    return y.astype(x.dtype, copy=False)
