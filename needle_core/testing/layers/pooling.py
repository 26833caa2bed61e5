"""The layers of the family pooling."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from needle_core import nn
from needle_core.testing import CASES
from needle_core.testing.layers.layer import Layer, State
from needle_core.testing.samples import Array, Input, real


def _pooling(kind: Any, op: str, size: Any, x: Input, **options: Any) -> Layer:
    """A layer that computes the op; with channels second, of images turned around."""
    text = ", ".join([str(size), *(f"{name}={value!r}" for name, value in options.items())])
    attrs = {name: value for name, value in options.items() if name != "data_format"}
    second = options.get("data_format") in ("NCW", "NCHW")

    def reference(s: State, x: Array) -> Array:
        x = np.moveaxis(x, 1, -1) if second else x
        y: Array = CASES[op].reference(x, size=size, **attrs)
        return np.moveaxis(y, -1, 1) if second else y

    return Layer(kind.__name__, text, lambda d: kind(size, **options), reference, (x,))


def _global(kind: Any, reference: Any, data_format: str, axes: tuple[int, int]) -> Layer:
    x = real(2, 2, 3, 4, distinct=True)
    return Layer(
        kind.__name__, f"data_format={data_format!r}", lambda d: kind(data_format), lambda s, x: reference(x, axes), (x,)
    )


def _max(x: Array, axes: tuple[int, int]) -> Array:
    """The greatest over the axes, by the real part."""
    lines = np.moveaxis(x, axes, (-2, -1))
    lines = lines.reshape(*lines.shape[:2], -1)
    return np.take_along_axis(lines, lines.real.argmax(-1, keepdims=True), -1)[..., 0]


_ROW, _IMAGE = real(2, 6, 2, distinct=True), real(1, 4, 5, 2, distinct=True)
LAYERS: Final = (
    _pooling(nn.MaxPool1d, "max_pool", 2, x=_ROW), _pooling(nn.MaxPool1d, "max_pool", 2, x=_ROW, data_format="NCW"),
    _pooling(nn.MaxPool2d, "max_pool", 3, x=_IMAGE, stride=2, padding=1),
    _pooling(nn.MaxPool2d, "max_pool", (2, 1), x=_IMAGE, dilation=2, data_format="NCHW"),
    _pooling(nn.AvgPool1d, "avg_pool", 3, x=_ROW, stride=1, padding=1),
    _pooling(nn.AvgPool2d, "avg_pool", 2, x=_IMAGE),
    _pooling(nn.AvgPool2d, "avg_pool", 3, x=_IMAGE, stride=1, padding=1, count_include_pad=False, data_format="NCHW"),
    _pooling(nn.AdaptiveMaxPool1d, "adaptive_max_pool", 4, x=_ROW),
    _pooling(nn.AdaptiveMaxPool2d, "adaptive_max_pool", (2, 3), x=_IMAGE, data_format="NCHW"),
    _pooling(nn.AdaptiveAvgPool1d, "adaptive_avg_pool", 3, x=_ROW, data_format="NCW"),
    _pooling(nn.AdaptiveAvgPool2d, "adaptive_avg_pool", 2, x=_IMAGE),
    *(_global(nn.GlobalMaxPool2d, _max, form, axes) for form, axes in (("NHWC", (1, 2)), ("NCHW", (2, 3)))),
    *(_global(nn.GlobalAvgPool2d, np.mean, form, axes) for form, axes in (("NHWC", (1, 2)), ("NCHW", (2, 3)))),
)  # fmt: skip
