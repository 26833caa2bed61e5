"""The layers of the family convolution."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from needle_core import nn
from needle_core.testing import CASES
from needle_core.testing.layers.layer import Layer, State
from needle_core.testing.samples import Array, Input, real


def _convolution(kind: Any, *sizes: Any, x: Input, **options: Any) -> Layer:
    """A layer that computes the op, and adds its bias; with channels second, of images turned around."""
    text = ", ".join([*map(str, sizes), *(f"{name}={value!r}" for name, value in options.items())])
    attrs = {name: value for name, value in options.items() if name not in ("bias", "data_format")}
    op = "conv_transpose" if kind in (nn.ConvTranspose1d, nn.ConvTranspose2d) else "conv"
    second = options.get("data_format") in ("NCW", "NCHW")

    def reference(s: State, x: Array) -> Array:
        x = np.moveaxis(x, 1, -1) if second else x
        y = CASES[op].reference(x, s["weight"], **attrs) + s.get("bias", 0)
        return np.moveaxis(y, -1, 1) if second else y

    return Layer(kind.__name__, text, lambda d: kind(*sizes, **options, dtype=d), reference, (x,))


LAYERS: Final = (
    _convolution(nn.Conv1d, 2, 3, 2, x=real(2, 4, 2)),
    _convolution(nn.Conv1d, 2, 2, 3, x=real(1, 2, 5), stride=2, padding=1, bias=False, data_format="NCW"),
    _convolution(nn.Conv2d, 2, 3, 3, x=real(1, 4, 3, 2), padding=1),
    _convolution(nn.Conv2d, 1, 2, (2, 1), x=real(2, 3, 3, 1), stride=(1, 2), padding="same", dilation=2),
    _convolution(nn.Conv2d, 4, 2, 2, x=real(1, 4, 3, 2), groups=2, data_format="NCHW"),
    _convolution(nn.ConvTranspose1d, 2, 3, 3, x=real(1, 3, 2), stride=2, output_padding=1),
    _convolution(nn.ConvTranspose2d, 2, 1, 2, x=real(1, 2, 2, 2), stride=2, bias=False),
    _convolution(nn.ConvTranspose2d, 2, 4, 3, x=real(1, 2, 3, 2), padding=1, groups=2, data_format="NCHW"),
)
