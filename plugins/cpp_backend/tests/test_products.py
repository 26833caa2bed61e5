"""Matrix products of the sizes at which our own loops and oneDNN take turns are right in every form."""

from __future__ import annotations

import numpy as np
import pytest

import needle_core as ndl

SIZES = [
    (40, 50, 60),
    (33, 32, 95),
    (250, 100, 50),
    (250, 50, 100),
    (784, 250, 100),
    (256, 100, 10),
    (300, 300, 40),
    (8, 500, 700),
]


@pytest.mark.parametrize(("m", "k", "n"), SIZES)
@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("transpose_b", [False, True])
def test_products_are_within_their_bound_whoever_computes_them(
    m: int, k: int, n: int, transpose_a: bool, transpose_b: bool
) -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(k, m) if transpose_a else (m, k)).astype(np.float32)
    b = rng.normal(size=(n, k) if transpose_b else (k, n)).astype(np.float32)
    wide = [x.astype(np.float64).T if turned else x.astype(np.float64) for x, turned in ((a, transpose_a), (b, transpose_b))]
    bound = k * np.finfo(np.float32).eps * (abs(wide[0]) @ abs(wide[1]))
    for threads in (1, 2, 3):
        ndl.set_num_threads(threads)
        y = ndl.gemm(ndl.Tensor(a), ndl.Tensor(b), transpose_a=transpose_a, transpose_b=transpose_b).numpy()
        assert (abs(y - wide[0] @ wide[1]) <= bound).all()
