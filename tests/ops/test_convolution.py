"""Convolution where the declarations do not reach: numbers of another library, large images, what the three ops share."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core.errors import ShapeError

RNG = np.random.default_rng(0)


def normal(*shape: int, dtype: str = "float64") -> ndl.Tensor:
    return ndl.Tensor(RNG.normal(size=shape).astype(dtype))


def counted(*shape: int, modulo: int) -> ndl.Tensor:
    """Small whole numbers around zero, row by row."""
    return ndl.Tensor(np.arange(math.prod(shape), dtype=np.float64).reshape(shape) % modulo - modulo // 2)


def dot(a: ndl.Tensor, b: ndl.Tensor) -> float:
    return float((a * b).sum())


# -- numbers of PyTorch 2.13 ------------------------------------------------------------------------------------------------


def test_conv_and_its_gradients_are_those_of_pytorch() -> None:
    x, weight = counted(1, 4, 5, 2, modulo=7), counted(2, 2, 3, 1, modulo=5)
    x.requires_grad = weight.requires_grad = True
    y = ndl.conv(x, weight, stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2)
    assert y.tolist() == [[[[3, -7]], [[12, -5]], [[-1, 1]]]]
    y.backward(counted(1, 3, 1, 2, modulo=3))
    assert x.grad is not None
    assert weight.grad is not None
    assert x.grad.tolist() == [
        [[[-1, 0], [0, 0], [-2, 0], [0, 0], [2, 0]], [[-2, 1], [0, 0], [-1, 0], [0, 0], [0, -1]],
         [[1, -2], [0, 0], [2, 2], [0, 0], [-2, 1]], [[0, -1], [0, 0], [0, 0], [0, 0], [0, 1]]]
    ]  # fmt: skip
    assert weight.grad.tolist() == [[[[0], [-3], [1]], [[6], [-1], [-1]]], [[[-1], [-1], [-1]], [[3], [-1], [2]]]]


def test_conv_transpose_is_that_of_pytorch() -> None:
    x, weight = counted(1, 2, 3, 2, modulo=5), counted(2, 3, 2, 2, modulo=4) + 1
    y = ndl.conv_transpose(x, weight, stride=(2, 3), padding=(1, 0), dilation=(1, 2), output_padding=(1, 2))
    first = [[3, -3, -1, 1, 0, 0, 0], [4, -4, -4, 4, 3, -3, 0], [1, -1, -3, 3, 3, -3, 0], [1, -1, -3, 3, 3, -3, 0]]
    second = [[0, -6, 0, 2, 0, 0, 0], [0, -8, 0, 8, 0, -6, 0], [0, -2, 0, 6, 0, -6, 0], [0, -2, 0, 6, 0, -6, 0]]
    reached = (0, 2, 3, 5, 6, 8, 9)
    assert y.shape == (1, 4, 11, 2)
    np.testing.assert_array_equal(y.numpy()[0, :, reached, 0].T, first)
    np.testing.assert_array_equal(y.numpy()[0, :, reached, 1].T, second)
    assert not y.numpy()[0, :, [1, 4, 7, 10]].any()


# -- one trilinear form -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("x", "weight", "attrs"), [  # the layers of a ResNet-9, and others
    ((4, 32, 32, 3), (16, 7, 7, 3), {"stride": 4, "padding": 3}), ((4, 8, 8, 16), (32, 3, 3, 16), {"stride": 2, "padding": 1}),
    ((4, 2, 2, 64), (128, 3, 3, 64), {"stride": 2, "padding": 1}), ((4, 1, 1, 128), (128, 3, 3, 128), {"padding": 1}),
    ((2, 9, 30), (30, 4, 1), {"groups": 30, "stride": 3, "padding": ((5, 0),)}),
    ((2, 5, 6, 7, 4), (6, 2, 3, 1, 2), {"groups": 2, "padding": "same", "dilation": (2, 1, 3)}),
], ids=str)  # fmt: skip
def test_the_three_ops_are_derivatives_of_one_form(x: Any, weight: Any, attrs: Any) -> None:
    a, w = normal(*x), normal(*weight)
    y = ndl.conv(a, w, **attrs)
    g = normal(*y.shape)
    form = dot(y, g)
    scale = dot(ndl.conv(ndl.abs(a), ndl.abs(w), **attrs), ndl.abs(g))
    back = ndl.conv_transpose(g, w, size=x[1:-1], **attrs)
    by_weight = ndl.conv_weight_grad(g, a, size=weight[1:-1], **attrs)
    assert abs(dot(back, a) - form) < 1e-14 * scale
    assert abs(dot(by_weight, w) - form) < 1e-14 * scale


@pytest.mark.parametrize("op", ["conv", "conv_weight_grad"])
def test_images_of_many_megabytes_give_what_each_gives_alone(op: str) -> None:
    """Their windows, 2.4 MB an image, are not copied all at once."""
    x, other = normal(5, 64, 64, 16, dtype="float32"), normal(3, 3, 3, 16, dtype="float32")
    if op == "conv":
        y = ndl.conv(x, other, padding=1).numpy()
        alone = np.concatenate([ndl.conv(x[i : i + 1], other, padding=1).numpy() for i in range(5)])
    else:
        g = normal(5, 64, 64, 3, dtype="float32")
        y = ndl.conv_weight_grad(g, x, size=3, padding=1).numpy()
        parts = [ndl.conv_weight_grad(g[i : i + 1], x[i : i + 1], size=3, padding=1).numpy() for i in range(5)]
        alone = np.stack(parts).sum(0)
    np.testing.assert_allclose(y, alone, rtol=1e-4, atol=1e-3)


# -- special kernels --------------------------------------------------------------------------------------------------------


def test_kernel_of_one_element_is_a_linear_map_of_the_channels() -> None:
    x, weight = normal(3, 4, 5, 6), normal(7, 1, 1, 6)
    expected = np.einsum("nhwc,oc->nhwo", x.numpy(), weight.numpy()[:, 0, 0])
    np.testing.assert_allclose(ndl.conv(x, weight).numpy(), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(ndl.conv(x, weight, stride=2).numpy(), expected[:, ::2, ::2], rtol=1e-12, atol=1e-12)


def test_one_pixel_meets_the_middle_of_a_padded_kernel_alone() -> None:
    x, weight = normal(2, 1, 1, 4), normal(3, 3, 3, 4)
    expected = x.numpy()[:, 0, 0] @ weight.numpy()[:, 1, 1].T
    np.testing.assert_allclose(ndl.conv(x, weight, padding="same").numpy()[:, 0, 0], expected, rtol=1e-12)
    gradient = ndl.conv_weight_grad(ndl.ones((2, 1, 1, 3), dtype="float64"), x, size=3, padding=1).numpy()
    np.testing.assert_allclose(gradient[:, 1, 1], np.tile(x.numpy().sum((0, 1, 2)), (3, 1)), rtol=1e-12)
    assert np.count_nonzero(gradient) == gradient[:, 1, 1].size


@pytest.mark.parametrize(("dtype", "most"), [("float16", 3000), ("bfloat16", 512)])
def test_half_precision_is_summed_in_float32(dtype: str, most: int) -> None:
    """One by one in half precision, sums of ones stop at 2048 and 256."""
    x, weight = ndl.ones((1, 3, most), dtype=dtype), ndl.ones((1, 1, most), dtype=dtype)
    assert ndl.conv(x, weight).tolist() == [[[most]] * 3]
    assert ndl.conv_transpose(x, weight.transpose((2, 1, 0))).tolist() == [[[most]] * 3]


def test_integers_are_convolved_in_float32() -> None:
    y = ndl.conv(ndl.Tensor([[[1], [2], [3]]]), ndl.Tensor([[[1], [10]]]))
    assert (y.dtype, y.tolist()) == (ndl.float32, [[[21], [32]]])


# -- sizes ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", range(1, 9))
@pytest.mark.parametrize(("window", "stride", "dilation"), [(1, 1, 1), (2, 1, 1), (3, 2, 1), (4, 3, 1), (2, 5, 3), (3, 1, 2)])
def test_same_padding_gives_one_place_for_each_stride(size: int, window: int, stride: int, dilation: int) -> None:
    y = ndl.conv(ndl.ones((1, size, 1)), ndl.ones((1, window, 1)), stride=stride, padding="same", dilation=dilation)
    assert y.shape == (1, math.ceil(size / stride), 1)


def test_same_padding_puts_the_odd_zero_behind() -> None:
    x = ndl.Tensor([[[1.0], [2.0], [3.0]]])
    assert ndl.conv(x, ndl.Tensor([[[1.0], [10.0]]]), padding="same").flatten().tolist() == [21, 32, 3]


@pytest.mark.parametrize("size", [7, 8, 9])
def test_conv_transpose_reaches_every_size_that_conv_takes_there(size: int) -> None:
    weight = ndl.ones((1, 3, 1))
    assert ndl.conv(ndl.ones((1, size, 1)), weight, stride=3, padding=1).shape == (1, 3, 1)
    assert ndl.conv_transpose(ndl.ones((1, 3, 1)), weight, stride=3, padding=1, size=size).shape == (1, size, 1)
    by_extra = ndl.conv_transpose(ndl.ones((1, 3, 1)), weight, stride=3, padding=1, output_padding=size - 7)
    assert by_extra.shape == (1, size, 1)


def test_fold_of_unfold_counts_the_windows_of_each_pixel() -> None:
    x = ndl.ones((1, 4, 5, 1))
    y = ndl.fold(ndl.unfold(x, size=(2, 3)), shape=(4, 5)).numpy()[0, :, :, 0]
    np.testing.assert_array_equal(y, np.outer([1, 2, 2, 1], [1, 2, 3, 2, 1]))


def test_refusal_says_what_does_not_fit() -> None:
    with pytest.raises(ShapeError) as caught:
        ndl.conv(ndl.ones((1, 2, 5, 3)), ndl.ones((4, 3, 3, 3)), padding=(0, 1))
    assert str(caught.value).splitlines() == [
        "conv: a window that spans [3, 3] does not fit into [2, 7], the padded image",
        f"  x: float32[1, 2, 5, 3] on {ndl.default_device()}",
        f"  weight: float32[4, 3, 3, 3] on {ndl.default_device()}",
    ]
