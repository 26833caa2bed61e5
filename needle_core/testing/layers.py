"""What each layer of needle_core.nn computes, in float64 NumPy; where a layer is an op, the op's reference says it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np

from needle_core import nn
from needle_core.testing import CASES
from needle_core.testing.samples import Array, Input, index, real

State: TypeAlias = Mapping[str, Array]

BENT: Final = real(3, 4, low=-4, high=7, kinks=(-3.0, 0.0, 3.0, 6.0))


@dataclass(frozen=True)
class Layer:
    """A layer as `make` builds it in a dtype, and what it computes: `reference(state, *inputs)`."""

    name: str
    text: str
    make: Callable[[str], nn.Module]
    reference: Callable[..., Array]
    inputs: tuple[Input, ...]


def _activation(kind: type[nn.Module], op: str, **options: Any) -> Layer:
    return Layer(kind.__name__, _text(options), lambda dtype: kind(**options), _of_op(op, **options), (BENT,))


def _loss(kind: type[nn.Module], op: str, *inputs: Input, **options: Any) -> Layer:
    return Layer(kind.__name__, _text(options), lambda dtype: kind(**options), _of_op(op, **options), inputs)


def _text(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in options.items()) or "defaults"


def _of_op(op: str, **attrs: Any) -> Callable[..., Array]:
    """The reference of an op, which also takes the parameters that are called as its operands."""
    return lambda s, *xs: np.asarray(CASES[op].reference(*xs, *s.values(), **attrs))


def _batch_norm_in_evaluation(s: State, x: Array) -> Array:
    return np.asarray((x - s["running_mean"]) / np.sqrt(s["running_var"] + 1e-5) * s["weight"] + s["bias"])


def _perceptron(s: State, x: Array) -> Array:
    return np.asarray(np.tanh(x @ s["0.weight"] + s["0.bias"]) @ s["2.weight"])


LAYERS: Final = (
    Layer("Linear", "3, 4", lambda d: nn.Linear(3, 4, dtype=d), _of_op("linear"), (real(2, 3),)),
    Layer("Linear", "3, 4, 3 axes", lambda d: nn.Linear(3, 4, dtype=d), _of_op("linear"), (real(2, 1, 3),)),
    Layer("Linear", "3, 4, bias=False", lambda d: nn.Linear(3, 4, bias=False, dtype=d),
          lambda s, x: x @ s["weight"], (real(2, 3),)),
    Layer("Embedding", "5, 3", lambda d: nn.Embedding(5, 3, dtype=d),
          lambda s, x: s["weight"][x], (index(2, 3, low=-5, below=5),)),
    Layer("Flatten", "defaults", lambda d: nn.Flatten(), lambda s, x: x.reshape(2, 12), (real(2, 3, 4),)),
    Layer("Identity", "defaults", lambda d: nn.Identity(), lambda s, x: x, (real(2, 3),)),
    Layer("BatchNorm1d", "4", lambda d: nn.BatchNorm1d(4, dtype=d),
          lambda s, x: CASES["batch_norm"].reference(x, s["weight"], s["bias"]), (real(5, 4),)),
    Layer("BatchNorm1d", "4, in evaluation", lambda d: nn.BatchNorm1d(4, dtype=d).eval(),
          _batch_norm_in_evaluation, (real(5, 4),)),
    Layer("LayerNorm", "4", lambda d: nn.LayerNorm(4, dtype=d), _of_op("layer_norm"), (real(3, 4),)),
    Layer("LayerNorm", "(2, 3)", lambda d: nn.LayerNorm((2, 3), dtype=d), _of_op("layer_norm"), (real(2, 2, 3),)),
    Layer("Dropout", "0.5, in evaluation", lambda d: nn.Dropout(0.5).eval(), lambda s, x: x, (real(2, 3),)),
    Layer("Sequential", "Linear, Tanh, Linear",
          lambda d: nn.Sequential(nn.Linear(3, 4, dtype=d), nn.Tanh(), nn.Linear(4, 2, bias=False, dtype=d)),
          _perceptron, (real(2, 3),)),
    Layer("Residual", "Linear", lambda d: nn.Residual(nn.Linear(3, 3, dtype=d)),
          lambda s, x: x + (x @ s["fn.weight"] + s["fn.bias"]), (real(2, 3),)),
    _activation(nn.ReLU, "relu"), _activation(nn.ReLU6, "relu6"), _activation(nn.LeakyReLU, "leaky_relu", slope=0.2),
    _activation(nn.ELU, "elu", alpha=0.5), _activation(nn.SELU, "selu"), _activation(nn.GELU, "gelu"),
    _activation(nn.GELU, "gelu", approximate="tanh"), _activation(nn.SiLU, "silu"), _activation(nn.Mish, "mish"),
    _activation(nn.Sigmoid, "sigmoid"), _activation(nn.LogSigmoid, "log_sigmoid"), _activation(nn.HardSigmoid, "hard_sigmoid"),
    _activation(nn.Tanh, "tanh"), _activation(nn.Softplus, "softplus"), _activation(nn.Softsign, "softsign"),
    _activation(nn.Softmax, "softmax", axis=-1), _activation(nn.LogSoftmax, "log_softmax", axis=0),
    *(_loss(nn.SoftmaxLoss, "cross_entropy", real(4, 3), index(4, below=3), reduction=r) for r in ("mean", "sum", "none")),
    *(_loss(nn.L2Loss, "mse_loss", real(2, 3), real(2, 3), reduction=r) for r in ("mean", "sum", "none")),
    _loss(nn.L1Loss, "l1_loss", real(2, 3, low=1, high=2), real(2, 3, low=-2, high=0), reduction="mean"),
    _loss(nn.BCEWithLogitsLoss, "bce_with_logits", real(2, 3), real(2, 3, low=0, high=1), reduction="mean"),
)  # fmt: skip
