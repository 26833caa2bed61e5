"""Linear maps, tables, containers, and layers that only rearrange."""

from __future__ import annotations

from typing import Final

import numpy as np

from needle_core import nn
from needle_core.testing.layers.layer import Layer, State, of_op
from needle_core.testing.samples import Array, index, real


def _perceptron(s: State, x: Array) -> Array:
    return np.asarray(np.tanh(x @ s["0.weight"] + s["0.bias"]) @ s["2.weight"])


LAYERS: Final = (
    Layer("Linear", "3, 4", lambda d: nn.Linear(3, 4, dtype=d), of_op("linear"), (real(2, 3),)),
    Layer("Linear", "3, 4, 3 axes", lambda d: nn.Linear(3, 4, dtype=d), of_op("linear"), (real(2, 1, 3),)),
    Layer("Linear", "3, 4, bias=False", lambda d: nn.Linear(3, 4, bias=False, dtype=d),
          lambda s, x: x @ s["weight"], (real(2, 3),)),
    Layer("Embedding", "5, 3", lambda d: nn.Embedding(5, 3, dtype=d),
          lambda s, x: s["weight"][x], (index(2, 3, low=-5, below=5),)),
    Layer("Flatten", "defaults", lambda d: nn.Flatten(), lambda s, x: x.reshape(2, 12), (real(2, 3, 4),)),
    Layer("Identity", "defaults", lambda d: nn.Identity(), lambda s, x: x, (real(2, 3),)),
    Layer("Dropout", "0.5, in evaluation", lambda d: nn.Dropout(0.5).eval(), lambda s, x: x, (real(2, 3),)),
    Layer("Sequential", "Linear, Tanh, Linear",
          lambda d: nn.Sequential(nn.Linear(3, 4, dtype=d), nn.Tanh(), nn.Linear(4, 2, bias=False, dtype=d)),
          _perceptron, (real(2, 3),)),
    Layer("Residual", "Linear", lambda d: nn.Residual(nn.Linear(3, 3, dtype=d)),
          lambda s, x: x + (x @ s["fn.weight"] + s["fn.bias"]), (real(2, 3),)),
)  # fmt: skip
