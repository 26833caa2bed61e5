"""Kernels of matrix products."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def matmul(a: Array, b: Array) -> Array:
    if a.dtype.itemsize == 2:  # half precision accumulates in float32
        return np.asarray(matmul(a.astype(np.float32), b.astype(np.float32))).astype(a.dtype)
    if a.ndim > 2 and b.ndim == 2 and a.size and a.flags.c_contiguous:  # as one product, which threads can share
        return np.matmul(a.reshape(-1, a.shape[-1]), b).reshape(*a.shape[:-1], b.shape[-1])
    return np.matmul(a, b, out=...)


def gemm(a: Array, b: Array, *, transpose_a: bool, transpose_b: bool) -> Array:
    return matmul(a.swapaxes(-1, -2) if transpose_a else a, b.swapaxes(-1, -2) if transpose_b else b)


def linear(x: Array, weight: Array, bias: Array) -> Array:
    y = matmul(x, weight)
    y += bias
    return y
