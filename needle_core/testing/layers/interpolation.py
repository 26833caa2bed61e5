"""Layers that change the size of images."""

from __future__ import annotations

from typing import Final

import numpy as np

from needle_core import nn
from needle_core.testing.layers.layer import Layer, State, like_op, of_op
from needle_core.testing.samples import Array, real


def _channels_first(s: State, x: Array) -> Array:
    last = of_op("interpolate", size=5, mode="linear")(s, x.swapaxes(1, 2))
    return np.asarray(last.swapaxes(1, 2))


LAYERS: Final = (
    like_op(nn.Upsample, "interpolate", real(2, 2, 3, 2), scale=2),
    like_op(nn.Upsample, "interpolate", real(1, 2, 3, 2), size=(3, 5), mode="bilinear"),
    Layer("Upsample", "size=5, mode='linear', data_format='NCW'",
          lambda d: nn.Upsample(5, mode="linear", data_format="NCW"), _channels_first, (real(2, 2, 3),)),
)  # fmt: skip
