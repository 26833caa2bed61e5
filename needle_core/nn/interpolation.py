"""Layers that change the size of images."""

from __future__ import annotations

from collections.abc import Sequence

from needle_core.errors import ArgumentError
from needle_core.nn.formats import FORMATS, channels_back, channels_last, normalize_format
from needle_core.nn.module import Module
from needle_core.ops import interpolate
from needle_core.tensor import Tensor


class Upsample(Module):
    """Images stretched to a `size` or by a `scale`, as `interpolate` does: one number for all spatial axes, or one for each.

    `mode` is "nearest", "linear" or, for images with two spatial axes, "bilinear".

    Shapes:   x (n, h, w, c) -> (n, *size, c) with data_format "NHWC", or "NCHW", "NWC", "NCW"
    """

    def __init__(
        self,
        size: int | Sequence[int] | None = None,
        scale: float | Sequence[float] | None = None,
        mode: str = "nearest",
        align_corners: bool = False,
        data_format: str = "NHWC",
    ) -> None:
        if (size is None) == (scale is None):
            raise ArgumentError("Upsample: give either a size or a scale", details={"size": size, "scale": scale})
        self.size, self.scale, self.mode, self.align_corners = size, scale, mode, align_corners
        self.data_format = normalize_format("Upsample", data_format, 1 if data_format in FORMATS[1] else 2)

    def forward(self, x: Tensor) -> Tensor:
        last = channels_last("Upsample", x, self.data_format)
        y = interpolate(last, size=self.size, scale=self.scale, mode=self.mode, align_corners=self.align_corners)
        return channels_back(y, self.data_format)

    def extra_repr(self) -> str:
        text = f"size={self.size}" if self.scale is None else f"scale={self.scale}"
        text += f", mode={self.mode!r}" + (", align_corners=True" if self.align_corners else "")
        return text + ("" if self.data_format == "NHWC" else f", data_format={self.data_format!r}")
