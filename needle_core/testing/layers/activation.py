"""Activations."""

from __future__ import annotations

from typing import Any, Final

from needle_core import nn
from needle_core.testing.layers.layer import Layer, like_op
from needle_core.testing.samples import real


def _bent(kind: type[nn.Module], op: str, **options: Any) -> Layer:
    return like_op(kind, op, real(3, 4, low=-4, high=7, kinks=(-3.0, 0.0, 3.0, 6.0)), **options)


LAYERS: Final = (
    _bent(nn.ReLU, "relu"), _bent(nn.ReLU6, "relu6"), _bent(nn.LeakyReLU, "leaky_relu", slope=0.2),
    _bent(nn.ELU, "elu", alpha=0.5), _bent(nn.SELU, "selu"), _bent(nn.GELU, "gelu"),
    _bent(nn.GELU, "gelu", approximate="tanh"), _bent(nn.SiLU, "silu"), _bent(nn.Mish, "mish"),
    _bent(nn.Sigmoid, "sigmoid"), _bent(nn.LogSigmoid, "log_sigmoid"), _bent(nn.HardSigmoid, "hard_sigmoid"),
    _bent(nn.Tanh, "tanh"), _bent(nn.Softplus, "softplus"), _bent(nn.Softsign, "softsign"),
    _bent(nn.Softmax, "softmax", axis=-1), _bent(nn.LogSoftmax, "log_softmax", axis=0),
)  # fmt: skip
