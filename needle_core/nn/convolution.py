"""Convolutions and their transposes as layers."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from needle_core.backend import DeviceLike
from needle_core.doors import normalize_integer
from needle_core.errors import NeedleError, ShapeError
from needle_core.nn import init
from needle_core.nn.formats import FORMATS, channels_back, channels_last, normalize_format
from needle_core.nn.module import Module, Parameter
from needle_core.ops import conv, conv_transpose
from needle_core.ops.convolution import Sizes, per_axis, slide
from needle_core.spec import DTypeLike
from needle_core.tensor import Tensor


def read_window(
    layer: str, axes: int, kernel_size: Any, stride: Any, padding: Any, dilation: Any
) -> tuple[Sizes, Sizes, Sizes]:
    """Size, stride and dilation of a layer's window, one number for each axis; refuses also what is no padding."""
    try:
        size, steps = per_axis("kernel_size", kernel_size, axes), per_axis("stride", stride, axes)
        slide((2**31,) * axes, 1, padding=padding)
        return size, steps, per_axis("dilation", dilation, axes)
    except NeedleError as error:
        raise error.located(layer, {}) from None


class _Convolution(Module):
    """What all have in common: parameters, window and format, for as many spatial axes as `_axes` says."""

    _axes: ClassVar[int]
    _transposed: ClassVar[bool] = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        data_format: str | None = None,
        device: DeviceLike | None = None,
        dtype: DTypeLike = "float32",
    ) -> None:
        name = type(self).__name__
        self.kernel_size, self.stride, self.dilation = read_window(name, self._axes, kernel_size, stride, padding, dilation)
        try:
            self.in_channels = normalize_integer("in_channels", in_channels)
            self.out_channels = normalize_integer("out_channels", out_channels)
            self.groups = normalize_integer("groups", groups)
        except NeedleError as error:
            raise error.located(name, {}) from None
        if min(self.in_channels, self.out_channels, self.groups) < 1 or in_channels % groups or out_channels % groups:
            raise ShapeError(f"{name}: {in_channels} channels in and {out_channels} out do not make {groups} equal groups")
        self.data_format = normalize_format(name, data_format or FORMATS[self._axes][0], self._axes)
        self.padding = padding
        outer, inner = (in_channels, out_channels) if self._transposed else (out_channels, in_channels)
        window = math.prod(self.kernel_size)
        fan_in, fan_out = window * in_channels // groups, window * out_channels // groups
        shape = (outer, *self.kernel_size, inner // groups)
        self.weight = Parameter(init.kaiming_uniform(fan_in, fan_out, shape=shape, device=device, dtype=dtype))
        self.bias: Parameter | None = None
        if bias:
            bound = 1 / math.sqrt(fan_in)
            self.bias = Parameter(init.rand(out_channels, low=-bound, high=bound, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        y = self._linear(channels_last(type(self).__name__, x, self.data_format))
        return channels_back(y if self.bias is None else y + self.bias, self.data_format)

    def _linear(self, x: Tensor) -> Tensor:
        """The layer without its bias, for channels last."""
        return conv(x, self.weight, stride=self.stride, padding=self.padding, dilation=self.dilation, groups=self.groups)

    def extra_repr(self) -> str:
        one = (1,) * self._axes
        plain = {"stride": one, "padding": 0, "dilation": one, "output_padding": 0, "groups": 1}
        plain["data_format"] = FORMATS[self._axes][0]
        told = [f"{name}={getattr(self, name)!r}" for name, usual in plain.items() if getattr(self, name, usual) != usual]
        told += [] if self.bias is not None else ["bias=False"]
        return ", ".join([f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}", *told])


class Conv1d(_Convolution):
    """Conv2d over one axis: (n, w, c) -> (n, w', o), with data_format="NCW" (n, c, w) -> (n, o, w')."""

    _axes = 1


class Conv2d(_Convolution):
    """Convolution of images, and a bias.

        y[n, t, o] = sum_k,c x[n, t stride + k dilation - padding, c] weight[o, k, c] + bias[o]

    weight (out_channels, *kernel_size, in_channels / groups) starts Kaiming uniform, bias (out_channels) uniform in
    [-1, 1) / sqrt(fan_in), with fan_in = in_channels / groups * prod(kernel_size), drawn in this order from the default
    generator of the device. `padding` is that of `ndl.conv`; stride and dilation are one number or one for each axis.

    Shapes:   x (n, h, w, c) -> (n, h', w', o), with data_format="NCHW" (n, c, h, w) -> (n, o, h', w');
              h' = (h + 2 padding - dilation (kernel_size - 1) - 1) // stride + 1
    Raises:   ShapeError if channels, groups or window do not fit
    """

    _axes = 2


class _Transpose(_Convolution):
    """What ConvTranspose1d and ConvTranspose2d share."""

    _transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        data_format: str | None = None,
        device: DeviceLike | None = None,
        dtype: DTypeLike = "float32",
    ) -> None:
        self.output_padding = output_padding
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, data_format, device, dtype
        )

    def _linear(self, x: Tensor) -> Tensor:
        return conv_transpose(
            x,
            self.weight,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            output_padding=self.output_padding,
        )


class ConvTranspose1d(_Transpose):
    """ConvTranspose2d over one axis: (n, w, c) -> (n, w', o), with data_format="NCW" (n, c, w) -> (n, o, w')."""

    _axes = 1


class ConvTranspose2d(_Transpose):
    """The transpose of Conv2d for images, which enlarges them by its stride, and a bias.

        y[n, t stride + k dilation - padding, o] += x[n, t, c] weight[c, k, o]   for all t, k, c;   y += bias

    weight (in_channels, *kernel_size, out_channels / groups) and bias (out_channels) start as in Conv2d.

    Shapes:   x (n, h, w, c) -> (n, h', w', o), with data_format="NCHW" (n, c, h, w) -> (n, o, h', w');
              h' = (h - 1) stride - 2 padding + dilation (kernel_size - 1) + 1 + output_padding
    Raises:   ShapeError if channels, groups or sizes do not fit
    """

    _axes = 2
