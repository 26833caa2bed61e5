"""Pooling, against what NumPy makes of each window."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from needle_core.spec import DTYPES, Device
from needle_cuda_backend.pooling import avg_pool, avg_pool_grad, max_pool, max_pool_grad

RNG = np.random.default_rng(0)
EPS = {"float16": 2**-11, "bfloat16": 2**-8, "float32": 2**-23, "float64": 2**-52}
FORMS: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((2, 9, 3), {"size": 3, "stride": 2, "padding": 1}),
    ((2, 6, 4, 8), {"size": 2}),
    ((1, 7, 8, 5), {"size": (3, 2), "stride": (1, 2), "padding": ((1, 0), (0, 1)), "dilation": (2, 1)}),
    ((2, 4, 4, 1), {"size": 4}),
    ((1, 3, 5, 4, 2), {"size": 2, "stride": (1, 2, 3), "padding": 1}),
    ((0, 4, 3), {"size": 2}),
    ((1, 8, 2), {"size": 2, "stride": 3}),
    ((2, 5, 7, 8), {"size": 3, "stride": 1, "padding": ((2, 1), (0, 2))}),
    ((1, 9, 6, 4), {"size": (2, 3), "stride": (3, 1), "dilation": (2, 2)}),
]
LARGE: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((2, 6, 5, 3), {"size": (6, 5)}),
    ((1, 7, 6, 4), {"size": 5, "stride": 1, "padding": 2}),
    ((1, 40, 2), {"size": 17, "stride": 18, "padding": ((3, 0),)}),
    ((1, 5, 4, 6, 1), {"size": 3, "stride": 2, "padding": 1}),
]
"""With more elements to a window than a thread loads."""


def _windows(x: Any, attrs: dict[str, Any]) -> Any:
    """For each place of the window, in canonical attributes, the places in the image that are inside."""
    s = x.shape[1:-1]
    for place in np.ndindex(*_places(x.shape, attrs)):
        starts = [p * step - before for p, step, (before, _) in zip(place, attrs["stride"], attrs["padding"], strict=True)]
        axes = [[a + k * d for k in range(n)] for a, n, d in zip(starts, attrs["size"], attrs["dilation"], strict=True)]
        yield place, [at for at in product(*axes) if all(0 <= i < n for i, n in zip(at, s, strict=True))]


def _places(shape: Any, attrs: dict[str, Any]) -> list[int]:
    sides = zip(shape[1:-1], attrs["size"], attrs["stride"], attrs["padding"], attrs["dilation"], strict=True)
    return [(n + sum(p) - (k - 1) * d - 1) // step + 1 for n, k, step, p, d in sides]


def _expected(x: Any, g: Any, attrs: dict[str, Any], count_padding: bool) -> tuple[Any, ...]:
    y, by_max, mean, by_mean = np.zeros(g.shape), np.zeros(x.shape), np.zeros(g.shape), np.zeros(x.shape)
    for place, inside in _windows(x, attrs):
        here = (slice(None), *place)
        values = np.stack([x[:, *at] for at in inside])
        y[here] = values.max(0)
        held = values == y[here]
        count = np.prod(attrs["size"]) if count_padding else len(inside)
        mean[here] = values.sum(0) / count
        with np.errstate(all="ignore"):
            for at, one in zip(inside, held, strict=True):
                by_max[:, *at] += one * (g[here] / held.sum(0))
                by_mean[:, *at] += g[here] / count
    return y, by_max, mean, by_mean


@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("forms", [FORMS, LARGE], ids=["small", "large"])
def test_pooling_and_its_gradients(simulated: Any, case: Any, cuda: Device, forms: Any, dtype: str, fixed: bool) -> None:
    """Elements are often equal, and share the gradient of a maximum."""
    cases, expected = [], []
    how = {"fixed": fixed, "on": cuda}
    for i, (shape, attrs) in enumerate(forms):
        x = RNG.integers(-2, 3, shape).astype(DTYPES[dtype].numpy)
        canonical = case(max_pool, [x], attrs).call().attrs
        g = RNG.normal(size=(shape[0], *_places(shape, canonical), shape[-1])).astype(x.dtype)
        count = {"count_include_pad": i % 2 == 0}
        cases += [
            case(max_pool, [x], attrs, **how),
            case(max_pool_grad, [g, x], attrs, **how),
            case(avg_pool, [x], {**attrs, **count}, **how),
            case(avg_pool_grad, [g], {**attrs, **count, "shape": shape[1:-1]}, **how),
        ]
        expected += _expected(x.astype(np.float64), g.astype(np.float64), canonical, i % 2 == 0)
    for (y,), z in zip(simulated.results(cases), expected, strict=True):
        np.testing.assert_allclose(y.astype(np.float64), z, rtol=8 * EPS[dtype], atol=16 * EPS[dtype])


@pytest.mark.parametrize("stride", [1, 2])
def test_nan_is_the_greatest_and_spreads_in_the_gradient(simulated: Any, case: Any, stride: int) -> None:
    x = np.array([1, np.nan, 3, 4, 5, 6], np.float32).reshape(1, 6, 1)
    g = np.ones((1, 5 if stride == 1 else 3, 1), np.float32)
    attrs = {"size": 2, "stride": stride}
    (y,), (dx,) = simulated.results([case(max_pool, [x], attrs), case(max_pool_grad, [g, x], attrs)])
    with np.errstate(all="ignore"):
        canonical = case(max_pool, [x], attrs).call().attrs
        z, by_max, _, _ = _expected(x.astype(np.float64), g.astype(np.float64), canonical, True)
    np.testing.assert_array_equal(y, z)
    np.testing.assert_array_equal(dx, by_max)
