"""Cross entropy, against its formula in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from needle_core.spec import DTYPES
from needle_cuda_backend.loss import cross_entropy, cross_entropy_grad

RNG = np.random.default_rng(0)
EPS = {"float16": 2**-11, "bfloat16": 2**-8, "float32": 2**-23, "float64": 2**-52}
SHAPES: list[tuple[int, ...]] = [(10,), (2, 3, 257), (2, 20000), (9, 1)]
LABELS = {"mean": "int64", "sum": "int32", "none": "uint8"}


def _softmax(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("fixed", [False, True])
def test_cross_entropy_and_its_gradient(simulated: Any, case: Any, dtype: str, reduction: str, fixed: bool) -> None:
    """The gradient lies where the scores did, alone and with the loss."""
    cases, expected = [], []
    for shape in SHAPES:
        n, kind = shape[-1], LABELS[reduction]
        x = RNG.normal(size=shape).astype(DTYPES[dtype].numpy)
        labels = RNG.integers(0 if kind == "uint8" else -n, min(n, 256), shape[:-1]).astype(kind)
        named = labels.astype(np.int64) % n
        g = RNG.normal(size=shape[:-1] if reduction == "none" else ()).astype(x.dtype)
        share = _softmax(x.astype(np.float64))
        losses = -np.log(np.take_along_axis(share, named[..., None], -1))[..., 0]
        loss = losses.mean() if reduction == "mean" else losses.sum() if reduction == "sum" else losses
        scale = g.astype(np.float64)[..., None] / (losses.size if reduction == "mean" else 1)
        dx = (share - (named[..., None] == np.arange(n))) * scale
        attrs = {"reduction": reduction}
        y_shape = loss.shape
        cases += [
            case(cross_entropy, [x, labels], attrs, fixed=fixed),
            case(cross_entropy_grad, [g, x, labels], attrs, fixed=fixed, over={0: 1}),
            case(cross_entropy_grad, [g, x, labels], attrs, fixed=fixed, over={0: 1}, outputs=[y_shape]),
        ]
        expected += [[loss], [dx], [dx, loss]]
    for ys, zs in zip(simulated.results(cases), expected, strict=True):
        for y, z in zip(ys, zs, strict=True):
            np.testing.assert_allclose(y.astype(np.float64), z, rtol=16 * EPS[dtype], atol=8 * EPS[dtype])


def test_cross_entropy_of_nothing(simulated: Any, case: Any) -> None:
    x, labels = np.zeros((0, 3), np.float32), np.zeros(0, np.int64)
    mean, total, none = simulated.results([case(cross_entropy, [x, labels], {"reduction": r}) for r in ("mean", "sum", "none")])
    assert np.isnan(mean[0])
    assert total[0] == 0
    assert none[0].shape == (0,)


@pytest.mark.parametrize("bad", [3, -4])
def test_labels_out_of_bounds_are_refused(simulated: Any, case: Any, bad: int) -> None:
    x, labels = np.zeros((2, 3), np.float32), np.array([0, bad])
    for one in (case(cross_entropy, [x, labels], {}), case(cross_entropy_grad, [np.float32(1), x, labels], {}, fixed=True)):
        with pytest.raises(IndexError, match="a label is out of bounds for 3 classes"):
            list(simulated.results([one]))


def test_places_among_very_many_elements(simulated: Any, case: Any, monkeypatch: Any) -> None:
    for module in ("index", "element"):
        monkeypatch.setattr(f"needle_cuda_backend.{module}.is_large", lambda *_: True)
    test_cross_entropy_and_its_gradient(simulated, case, "float32", "mean", True)
