"""Convolutions that cuDNN does not take, against the trilinear form in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from needle_core.spec import DTYPES, Device
from needle_cuda_backend import convolution
from needle_cuda_backend.convolution import conv, conv_transpose, conv_weight_grad

RNG = np.random.default_rng(0)
EPS = {"float16": 2**-11, "bfloat16": 2**-8, "float32": 2**-23, "float64": 2**-52}
FORMS: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((2, 9, 3), (4, 3, 3), {"stride": 2, "padding": 1}),
    ((2, 6, 5, 4), (6, 3, 2, 2), {"padding": ((1, 0), (0, 1)), "groups": 2}),
    ((1, 7, 8, 3), (3, 3, 2, 1), {"stride": (1, 2), "dilation": (2, 3), "padding": 2, "groups": 3}),
    ((1, 3, 4, 3, 2), (2, 2, 2, 2, 2), {"stride": (1, 2, 1)}),
    ((2, 2, 3), (1, 5, 3), {"padding": 3}),
    ((0, 4, 3), (2, 2, 3), {}),
    ((2, 4, 0), (3, 2, 0), {}),
]


def _terms(x: Any, weight: Any, attrs: dict[str, Any], t: Any) -> Any:
    """Triples of places in y, x and weight that meet in a product, without samples."""
    groups, o, each = attrs["groups"], weight.shape[0], weight.shape[-1]
    for place in np.ndindex(*t):
        for k in np.ndindex(*weight.shape[1:-1]):
            sides = zip(place, attrs["stride"], k, attrs["dilation"], attrs["padding"], strict=True)
            at = [p * step + e * apart - before for p, step, e, apart, (before, _) in sides]
            if all(0 <= i < n for i, n in zip(at, x.shape[1:-1], strict=True)):
                for j in range(o):
                    group = j // (o // groups)
                    yield (*place, j), (*at, slice(group * each, (group + 1) * each)), (j, *k)


@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize("fixed", [False, True])
def test_convolution_and_its_gradients(
    simulated: Any, case: Any, cuda: Device, dtype: str, fixed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolution, "supports", lambda _: False)
    cases, expected = [], []
    how = {"fixed": fixed, "on": cuda}
    for shape, kernels, attrs in FORMS:
        x, weight = (RNG.normal(size=s).astype(DTYPES[dtype].numpy) for s in (shape, kernels))
        forward = case(conv, [x, weight], attrs, **how)
        call = forward.call()
        g = RNG.normal(size=call.outputs[0].shape).astype(x.dtype)
        cases += [
            forward,
            case(conv_transpose, [g, weight], {**attrs, "size": shape[1:-1]}, **how),
            case(conv_weight_grad, [g, x], {**attrs, "size": kernels[1:-1]}, **how),
        ]
        xw, ww, gw = (a.astype(np.float64) for a in (x, weight, g))
        y, dx, dw = np.zeros(g.shape), np.zeros(shape), np.zeros(kernels)
        for at_y, at_x, at_w in _terms(xw, ww, call.attrs, g.shape[1:-1]):
            y[:, *at_y] += xw[:, *at_x] @ ww[at_w]
            dx[:, *at_x] += gw[:, *at_y][:, None] * ww[at_w]
            dw[at_w] += gw[:, *at_y] @ xw[:, *at_x]
        expected += [y, dx, dw]
    for (y,), z in zip(simulated.results(cases), expected, strict=True):
        atol = (2 if DTYPES[dtype].itemsize == 2 else 64) * EPS[dtype]
        np.testing.assert_allclose(y.astype(np.float64), z, rtol=8 * EPS[dtype], atol=atol)
