"""Declarations of products and norms."""

from __future__ import annotations

from typing import Any

import numpy as np

from needle_core.errors import DtypeError, ShapeError
from needle_core.testing.reduce import FROM_ZERO, over
from needle_core.testing.samples import (
    COMPLEX,
    DIFFERENCES,
    NUMBERS,
    Array,
    declare,
    floats,
    kink,
    mask,
    real,
    reduced,
    refuses,
    sample,
)


def _norm(x: Array, axis: Any, keepdims: bool, ord: float = 2) -> Array:
    size = np.abs(x)
    if ord == np.inf:
        return np.asarray(size.max(axis=axis, keepdims=keepdims))
    return np.asarray((size**ord).sum(axis=axis, keepdims=keepdims) ** (1 / ord))


def _gemm(a: Array, b: Array, transpose_a: bool = False, transpose_b: bool = False) -> Array:
    return np.asarray(np.einsum(f"...{'ki' if transpose_a else 'ik'},...{'jk' if transpose_b else 'kj'}->...ij", a, b))


declare("matmul", np.matmul, [
    sample(real(3), real(3)), sample(real(2, 3), real(3)), sample(real(3), real(3, 4)), sample(real(2, 3), real(3, 4)),
    sample(real(5, 2, 3), real(3, 2)), sample(real(2, 1, 2, 3), real(3, 3, 2)), sample(real(2, 3), real(4, 3, 2)),
    sample(real(2, 2, 3), real(3)), sample(real(3), real(2, 3, 2)), sample(real(2, 0), real(0, 3)),
    sample(real(0, 2), real(2, 3)),
    sample(real(0), real(0)), sample(real(0, 2, 3), real(3, 1)), sample(real(1, 1), real(1, 1)), sample(real(0, 3), real(3)),
    sample(real(1, 2, 3), real(3, 3, 2)), sample(real(2, 0), real(0)), sample(real(200, low=0), real(200, low=0)),
], gradient=COMPLEX, dtypes=NUMBERS, rounds=1, accumulates=True, either_zero=FROM_ZERO, large=[
    sample(real(2**16 + 1, 2, 3), real(3, 2)), sample(real(2, 2**17 + 3), real(2**17 + 3, 2)),
    sample(real(2**16 + 3, 2), real(2, 3)),
], refusals=[
    refuses(ShapeError, "inner dimensions differ, 3 != 4", real(2, 3), real(4, 3)), refuses(ShapeError, "0-d", real(), real(2)),
    refuses(ShapeError, "hint: a @ b.mT has shape [2, 4]", real(2, 3), real(4, 3)),
    refuses(ShapeError, "shapes do not broadcast", real(2, 2, 3), real(3, 3, 2)),
    refuses(DtypeError, "matrices hold numbers", mask(2, 2), mask(2, 2)),
])  # fmt: skip
declare("gemm", _gemm, [
    sample(real(2, 3), real(3, 4)), sample(real(3, 2), real(3, 4), transpose_a=True),
    sample(real(2, 3), real(4, 3), transpose_b=True), sample(real(3, 2), real(4, 3), transpose_a=True, transpose_b=True),
    sample(real(5, 3, 2), real(3, 4), transpose_a=True), sample(real(2, 1, 2, 3), real(3, 2, 3), transpose_b=True),
    sample(real(0, 2), real(0, 3), transpose_a=True), sample(real(200, 3), real(1, 3), transpose_b=True),
], gradient=COMPLEX, dtypes=NUMBERS, rounds=1, accumulates=True, either_zero=FROM_ZERO, refusals=[
    refuses(ShapeError, "inner dimensions differ, 3 != 4", real(2, 3), real(3, 4), transpose_b=True),
    refuses(ShapeError, "both are matrices", real(3), real(3, 2)), refuses(DtypeError, "", mask(2, 2), mask(2, 2)),
])  # fmt: skip
declare("linear", lambda x, weight, bias: x @ weight + bias, [
    sample(real(3), real(3, 2), real(2)), sample(real(4, 3), real(3, 2), real(2)), sample(real(2, 2, 3), real(3, 4), real(4)),
    sample(real(0, 3), real(3, 2), real(2)), sample(real(2, 0), real(0, 3), real(3)), sample(real(2, 3), real(3, 0), real(0)),
], gradient=COMPLEX, dtypes=NUMBERS, rounds=2, either_zero=FROM_ZERO, refusals=[
    refuses(ShapeError, "", real(2, 3), real(4, 2), real(2)), refuses(ShapeError, "", real(2, 3), real(3, 2), real(3)),
    refuses(ShapeError, "", real(2, 3), real(3), real(3)),
])  # fmt: skip
_AWAY = real(kinks=(0.0,))
declare("vector_norm", over(_norm), [
    *reduced(_AWAY, empty=False), *reduced(_AWAY, empty=False, ord=1), *reduced(_AWAY, empty=False, ord=3),
    sample(real(7, distinct=True, low=0.5, high=4), ord=float("inf")),
    sample(real(2, 3, distinct=True, low=0.5), axis=1, ord=float("inf")),
    sample(real(4, low=0.3), ord=0.5),
], gradient=DIFFERENCES, result=floats, rounds=16, kinks=[kink([0.0, 0.0], gives=[[0.0, 0.0]])],
    refusals=[refuses(ShapeError, "out of range", real(2), axis=1)])  # fmt: skip
