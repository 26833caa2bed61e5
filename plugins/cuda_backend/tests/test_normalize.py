"""Softmax and the normalisations, against formulas in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from needle_core.spec import DTYPES
from needle_cuda_backend.normalize import (
    batch_statistics,
    layer_norm,
    layer_norm_grad,
    log_softmax,
    rms_norm,
    rms_norm_grad,
    softmax,
    softmax_grad,
)

RNG = np.random.default_rng(0)
EPS = {"float16": 2**-11, "bfloat16": 2**-8, "float32": 2**-23, "float64": 2**-52}
SHAPES: list[Any] = [
    ((1,), (0,)),
    ((3, 10, 4), (1,)),
    ((2, 257), (1,)),
    ((2, 20000), (1,)),
    ((3, 4, 6), (0, 2)),
    ((0, 3), (1,)),
]


def _normal(shape: tuple[int, ...], dtype: str) -> Any:
    return RNG.normal(size=shape).astype(DTYPES[dtype].numpy)


def _softmax(x: Any, axes: tuple[int, ...]) -> Any:
    e = np.exp(x - x.max(axes, keepdims=True)) if x.size else x
    return e / e.sum(axes, keepdims=True)


def _close(y: Any, z: Any, dtype: str, scale: float = 1.0) -> None:
    np.testing.assert_allclose(y.astype(np.float64), z, rtol=8 * EPS[dtype], atol=8 * EPS[dtype] * scale)


@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize("fixed", [False, True])
def test_softmax_over_any_axes(simulated: Any, case: Any, dtype: str, fixed: bool) -> None:
    cases, expected = [], []
    for shape, axes in SHAPES:
        x, g = _normal(shape, dtype), _normal(shape, dtype)
        s = _softmax(x.astype(np.float64), axes)
        y = s.astype(x.dtype)
        wide, gw = y.astype(np.float64), g.astype(np.float64)
        attrs = {"axis": axes}
        cases += [
            case(softmax, [x], attrs, fixed=fixed, over={0: 0}),
            case(log_softmax, [x], attrs, fixed=fixed),
            case(softmax_grad, [g, y], attrs, fixed=fixed, over={0: 1}),
        ]
        expected += [s, np.log(s), wide * (gw - (gw * wide).sum(axes, keepdims=True))]
    for (y,), z in zip(simulated.results(cases), expected, strict=True):
        _close(y, z, dtype)


@pytest.mark.parametrize("fixed", [False, True])
def test_softmax_keeps_to_its_limits(simulated: Any, case: Any, fixed: bool) -> None:
    x = np.array([[-np.inf, -np.inf], [1e30, -1e30], [np.nan, 0], [-np.inf, 5]], np.float32)
    one, two = simulated.results([case(f, [x], {"axis": 1}, fixed=fixed) for f in (softmax, log_softmax)])
    np.testing.assert_array_equal(one[0], np.array([[np.nan] * 2, [1, 0], [np.nan] * 2, [0, 1]], np.float32))
    np.testing.assert_array_equal(two[0], np.array([[np.nan] * 2, [0, -2e30], [np.nan] * 2, [-np.inf, 0]], np.float32))


@pytest.mark.parametrize("fixed", [False, True])
def test_softmax_grad_of_broadcast_operands(simulated: Any, case: Any, fixed: bool) -> None:
    g, y = _normal((3, 1, 4), "float32"), _normal((3, 5, 4), "float32")
    ((dx,),) = simulated.results([case(softmax_grad, [np.broadcast_to(g, y.shape), y], {"axis": 1}, fixed=fixed)])
    _close(dx, y * (g - (g.astype(np.float64) * y).sum(1, keepdims=True)), "float32", 10)


@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize("fixed", [False, True])
def test_layer_norm_and_rms_norm_and_their_gradients(simulated: Any, case: Any, dtype: str, fixed: bool) -> None:
    """Of rows shorter and longer than registers hold, and of so many that columns are split into chunks."""
    cases, expected, scales = [], [], []
    for shape, ndim in [
        ((300, 8), 1),
        ((9, 8), 1),
        ((3, 2, 6), 2),
        ((2, 257), 1),
        ((3, 12000), 1),
        ((1, 1), 1),
        ((4,), 1),
        ((0, 4), 1),
    ]:
        x, g = _normal(shape, dtype), _normal(shape, dtype)
        weight, bias = _normal(shape[-ndim:], dtype), _normal(shape[-ndim:], dtype)
        gw, xw, ww, bw = (a.astype(np.float64) for a in (g, x, weight, bias))
        axes, samples = tuple(range(x.ndim - ndim, x.ndim)), tuple(range(x.ndim - ndim))
        scale = 1 / np.sqrt(xw.var(axes, keepdims=True) + 1e-3)
        h = (xw - xw.mean(axes, keepdims=True)) * scale
        z = gw * ww
        dx = (z - z.mean(axes, keepdims=True) - h * (z * h).mean(axes, keepdims=True)) * scale
        cases.append(case(layer_norm, [x, weight, bias], {"eps": 1e-3}, fixed=fixed, over={0: 0}))
        cases.append(case(layer_norm_grad, [g, x, weight], {"eps": 1e-3}, fixed=fixed, over={0: 1}))
        r = 1 / np.sqrt((xw * xw).mean(axes, keepdims=True) + 1e-3)
        cases.append(case(rms_norm, [x, weight], {"eps": 1e-3}, fixed=fixed, over={0: 0}))
        cases.append(case(rms_norm_grad, [g, x, weight], {"eps": 1e-3}, fixed=fixed, over={0: 1}))
        by_root = (z - xw * r * (z * xw * r).mean(axes, keepdims=True)) * r
        expected += [[h * ww + bw], [dx, (gw * h).sum(samples), gw.sum(samples)]]
        expected += [[xw * r * ww], [by_root, (gw * xw * r).sum(samples)]]
        scales += [[8.0], [40.0, *[10 * max(1.0, (x.size / weight.size) ** 0.5)] * 2]] * 2
    for ys, zs, scale in zip(simulated.results(cases), expected, scales, strict=True):
        for (y, z), s in zip(zip(ys, zs, strict=True), scale, strict=False):  # of RMS norm there is no bias
            _close(y, z, dtype, s)


def test_sums_of_layer_norm_grad_do_not_vary(simulated: Any, case: Any) -> None:
    g, x, weight = _normal((700, 64), "float32"), _normal((700, 64), "float32"), _normal((64,), "float32")
    one, two = simulated.results([case(layer_norm_grad, [g, x, weight], {}, fixed=True)] * 2)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize("fixed", [False, True])
def test_batch_statistics_in_one_pass(simulated: Any, case: Any, dtype: str, fixed: bool) -> None:
    """Of one and of several chunks, few and many channels, and values far from 0."""
    cases, expected, scales = [], [], []
    for shape, middle in [((5, 3), 0), ((2, 70, 4, 64), 3), ((1300, 130), 0), ((9000, 1), 100), ((1, 7), 1), ((33, 8), 50)]:
        x = RNG.normal(middle, size=shape).astype(DTYPES[dtype].numpy)
        cases.append(case(batch_statistics, [x], {}, fixed=fixed))
        wide, axes = x.astype(np.float64), tuple(range(x.ndim - 1))
        expected.append((wide.mean(axes), wide.var(axes)))
        scales.append(8 * (1 + middle))
    for ys, zs, scale in zip(simulated.results(cases), expected, scales, strict=True):
        for y, z in zip(ys, zs, strict=True):
            assert y.dtype == (np.float64 if dtype == "float64" else np.float32)
            _close(y, z, "float64" if dtype == "float64" else "float32", scale)


@pytest.mark.parametrize("outlier", [0, 1])
def test_batch_statistics_of_a_sample_far_from_all_others(simulated: Any, case: Any, outlier: int) -> None:
    """The first is that from which others are counted."""
    x = RNG.normal(size=(4000, 5)).astype(np.float32)
    x[outlier] = 100
    ((mean, var),) = simulated.results([case(batch_statistics, [x], {})])
    wide = x.astype(np.float64)
    np.testing.assert_allclose(mean, wide.mean(0), rtol=0, atol=1e-4)
    np.testing.assert_allclose(var, wide.var(0), rtol=100**2 * EPS["float32"])


def test_batch_statistics_of_nothing_and_of_infinity(simulated: Any, case: Any) -> None:
    x = np.ones((40, 3), np.float32)
    x[7] = np.inf, np.nan, 1
    empty, infinite = simulated.results([case(batch_statistics, [a], {}) for a in (np.ones((0, 3), np.float32), x)])
    assert all(np.isnan(y).all() for y in empty)
    np.testing.assert_array_equal(infinite[0], np.array([np.inf, np.nan, 1], np.float32))
    np.testing.assert_array_equal(infinite[1], np.array([np.nan, np.nan, 0], np.float32))


def test_places_among_very_many_elements(simulated: Any, case: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("needle_cuda_backend.element.is_large", lambda *_: True)
    test_softmax_over_any_axes(simulated, case, "float32", True)
    test_layer_norm_and_rms_norm_and_their_gradients(simulated, case, "float32", True)
    test_batch_statistics_in_one_pass(simulated, case, "float32", True)
