"""Images in another size against numbers of PyTorch 2.13, and what the declarations do not reach."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core import nn
from needle_core.errors import ArgumentError, ShapeError

SQUARES = [0.0, 1.0, 4.0, 9.0, 16.0]
IMAGE = [[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]]


@pytest.mark.parametrize(
    ("size", "how", "expected"),
    [
        (3, {"mode": "nearest"}, [0, 1, 9]),
        (3, {"mode": "linear"}, [1 / 3, 4, 41 / 3]),
        (3, {"mode": "linear", "align_corners": True}, [0, 4, 16]),
        (8, {"mode": "nearest"}, [0, 0, 1, 1, 4, 9, 9, 16]),
        (8, {"mode": "linear"}, [0, 0.4375, 1.1875, 3.0625, 5.5625, 8.6875, 12.9375, 16]),
        (7, {"mode": "linear", "align_corners": True}, [0, 2 / 3, 2, 4, 22 / 3, 34 / 3, 16]),
    ],
    ids=str,
)
def test_lines_in_another_size(size: int, how: dict[str, Any], expected: list[float]) -> None:
    x = ndl.Tensor(np.reshape(SQUARES, (1, 5, 1)))
    np.testing.assert_allclose(ndl.interpolate(x, size=size, **how).numpy()[0, :, 0], expected, rtol=1e-14)


@pytest.mark.parametrize(
    ("align_corners", "expected"),
    [(False, [[1, 1.625, 2.75, 4], [4.5, 7.3125, 12.375, 18], [8, 13, 22, 32]]),
     (True, [[1, 5 / 3, 8 / 3, 4], [4.5, 7.5, 12, 18], [8, 40 / 3, 64 / 3, 32]])],
)  # fmt: skip
def test_bilinear_images_in_another_size(align_corners: bool, expected: Any) -> None:
    x = ndl.Tensor(np.reshape(IMAGE, (1, 2, 3, 1)))
    y = ndl.interpolate(x, size=(3, 4), mode="bilinear", align_corners=align_corners)
    np.testing.assert_allclose(y.numpy()[0, ..., 0], expected, rtol=1e-14)


def test_scale_repeats_pixels_and_its_gradient_adds_them_up() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
    t = ndl.Tensor(x, requires_grad=True)
    y = ndl.interpolate(t, scale=(2, 3))
    np.testing.assert_array_equal(y.numpy(), x.repeat(2, 1).repeat(3, 2))
    g = np.random.default_rng(1).normal(size=y.shape)
    y.backward(ndl.Tensor(g))
    assert t.grad is not None
    np.testing.assert_allclose(t.grad.numpy(), g.reshape(2, 3, 2, 4, 3, 5).sum((2, 4)), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("mode", "align_corners"), [("nearest", False), ("linear", False), ("linear", True)])
def test_the_gradient_is_the_adjoint_of_large_images(mode: str, align_corners: bool) -> None:
    rng = np.random.default_rng(2)
    x, d = rng.normal(size=(2, 40, 33, 3)), rng.normal(size=(2, 57, 20, 3))
    how: dict[str, Any] = {"mode": mode, "align_corners": align_corners}
    y = ndl.interpolate(ndl.Tensor(x), size=(57, 20), **how).numpy()
    back = ndl.interpolate_grad(ndl.Tensor(d), size=(40, 33), **how).numpy()
    np.testing.assert_allclose((y * d).sum(), (x * back).sum(), rtol=1e-11)


def test_upsample_takes_either_order_of_axes() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
    last = nn.Upsample(scale=2, mode="bilinear")(ndl.Tensor(x)).numpy()
    first = nn.Upsample(scale=2, mode="bilinear", data_format="NCHW")(ndl.Tensor(x.transpose(0, 3, 1, 2))).numpy()
    np.testing.assert_array_equal(first, last.transpose(0, 3, 1, 2))
    assert repr(nn.Upsample(size=(2, 3))) == "Upsample(size=(2, 3), mode='nearest')"


def test_upsample_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ArgumentError, match=r"^Upsample: give either a size or a scale"):
        nn.Upsample()
    with pytest.raises(ShapeError, match=r"^Upsample: NHWC has 4 axes, not 3"):
        nn.Upsample(scale=2)(ndl.zeros((1, 2, 3)))
    with pytest.raises(ArgumentError, match=r"^Upsample: data_format is 'NHWC' or 'NCHW', not 'CHW'"):
        nn.Upsample(scale=2, data_format="CHW")
