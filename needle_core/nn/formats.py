"""Where the channels of images stand: ops take them last; layers also take and give them behind the first axis."""

from __future__ import annotations

from typing import Any

from needle_core.errors import ArgumentError, ShapeError
from needle_core.ops import moveaxis
from needle_core.tensor import Tensor

FORMATS = {1: ("NWC", "NCW"), 2: ("NHWC", "NCHW")}


def normalize_format(layer: str, data_format: Any, axes: int) -> str:
    """The format of images with so many spatial axes; its letters name the axes. Raises ArgumentError for another."""
    if data_format not in FORMATS[axes]:
        raise ArgumentError(f"{layer}: data_format is {' or '.join(map(repr, FORMATS[axes]))}, not {data_format!r}")
    return str(data_format)


def channels_last(layer: str, x: Tensor, data_format: str) -> Tensor:
    """Images in `data_format` with their channels last. Raises ShapeError for another number of axes."""
    if x.ndim != len(data_format):
        raise ShapeError(f"{layer}: {data_format} has {len(data_format)} axes, not {x.ndim}", details={"x": x.spec})
    return moveaxis(x, 1, -1) if data_format[1] == "C" else x


def channels_back(y: Tensor, data_format: str) -> Tensor:
    """Images with their channels last in `data_format`."""
    return moveaxis(y, -1, 1) if data_format[1] == "C" else y
