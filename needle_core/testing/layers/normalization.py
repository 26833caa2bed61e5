"""Layers that normalise activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from needle_core import nn
from needle_core.testing import CASES
from needle_core.testing.layers.layer import Layer, State, of_op
from needle_core.testing.samples import Array, real


def _batch_norm_in_evaluation(s: State, x: Array) -> Array:
    return np.asarray((x - s["running_mean"]) / np.sqrt(s["running_var"] + 1e-5) * s["weight"] + s["bias"])


def _batch_norm(s: State, x: Array) -> Array:
    mean, var = CASES["batch_statistics"].reference(x)
    return _batch_norm_in_evaluation({**s, "running_mean": mean, "running_var": var}, x)


def _channels_first(reference: Callable[[State, Array], Array]) -> Callable[[State, Array], Array]:
    return lambda s, x: np.moveaxis(reference(s, np.moveaxis(x, 1, -1)), -1, 1)


LAYERS: Final = (
    Layer("BatchNorm1d", "4", lambda d: nn.BatchNorm1d(4, dtype=d), _batch_norm, (real(5, 4),)),
    Layer("BatchNorm1d", "4, in evaluation", lambda d: nn.BatchNorm1d(4, dtype=d).eval(),
          _batch_norm_in_evaluation, (real(5, 4),)),
    Layer("BatchNorm2d", "3", lambda d: nn.BatchNorm2d(3, dtype=d), _batch_norm, (real(2, 3, 2, 3),)),
    Layer("BatchNorm2d", "3, data_format='NCHW'", lambda d: nn.BatchNorm2d(3, data_format="NCHW", dtype=d),
          _channels_first(_batch_norm), (real(2, 3, 2, 2),)),
    Layer("BatchNorm2d", "3, data_format='NCHW', in evaluation",
          lambda d: nn.BatchNorm2d(3, data_format="NCHW", dtype=d).eval(),
          _channels_first(_batch_norm_in_evaluation), (real(2, 3, 2, 2),)),
    Layer("LayerNorm", "4", lambda d: nn.LayerNorm(4, dtype=d), of_op("layer_norm"), (real(3, 4),)),
    Layer("LayerNorm", "(2, 3)", lambda d: nn.LayerNorm((2, 3), dtype=d), of_op("layer_norm"), (real(2, 2, 3),)),
    Layer("GroupNorm", "2, 6", lambda d: nn.GroupNorm(2, 6, dtype=d), of_op("group_norm", groups=2), (real(3, 2, 6),)),
    Layer("GroupNorm", "2, 6, data_format='NCHW'", lambda d: nn.GroupNorm(2, 6, data_format="NCHW", dtype=d),
          _channels_first(of_op("group_norm", groups=2)), (real(2, 6, 2, 1),)),
    Layer("InstanceNorm2d", "2", lambda d: nn.InstanceNorm2d(2, dtype=d), of_op("instance_norm"), (real(2, 2, 3, 2),)),
    Layer("InstanceNorm2d", "2, data_format='NCHW'", lambda d: nn.InstanceNorm2d(2, data_format="NCHW", dtype=d),
          _channels_first(of_op("instance_norm")), (real(2, 2, 2, 3),)),
    Layer("RMSNorm", "4", lambda d: nn.RMSNorm(4, dtype=d), of_op("rms_norm"), (real(3, 4),)),
    Layer("RMSNorm", "(2, 3)", lambda d: nn.RMSNorm((2, 3), dtype=d), of_op("rms_norm"), (real(2, 2, 3),)),
)  # fmt: skip
