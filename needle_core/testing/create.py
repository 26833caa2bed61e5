"""Declarations of ranges, triangles and random numbers."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np

from needle_core.errors import DtypeError, ShapeError
from needle_core.testing.samples import COMPLEX, HERE, Array, Input, always, declare, index, real, refuses, sample

_FACTORS, _WEYL, _LOW = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85), 0xFFFFFFFF
_inverse_normal = np.vectorize(NormalDist().inv_cdf, otypes=[np.float64])


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """One block of Philox4x32-10, in Python's integers, as Salmon, Moraes, Dror & Shaw 2011 define it."""
    a, b, c, d = counter
    k, m = key
    for _ in range(10):
        left, right = _FACTORS[0] * a, _FACTORS[1] * c
        a, b, c, d = (right >> 32) ^ b ^ k, right & _LOW, (left >> 32) ^ d ^ m, left & _LOW
        k, m = (k + _WEYL[0]) & _LOW, (m + _WEYL[1]) & _LOW
    return a, b, c, d


def words(state: Array, n: int) -> list[int]:
    """The first n words for a state (seed, position)."""
    seed, position = (int(v) for v in state)
    key, place = (seed & _LOW, seed >> 32 & _LOW), (position & _LOW, position >> 32 & _LOW)
    blocks = [philox((i & _LOW, i >> 32, *place), key) for i in range(-(-n // 4))]
    return [w for block in blocks for w in block][:n]


def _bits(state: Array, shape: Any) -> Array:
    return np.array(words(state, int(np.prod(shape))), np.int64).reshape(shape)


def _uniform(state: Array, shape: Any, dtype: str = "float32") -> Array:
    if dtype == "float32":
        return np.asarray((_bits(state, shape) >> 8) / 2.0**24)
    high, low = np.moveaxis(_bits(state, (*np.empty(shape).shape, 2)), -1, 0)
    return np.asarray(((high >> 5) * 2**26 + (low >> 6)) / 2.0**53)


def _normal(state: Array, shape: Any, dtype: str = "float32") -> Array:
    return np.asarray(_inverse_normal(np.maximum(_uniform(state, shape, "float64"), 2.0**-54)))


_STATE = Input((2,), 0, 2**62, kind="index")
_SHAPES: list[Any] = [(), (1,), (7,), (2, 3), (0, 2), 5, (33,)]
_STATES = [refuses(ShapeError, "the state of a generator is int64[2]", index(3, below=9), shape=()),
           refuses(ShapeError, "the state of a generator is int64[2]", real(2), shape=())]  # fmt: skip
_HALF = [refuses(DtypeError, "drawn in float32 or float64", _STATE, shape=(), dtype="float16")]
declare(
    "iota",
    lambda n, device: np.arange(n),
    [sample(n=n, device=HERE) for n in (0, 1, 9)],
    dtypes=["float32"],
    result=always("int64"),
)
declare(
    "random_bits",
    _bits,
    [sample(_STATE, shape=s) for s in _SHAPES],
    dtypes=["float32"],
    result=always("int64"),
    refusals=_STATES,
)
declare(
    "random_uniform",
    _uniform,
    [sample(_STATE, shape=s) for s in _SHAPES],
    dtypes=["float32"],
    exact=True,
    refusals=[*_STATES, *_HALF],
)
declare("random_normal", _normal, [sample(_STATE, shape=s) for s in _SHAPES], dtypes=["float32"], refusals=[*_STATES, *_HALF])
declare("one_hot", lambda x, num_classes: (x[..., None] == np.arange(num_classes)) * 1.0, [
    sample(index(below=4), num_classes=4), sample(index(5, low=-1, below=5), num_classes=4),
    sample(index(2, 3, below=3), num_classes=3),
    sample(index(0, below=2), num_classes=2), sample(index(3, below=2), num_classes=0),
], dtypes=["float32"], exact=True, refusals=[refuses(DtypeError, "classes are integers", real(3), num_classes=3)])  # fmt: skip
_MATRICES = [sample(real(*shape), **attrs) for shape in ((3, 3), (2, 4), (4, 2), (2, 3, 3), (0, 3), (2, 0))
             for attrs in ({}, {"k": 1}, {"k": -2})]  # fmt: skip
_FLAT = [refuses(ShapeError, "a triangle needs at least two axes", real(3))]
declare("tril", np.tril, _MATRICES, gradient=COMPLEX, exact=True, refusals=_FLAT)
declare("triu", np.triu, _MATRICES, gradient=COMPLEX, exact=True, refusals=_FLAT)
declare("to_device", lambda x, device: np.copy(x), [sample(real(*s), device=HERE) for s in ((), (3,), (2, 3), (0, 2))],
        gradient=COMPLEX, exact=True, aliases="on one device a copy may be the tensor itself")  # fmt: skip
