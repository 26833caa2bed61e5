"""Kernels of activations."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from needle_numpy_backend.blocks import blocks, blockwise
from needle_numpy_backend.elementary import erf
from needle_numpy_backend.elementwise import where

Array = npt.NDArray[Any]

_SLOPE: Final = math.sqrt(2 / math.pi)  # of what stands in the tanh of gelu, at 0, and of erf(z / sqrt 2)
_CUBIC: Final = 0.044715 * _SLOPE


def relu(x: Array) -> Array:
    return np.maximum(x, x.dtype.type(0), out=...)


def relu_grad(g: Array, y: Array) -> Array:
    return where(y > 0, g, np.zeros((), g.dtype))


@blockwise
def sigmoid(x: Array) -> Array:
    z = _wide(x)
    e = np.exp(-np.abs(z))
    e += 1
    y = np.exp(np.minimum(z, 0))  # e, or 1 where x is positive
    y /= e
    return y.astype(x.dtype, copy=False)


@blockwise
def silu(x: Array) -> Array:
    z = _wide(x)
    return np.multiply(z, sigmoid(z), out=...).astype(x.dtype, copy=False)


@blockwise
def silu_grad(g: Array, x: Array) -> Array:
    z = _wide(x)
    s = sigmoid(z)
    d = 1 - s
    d *= np.clip(z, -1e4, 1e4)
    d += 1
    d *= s
    return np.multiply(g, d, out=...).astype(x.dtype, copy=False)


@blockwise
def gelu(x: Array, *, approximate: str) -> Array:
    z = _wide(x)
    y = _share(z, z * z, approximate)
    y *= z
    return y.astype(x.dtype, copy=False)


@blockwise
def gelu_grad(g: Array, x: Array, *, approximate: str) -> Array:
    slope = np.empty(x.shape, np.promote_types(x.dtype, np.float32))
    _gelu_parts(x, slope, approximate)
    return _gelu_grad(slope, g, approximate=approximate)


def _gelu(x: Array, *, approximate: str) -> tuple[Array, Array]:
    """The op, and its derivative."""
    y, slope = np.empty(x.shape, x.dtype), np.empty(x.shape, np.promote_types(x.dtype, np.float32))
    flat = [a.reshape(-1) for a in (x, y, slope)]
    for block in blocks(x.size):
        part, out, out_slope = (a[block] for a in flat)
        np.multiply(_gelu_parts(part, out_slope, approximate), _wide(part), out=out, casting="unsafe")
    return y, slope


def _gelu_grad(slope: Array, g: Array, *, approximate: str) -> Array:
    """The gradient, given the derivative, which it takes the place of if it has its shape."""
    return np.multiply(g, slope, out=slope if g.shape == slope.shape else ...).astype(g.dtype, copy=False)


def _gelu_parts(x: Array, slope: Array, approximate: str) -> Array:
    """The share of x that gelu lets pass; its derivative goes into `slope`."""
    z = np.clip(_wide(x), -40, 40)  # neither of them changes any more beyond
    squares = z * z
    share = _share(z, squares, approximate)
    if approximate == "tanh":
        squares *= 6 * _CUBIC
        squares += 2 * _SLOPE
        np.subtract(1, share, out=slope)
        slope *= share
        slope *= squares
    else:
        squares *= -0.5
        np.exp(squares, out=slope)
        slope *= _SLOPE / 2
    slope *= z
    slope += share
    return share


def _share(z: Array, squares: Array, approximate: str) -> Array:
    """Phi(z), the share of a normal distribution that is less than z, or its approximation."""
    if approximate == "tanh":
        y = squares * _CUBIC
        y += _SLOPE
        y *= z
        np.tanh(y, out=y)
    else:
        y = erf(z * math.sqrt(0.5))
    y += 1
    y *= 0.5
    return y


def _wide(x: Array) -> Array:
    """`x` in the dtype to compute in: float32 for half precision."""
    return x.astype(np.float32) if x.dtype.itemsize == 2 else x
