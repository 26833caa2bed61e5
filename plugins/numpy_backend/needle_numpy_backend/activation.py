"""Kernels of activations."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from needle_numpy_backend.elementwise import where

Array = npt.NDArray[Any]


def relu(x: Array) -> Array:
    return np.maximum(x, x.dtype.type(0), out=...)


def relu_grad(g: Array, y: Array) -> Array:
    return where(y > 0, g, np.zeros((), g.dtype))


def sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.asarray(np.where(x < 0, e, x.dtype.type(1)) / (1 + e))
