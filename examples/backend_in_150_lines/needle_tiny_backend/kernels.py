"""A kernel for each primitive, under its name: arrays and attributes as the op's front door passes them on, array out.

What NumPy has under the same signature stands here as it is. Kernels check nothing and convert nothing: shapes, dtypes and
axes have been worked out by then. The docstrings in needle_core/ops say what each must compute.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from needle_core.spec import Device, DType

Array = Any  # of NumPy, whose functions are mostly typed as Any

add, subtract, multiply, divide, pow = np.add, np.subtract, np.multiply, np.divide, np.power
floor_divide, remainder, maximum, minimum = np.floor_divide, np.remainder, np.maximum, np.minimum
negative, abs, floor, round, equal, less = np.negative, np.abs, np.floor, np.round, np.equal, np.less
exp, log, sqrt, sin, cos, tanh, atan2 = np.exp, np.log, np.sqrt, np.sin, np.cos, np.tanh, np.arctan2
reshape, permute_dims, broadcast_to = np.reshape, np.transpose, np.broadcast_to
where, take, cumsum, matmul = np.where, np.take, np.cumsum, np.matmul
erf = np.frompyfunc(math.erf, 1, 1)


def _over_axes(function: Any) -> Any:
    return lambda x, *, axes, **attrs: function(x, axis=axes, **attrs)


sum, prod, max, min, flip = (_over_axes(f) for f in (np.sum, np.prod, np.max, np.min, np.flip))


def astype(x: Array, *, dtype: DType) -> Array:
    return x.astype(dtype.numpy)


def iota(*, n: int, device: Device) -> Array:
    return np.arange(n)


def concat(*arrays: Array, axis: int) -> Array:
    return np.concatenate(arrays, axis)


def strided_slice(x: Array, *, start: tuple[int, ...], stop: tuple[int, ...], step: tuple[int, ...]) -> Array:
    return x[tuple(map(slice, start, stop, step))]


def pad(x: Array, *, width: tuple[tuple[int, int], ...], value: float, dilation: tuple[int, ...]) -> Array:
    ends = [a + (n - 1) * d + 1 if n else a for (a, _), n, d in zip(width, x.shape, dilation, strict=True)]
    y = np.full([end + b for (_, b), end in zip(width, ends, strict=True)], value, x.dtype)
    y[tuple(slice(a, end, d) for (a, _), end, d in zip(width, ends, dilation, strict=True))] = x
    return y


def scatter_add(x: Array, indices: Array, updates: Array, *, axis: int) -> Array:
    y = x.copy()
    place: Any = (slice(None),) * axis + (indices,)
    np.add.at(y, place, updates)
    return y


def argsort(x: Array, *, axis: int, descending: bool) -> Array:
    if not descending:
        return np.argsort(x, axis, kind="stable")
    backwards = np.argsort(np.flip(x, axis), axis, kind="stable")  # so that equal elements keep their order
    return np.flip(x.shape[axis] - 1 - backwards, axis)


def random_bits(state: Array, *, shape: tuple[int, ...]) -> Array:
    """Philox4x32-10, the counters of all blocks side by side: multiply, change places, mix with the key, ten times."""
    (seed, position), n, low = map(int, state), math.prod(shape), 0xFFFFFFFF
    block: Array = np.arange(-(-n // 4), dtype=np.uint64)
    a, b, c, d = block & low, block >> 32, block * 0 + (position & low), position >> 32 & low
    for i in range(10):
        p, q = a * 0xD2511F53, c * 0xCD9E8D57
        left, right = seed + i * 0x9E3779B9 & low, (seed >> 32) + i * 0xBB67AE85 & low
        a, b, c, d = q >> 32 ^ b ^ left, q & low, p >> 32 ^ d ^ right, p & low
    return np.stack([a, b, c, d], -1).reshape(-1)[:n].reshape(shape)
