"""The layers of the family convolution."""

from __future__ import annotations

from typing import Final

from needle_core.testing.layers.layer import Layer

LAYERS: Final[tuple[Layer, ...]] = ()
