"""Kernels that make tensors from nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from needle_core.spec import Device, DType

Array = npt.NDArray[Any]
Words = npt.NDArray[np.uint32]


def iota(*, n: int, device: Device) -> Array:
    return np.arange(n)


def random_bits(state: Array, *, shape: tuple[int, ...]) -> Array:
    return _words(state, math.prod(shape)).astype(np.int64).reshape(shape)


def random_uniform(state: Array, *, shape: tuple[int, ...], dtype: DType) -> Array:
    if dtype.itemsize == 4:
        words = _words(state, math.prod(shape))
        words >>= 8
        return np.multiply(words, np.float32(2.0**-24), dtype=np.float32).reshape(shape)
    pairs = _words(state, 2 * math.prod(shape)).reshape(-1, 2).astype(np.uint64)
    return (((pairs[:, 0] >> 5 << 26) | pairs[:, 1] >> 6) * 2.0**-53).reshape(shape)


def _words(state: Array, n: int) -> Words:
    """The first n words of Philox4x32-10 for a state (seed, position). The steps of all blocks go side by side.

    A block's four words are the rows of two arrays: words 0 and 2 are multiplied, words 1 and 3 are mixed into the products.
    """
    seed, position = (int(v) for v in state)
    blocks = -(-n // 4)
    multiplied = np.empty((2, blocks), np.uint64)
    multiplied[0] = np.arange(blocks, dtype=np.uint64) & _LOW
    multiplied[1] = position & 0xFFFFFFFF
    mixed = np.empty((2, blocks), np.uint64)
    mixed[0] = np.arange(blocks, dtype=np.uint64) >> _32
    mixed[1] = position >> 32 & 0xFFFFFFFF
    low, high = seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF
    key = np.array([[low], [high]], np.uint64)
    for _ in range(10):
        product = multiplied * _FACTORS  # 32 x 32 bits: none is lost
        mixed ^= (product >> _32)[::-1]
        mixed ^= key
        multiplied, mixed = mixed, product[::-1] & _LOW
        key = (key + _WEYL) & _LOW
    out = np.empty((blocks, 4), np.uint32)
    out[:, 0::2] = multiplied.T
    out[:, 1::2] = mixed.T
    return out.reshape(-1)[:n]


_LOW, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)
_FACTORS = np.array([[0xD2511F53], [0xCD9E8D57]], np.uint64)
_WEYL = np.array([[0x9E3779B9], [0xBB67AE85]], np.uint64)
