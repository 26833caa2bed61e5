"""Pooling as layers."""

from __future__ import annotations

from typing import Any, ClassVar

from needle_core.errors import NeedleError
from needle_core.nn.convolution import read_window
from needle_core.nn.formats import FORMATS, channels_back, channels_last, normalize_format
from needle_core.nn.module import Module
from needle_core.op import Op
from needle_core.ops import adaptive_avg_pool, adaptive_max_pool, avg_pool, max, max_pool, mean
from needle_core.ops.convolution import per_axis
from needle_core.tensor import Tensor


class _Pooling(Module):
    """What all have in common: an op for channels last, its attributes, and the order of the axes."""

    _axes: ClassVar[int]
    _op: ClassVar[Op[..., Any]]

    def __init__(self, data_format: str | None, **attrs: Any) -> None:
        self.data_format = normalize_format(type(self).__name__, data_format or FORMATS[self._axes][0], self._axes)
        self.attrs = attrs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self._op(channels_last(type(self).__name__, x, self.data_format), **self.attrs)
        return channels_back(y, self.data_format) if y.ndim == x.ndim else y

    def extra_repr(self) -> str:
        usual = {"stride": self.attrs.get("size"), "padding": 0, "dilation": (1,) * self._axes, "count_include_pad": True}
        told = [f"{name}={value!r}" for name, value in self.attrs.items() if name != "size" and value != usual.get(name)]
        told = [str(self.attrs["size"]), *told] if "size" in self.attrs else []
        told += [] if self.data_format == FORMATS[self._axes][0] else [f"data_format={self.data_format!r}"]
        return ", ".join(told)


class _MaxPool(_Pooling):
    _op = max_pool

    def __init__(
        self, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, data_format: str | None = None
    ) -> None:
        super().__init__(data_format, **_window(self, kernel_size, stride, padding, dilation))


class MaxPool1d(_MaxPool):
    """MaxPool2d over one axis: (n, w, c), with data_format="NCW" (n, c, w)."""

    _axes = 1


class MaxPool2d(_MaxPool):
    """The greatest element of each window: `ndl.max_pool`. `stride` is `kernel_size` by default.

    Shapes:   x (n, h, w, c) -> (n, h', w', c), with data_format="NCHW" (n, c, h, w) -> (n, c, h', w');
              h' = (h + 2 padding - dilation (kernel_size - 1) - 1) // stride + 1
    Raises:   ShapeError if the window does not fit, or somewhere holds nothing but padding
    """

    _axes = 2


class _AvgPool(_Pooling):
    _op = avg_pool

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        count_include_pad: bool = True,
        data_format: str | None = None,
    ) -> None:
        window = _window(self, kernel_size, stride, padding)
        super().__init__(data_format, **window, count_include_pad=count_include_pad)


class AvgPool1d(_AvgPool):
    """AvgPool2d over one axis: (n, w, c), with data_format="NCW" (n, c, w)."""

    _axes = 1


class AvgPool2d(_AvgPool):
    """The mean of each window: `ndl.avg_pool`. `stride` is `kernel_size` by default.

    The zeros of the padding count as elements unless `count_include_pad` is False.

    Shapes:   x (n, h, w, c) -> (n, h', w', c), with data_format="NCHW" (n, c, h, w) -> (n, c, h', w');
              h' = (h + 2 padding - kernel_size) // stride + 1
    Raises:   ShapeError if the window does not fit, or somewhere holds nothing but padding
    """

    _axes = 2


class _AdaptivePool(_Pooling):
    def __init__(self, output_size: Any, data_format: str | None = None) -> None:
        try:
            size = per_axis("output_size", output_size, self._axes)
        except NeedleError as error:
            raise error.located(type(self).__name__, {}) from None
        super().__init__(data_format, size=size)


class AdaptiveMaxPool1d(_AdaptivePool):
    """AdaptiveMaxPool2d over one axis: (n, w, c), with data_format="NCW" (n, c, w)."""

    _axes = 1
    _op = adaptive_max_pool


class AdaptiveMaxPool2d(_AdaptivePool):
    """The greatest elements of as many windows as `output_size` says, which share the axes: `ndl.adaptive_max_pool`.

    Shapes:   x (n, h, w, c) -> (n, *output_size, c), with data_format="NCHW" (n, c, h, w) -> (n, c, *output_size)
    """

    _axes = 2
    _op = adaptive_max_pool


class AdaptiveAvgPool1d(_AdaptivePool):
    """AdaptiveAvgPool2d over one axis: (n, w, c), with data_format="NCW" (n, c, w)."""

    _axes = 1
    _op = adaptive_avg_pool


class AdaptiveAvgPool2d(_AdaptivePool):
    """The means of as many windows as `output_size` says, which share the axes: `ndl.adaptive_avg_pool`.

    Shapes:   x (n, h, w, c) -> (n, *output_size, c), with data_format="NCHW" (n, c, h, w) -> (n, c, *output_size)
    """

    _axes = 2
    _op = adaptive_avg_pool


class _GlobalPool(_Pooling):
    _axes = 2

    def __init__(self, data_format: str | None = None) -> None:
        super().__init__(data_format, axes=(1, 2))


class GlobalMaxPool2d(_GlobalPool):
    """The greatest element of each channel of an image.

    Shapes:   x (n, h, w, c) -> (n, c), with data_format="NCHW" (n, c, h, w) -> (n, c)
    """

    _op = max


class GlobalAvgPool2d(_GlobalPool):
    """The mean of each channel of an image.

    Shapes:   x (n, h, w, c) -> (n, c), with data_format="NCHW" (n, c, h, w) -> (n, c)
    """

    _op = mean


def _window(layer: _Pooling, kernel_size: Any, stride: Any, padding: Any, dilation: Any = 1) -> dict[str, Any]:
    """The attributes of windows, as the ops have them."""
    steps = kernel_size if stride is None else stride
    size, steps, apart = read_window(type(layer).__name__, layer._axes, kernel_size, steps, padding, dilation)
    return {"size": size, "stride": steps, "padding": padding, "dilation": apart}
