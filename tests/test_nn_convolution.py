"""Convolutions as layers: parameters, formats, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core import nn
from needle_core.errors import ArgumentError, ShapeError
from needle_core.random import default_generator

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("layer", "weight"),
    [
        (nn.Conv1d(2, 6, 5), (6, 5, 2)),
        (nn.Conv2d(4, 6, (3, 2), groups=2), (6, 3, 2, 2)),
        (nn.ConvTranspose1d(2, 6, 5), (2, 5, 6)),
        (nn.ConvTranspose2d(4, 6, (3, 2), groups=2), (4, 3, 2, 3)),
    ],
    ids=str,
)
def test_weight_has_outer_channels_kernel_and_the_others_of_a_group(layer: nn.Module, weight: tuple[int, ...]) -> None:
    assert {name: p.shape for name, p in layer.named_parameters()} == {"weight": weight, "bias": (6,)}


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_parameters_start_uniform_within_the_fan_in(kind: Any) -> None:
    ndl.manual_seed(3)
    layer = kind(8, 6, 3, groups=2)
    ndl.manual_seed(3)
    source, fan_in = default_generator(), 9 * 4
    bound = math.sqrt(6 / fan_in)
    np.testing.assert_array_equal(layer.weight.numpy(), source.uniform(*layer.weight.shape, low=-bound, high=bound).numpy())
    bound = 1 / math.sqrt(fan_in)
    np.testing.assert_array_equal(layer.bias.numpy(), source.uniform(6, low=-bound, high=bound).numpy())


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_channels_second_are_the_same_images_turned_around(kind: Any) -> None:
    last, second = kind(3, 2, 3, stride=2, padding=1), kind(3, 2, 3, stride=2, padding=1, data_format="NCHW")
    second.load_state_dict(last.state_dict())
    x = RNG.normal(size=(2, 5, 4, 3)).astype(np.float32)
    turned = ndl.Tensor(np.moveaxis(x, -1, 1))
    np.testing.assert_allclose(second(turned).numpy(), np.moveaxis(last(ndl.Tensor(x)).numpy(), -1, 1), rtol=1e-6, atol=1e-6)


def test_bias_is_added_to_every_pixel_and_gets_their_sum() -> None:
    layer = nn.Conv2d(1, 2, 1)
    layer.weight.data = ndl.zeros_like(layer.weight)
    assert layer.bias is not None
    y = layer(ndl.ones((3, 2, 2, 1)))
    np.testing.assert_array_equal(y.numpy(), np.broadcast_to(layer.bias.numpy(), (3, 2, 2, 2)))
    y.sum().backward()
    assert layer.bias.grad is not None
    assert layer.bias.grad.tolist() == [12, 12]


def test_same_padding_keeps_the_size() -> None:
    assert nn.Conv2d(1, 1, (3, 4), padding="same")(ndl.ones((1, 6, 7, 1))).shape == (1, 6, 7, 1)


def test_convolutions_show_what_is_not_usual() -> None:
    assert repr(nn.Conv2d(3, 16, 7)) == "Conv2d(3, 16, kernel_size=(7, 7))"
    shown = "Conv1d(4, 4, kernel_size=(3,), stride=(2,), padding=1, dilation=(2,), groups=2, data_format='NCW', bias=False)"
    assert repr(nn.Conv1d(4, 4, 3, 2, 1, 2, 2, False, "NCW")) == shown
    shown = "ConvTranspose2d(4, 4, kernel_size=(3, 3), stride=(2, 2), output_padding=1)"
    assert repr(nn.ConvTranspose2d(4, 4, 3, 2, output_padding=1)) == shown


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        (
            {"kernel_size": 0},
            ShapeError,
            "Conv2d: kernel_size is one number for all 2 spatial axes or one for each, at least 1, not 0",
        ),
        ({"stride": (1, 2, 3)}, ShapeError, "Conv2d: stride is one number for all 2 spatial axes"),
        ({"dilation": 0}, ShapeError, "Conv2d: dilation is one number"),
        ({"padding": "full"}, ArgumentError, "Conv2d: padding is 'same', 'valid', or numbers, not 'full'"),
        ({"padding": -1}, ShapeError, "Conv2d: padding is one number"),
        ({"groups": 3}, ShapeError, "Conv2d: 4 channels in and 6 out do not make 3 equal groups"),
        ({"groups": 0}, ShapeError, "Conv2d: 4 channels in and 6 out do not make 0 equal groups"),
        ({"in_channels": 2.0}, ArgumentError, "Conv2d: in_channels is an integer, not 2.0"),
        ({"data_format": "NCW"}, ArgumentError, "Conv2d: data_format is 'NHWC' or 'NCHW', not 'NCW'"),
    ],
    ids=str,
)
def test_convolution_refuses_before_any_work(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        nn.Conv2d(**{"in_channels": 4, "out_channels": 6, "kernel_size": 3, **options})
    assert str(caught.value).startswith(text)


def test_convolution_refuses_images_of_other_axes_or_channels() -> None:
    layer = nn.Conv2d(3, 4, 1)
    with pytest.raises(ShapeError, match=r"^Conv2d: NHWC has 4 axes, not 3"):
        layer(ndl.ones((5, 5, 3)))
    with pytest.raises(ShapeError, match=r"^conv: x has 1 channels, weight is for 3"):
        layer(ndl.ones((1, 5, 5, 1)))
