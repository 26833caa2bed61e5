"""Convolutions as layers."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from needle_core.backend import DeviceLike
from needle_core.doors import normalize_integer
from needle_core.errors import ArgumentError, ShapeError
from needle_core.nn import init
from needle_core.nn.module import Module, Parameter
from needle_core.ops import conv, moveaxis
from needle_core.ops.convolution import per_axis
from needle_core.spec import DTypeLike
from needle_core.tensor import Tensor


def channels_last(data_format: str, axes: int) -> bool:
    """Whether images with so many spatial axes have channels last ("NHWC", "NWC") or second ("NCHW", "NCW").

    Raises: ArgumentError for another format
    """
    last, second = ("NWC", "NCW") if axes == 1 else ("NHWC", "NCHW")
    if data_format not in (last, second):
        raise ArgumentError(f"data_format is {last!r} or {second!r}, not {data_format!r}")
    return data_format == last


class _Conv(Module):
    """What convolutions and their transposes have in common: the parameters, and the order of the axes."""

    _axes: ClassVar[int]
    _transposed: ClassVar[bool] = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
        groups: int,
        bias: bool,
        data_format: str,
        device: DeviceLike | None,
        dtype: DTypeLike,
    ) -> None:
        self.in_channels, self.out_channels = (
            normalize_integer("in_channels", in_channels),
            normalize_integer("out_channels", out_channels),
        )
        self.kernel_size = per_axis("kernel_size", kernel_size, self._axes)
        self.stride, self.dilation = per_axis("stride", stride, self._axes), per_axis("dilation", dilation, self._axes)
        self.padding, self.groups = padding, normalize_integer("groups", groups)
        self.data_format = data_format
        self._last = channels_last(data_format, self._axes)
        if min(self.in_channels, self.out_channels, self.groups) < 1 or in_channels % groups or out_channels % groups:
            raise ShapeError(
                f"{type(self).__name__}: {in_channels} channels in and {out_channels} out do not make {groups} equal groups"
            )
        first, last = (in_channels, out_channels) if self._transposed else (out_channels, in_channels)
        window = math.prod(self.kernel_size)
        fan_in, fan_out = window * in_channels // groups, window * out_channels // groups
        shape = (first, *self.kernel_size, last // groups)
        self.weight = Parameter(init.kaiming_uniform(fan_in, fan_out, shape=shape, device=device, dtype=dtype))
        self.bias: Parameter | None = None
        if bias:
            bound = 1 / math.sqrt(fan_in)
            self.bias = Parameter(init.rand(out_channels, low=-bound, high=bound, device=device, dtype=dtype))

    def _apply(self, x: Tensor) -> Tensor:
        """The convolution of x (n, *s, in_channels)."""
        return conv(x, self.weight, stride=self.stride, padding=self.padding, dilation=self.dilation, groups=self.groups)

    def forward(self, x: Tensor) -> Tensor:
        y = self._apply(x if self._last else moveaxis(x, 1, -1))
        y = y if self.bias is None else y + self.bias
        return y if self._last else moveaxis(y, -1, 1)

    def extra_repr(self) -> str:
        size = self.kernel_size[0] if len(set(self.kernel_size)) == 1 else self.kernel_size
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={size}"
        ones = (1,) * self._axes
        if self.stride != ones:
            text += f", stride={self.stride[0] if len(set(self.stride)) == 1 else self.stride}"
        if self.padding != 0:
            text += f", padding={self.padding!r}"
        if self.dilation != ones:
            text += f", dilation={self.dilation[0] if len(set(self.dilation)) == 1 else self.dilation}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        return text + ("" if self.bias is not None else ", bias=False")


class Conv1d(_Conv):
    """Convolution over one axis: `Conv2d` for sequences, with data_format "NWC" or "NCW"."""

    _axes = 1

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: Any = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        data_format: str = "NWC",
        device: DeviceLike | None = None,
        dtype: DTypeLike = "float32",
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, data_format, device, dtype
        )


class Conv2d(_Conv):
    """Convolution over height and width, `ndl.conv`, and a bias.

        y[n, t, o] = sum_k,c x[n, t stride + k dilation - padding, c] weight[o, k, c] + bias[o]

    weight (o, *k, c / groups) starts Kaiming uniform for fan_in = prod(k) c / groups, bias (o) uniform in +-1 / sqrt(fan_in),
    drawn in this order from the default generator of the device. `padding` is a number, one for each axis, or "same".

    Shapes:   x (n, h, w, c) -> (n, h', w', o), with data_format "NCHW" (n, c, h, w) -> (n, o, h', w');
              h' = (h + 2 padding - dilation (k - 1) - 1) // stride + 1
    Raises:   ShapeError if channels or the window do not fit
    """

    _axes = 2

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
        data_format: str = "NHWC",
        device: DeviceLike | None = None,
        dtype: DTypeLike = "float32",
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, data_format, device, dtype
        )
