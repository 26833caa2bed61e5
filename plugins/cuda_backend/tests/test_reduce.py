"""Running sums, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from needle_core.spec import DTYPES
from needle_cuda_backend.reduce import cumsum

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("dtype", ["int64", "float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("fixed", [False, True])
def test_cumsum_of_lines_near_and_far(simulated: Any, case: Any, dtype: str, fixed: bool) -> None:
    """Of small integers, whose sums are exact in float32 and rounded once."""
    cases, expected = [], []
    shapes: list[Any] = [((1,), 0), ((33,), 0), ((2, 3000), 1), ((3, 70, 5), 1), ((2, 9, 40), 1), ((0, 3), 1), ((3, 0), 1)]
    for shape, axis in shapes:
        x = RNG.integers(-4, 5, shape).astype(DTYPES[dtype].numpy)
        cases.append(case(cumsum, [x], {"axis": axis}, fixed=fixed))
        wide = np.int64 if dtype == "int64" else np.float64
        expected.append(np.cumsum(x.astype(wide), axis).astype(x.dtype))
    for (y,), z in zip(simulated.results(cases), expected, strict=True):
        np.testing.assert_array_equal(y, z)


def test_cumsum_of_infinity_and_nan(simulated: Any, case: Any) -> None:
    x = np.array([1, np.inf, 2, -np.inf, 3], np.float32)
    ((y,),) = simulated.results([case(cumsum, [x], {"axis": 0})])
    np.testing.assert_array_equal(y, np.array([1, np.inf, np.inf, np.nan, np.nan], np.float32))


def test_integers_wrap(simulated: Any, case: Any) -> None:
    x = np.full(40, 2**62)
    ((y,),) = simulated.results([case(cumsum, [x], {"axis": 0})])
    np.testing.assert_array_equal(y, np.cumsum(x))


def test_places_among_very_many_elements(simulated: Any, case: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("needle_cuda_backend.reduce.is_large", lambda *_: True)
    test_cumsum_of_lines_near_and_far(simulated, case, "float32", False)
