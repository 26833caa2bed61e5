"""What each layer of needle_core.nn computes, by family, as in needle_core.nn."""

from __future__ import annotations

from typing import Final

from needle_core.testing.layers import (
    activation,
    attention,
    convolution,
    interpolation,
    linear,
    loss,
    normalization,
    pooling,
    recurrent,
)
from needle_core.testing.layers.layer import Layer

_FAMILIES: Final = (linear, convolution, pooling, interpolation, recurrent, attention, normalization, activation, loss)

LAYERS: Final[tuple[Layer, ...]] = tuple(layer for family in _FAMILIES for layer in family.LAYERS)
