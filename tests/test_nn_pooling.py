"""Pooling as layers: defaults, formats, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core import nn
from needle_core.errors import ArgumentError, ShapeError

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("kind", [nn.MaxPool2d, nn.AvgPool2d])
def test_windows_stand_side_by_side_by_default(kind: Any) -> None:
    x = RNG.normal(size=(2, 4, 6, 3))
    blocks = x.reshape(2, 2, 2, 2, 3, 3)
    expected = blocks.max((2, 4)) if kind is nn.MaxPool2d else blocks.mean((2, 4))
    np.testing.assert_allclose(kind((2, 3))(ndl.Tensor(x)).numpy(), expected, rtol=1e-14)


@pytest.mark.parametrize("make", [
    lambda f: nn.MaxPool2d(3, 2, 1, data_format=f), lambda f: nn.AvgPool2d(2, data_format=f),
    lambda f: nn.AdaptiveAvgPool2d((3, 2), f), lambda f: nn.AdaptiveMaxPool2d(2, f),
])  # fmt: skip
def test_channels_second_are_the_same_images_turned_around(make: Any) -> None:
    x = RNG.normal(size=(2, 6, 5, 3))
    y = make("NCHW")(ndl.Tensor(np.moveaxis(x, -1, 1))).numpy()
    np.testing.assert_array_equal(y, np.moveaxis(make("NHWC")(ndl.Tensor(x)).numpy(), -1, 1))


@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
def test_global_pools_leave_samples_and_channels(data_format: str) -> None:
    x = RNG.normal(size=(2, 3, 4, 5))
    axes = (1, 2) if data_format == "NHWC" else (2, 3)
    np.testing.assert_allclose(nn.GlobalAvgPool2d(data_format)(ndl.Tensor(x)).numpy(), x.mean(axes), rtol=1e-13)
    np.testing.assert_array_equal(nn.GlobalMaxPool2d(data_format)(ndl.Tensor(x)).numpy(), x.max(axes))


def test_pools_show_what_is_not_usual() -> None:
    assert repr(nn.MaxPool2d(2)) == "MaxPool2d((2, 2))"
    assert repr(nn.MaxPool1d(3, 1, 1, 2, "NCW")) == "MaxPool1d((3,), stride=(1,), padding=1, dilation=(2,), data_format='NCW')"
    assert repr(nn.AvgPool2d(2, count_include_pad=False)) == "AvgPool2d((2, 2), count_include_pad=False)"
    assert repr(nn.AdaptiveAvgPool2d(1)) == "AdaptiveAvgPool2d((1, 1))"
    assert repr(nn.GlobalAvgPool2d()) == "GlobalAvgPool2d()"


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: nn.MaxPool2d(0), ShapeError, "MaxPool2d: kernel_size is one number"),
        (lambda: nn.AvgPool1d(2, stride=0), ShapeError, "AvgPool1d: stride is one number"),
        (lambda: nn.MaxPool2d(2, padding="full"), ArgumentError, "MaxPool2d: padding is 'same', 'valid', or numbers"),
        (lambda: nn.AdaptiveMaxPool2d((1, 2, 3)), ShapeError, "AdaptiveMaxPool2d: output_size is one number"),
        (lambda: nn.GlobalAvgPool2d("NWC"), ArgumentError, "GlobalAvgPool2d: data_format is 'NHWC' or 'NCHW', not 'NWC'"),
    ],
)
def test_pool_refuses_before_any_work(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value).startswith(text)
