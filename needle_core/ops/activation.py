"""Activations: functions of one tensor, element by element.

Shapes: x (*s) -> (*s). Dtypes: floating; integers become float32.
"""

from __future__ import annotations

import math
from typing import Any

from needle_core.doors import broadcast_shapes, broadcasted_floating, floating, promoting, to_floating
from needle_core.errors import ArgumentError
from needle_core.op import composite
from needle_core.ops.elementary import erf, exp, expm1, log1p, tanh
from needle_core.ops.elementwise import abs, clip, less, maximum, where
from needle_core.spec import Spec
from needle_core.tensor import Tensor

__all__ = [
    "elu", "gelu", "gelu_grad", "hard_sigmoid", "leaky_relu", "log_sigmoid", "mish", "relu", "relu6", "relu_grad", "selu",
    "sigmoid", "silu", "silu_grad", "softplus", "softsign"
]  # fmt: skip


@promoting(to_floating)
def _with_attributes(x: Spec, **attrs: Any) -> tuple[Spec, dict[str, Any]]:
    return x, attrs


@composite(floating)
def relu(x: Tensor) -> Tensor:
    """max(x, 0).

    Gradient: 0 at 0.
    """
    return maximum(x, 0)


@composite(broadcasted_floating)
def relu_grad(g: Tensor, y: Tensor) -> Tensor:
    """The gradient of relu from its output: g where y is positive, 0 elsewhere."""
    return where(less(0, y), g, 0)


relu_grad.vjp(lambda h, z, g, y: relu_grad(h, y), None)
relu.vjp(lambda g, y, x: relu_grad(g, y))


@composite(floating)
def relu6(x: Tensor) -> Tensor:
    """min(max(x, 0), 6).

    Source: Howard et al. 2017, arXiv:1704.04861
    """
    return clip(x, min=0, max=6)


@composite(_with_attributes)
def leaky_relu(x: Tensor, *, slope: float = 0.01) -> Tensor:
    """x where positive, `slope` times x elsewhere.

    Source: Maas, Hannun & Ng 2013
    """
    return where(less(0, x), x, slope * x)


@composite(_with_attributes)
def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """x where positive, alpha (exp(x) - 1) elsewhere.

    Source: Clevert, Unterthiner & Hochreiter 2015, arXiv:1511.07289
    """
    return where(less(0, x), x, alpha * expm1(where(less(0, x), 0, x)))


@composite(floating)
def selu(x: Tensor) -> Tensor:
    """A scaled elu whose activations keep mean 0 and variance 1.

    Source: Klambauer et al. 2017, arXiv:1706.02515
    """
    return 1.0507009873554805 * elu(x, alpha=1.6732632423543772)


@composite(floating)
def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x)), computed without overflow."""
    e = exp(-abs(x))
    return where(less(x, 0), e, 1) / (1 + e)


sigmoid.vjp(lambda g, y, x: g * (y * (1 - y)))


@composite(floating)
def log_sigmoid(x: Tensor) -> Tensor:
    """log(sigmoid(x)), computed without overflow."""
    return -softplus(-x)


@composite(floating)
def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), computed without overflow."""
    return maximum(x, 0) + log1p(exp(-abs(x)))


softplus.vjp(lambda g, y, x: g * sigmoid(x))


@composite(floating)
def softsign(x: Tensor) -> Tensor:
    """x / (1 + |x|)."""
    return x / (1 + abs(x))


@composite(floating)
def silu(x: Tensor) -> Tensor:
    """x sigmoid(x), also known as swish.

    Source: Hendrycks & Gimpel 2016, arXiv:1606.08415
    """
    return x * sigmoid(x)


@composite(broadcasted_floating)
def silu_grad(g: Tensor, x: Tensor) -> Tensor:
    """The gradient of silu from its input: g (s + x s (1 - s)), s = sigmoid(x)."""
    s, z = sigmoid(x), clip(x, min=-1e4, max=1e4)
    return g * (s + z * s * (1 - s))


silu.vjp(lambda g, y, x: silu_grad(g, x))


@composite(floating)
def mish(x: Tensor) -> Tensor:
    """x tanh(softplus(x)).

    Source: Misra 2019, arXiv:1908.08681
    """
    return x * tanh(softplus(x))


@composite(floating)
def hard_sigmoid(x: Tensor) -> Tensor:
    """min(max(x / 6 + 1/2, 0), 1)."""
    return clip(x / 6 + 0.5, min=0, max=1)


def _form(approximate: str) -> dict[str, Any]:
    if approximate not in ("none", "tanh"):
        raise ArgumentError(f"approximate is 'none' or 'tanh', not {approximate!r}")
    return {"approximate": approximate}


@promoting(to_floating)
def _gelu(x: Spec, *, approximate: str = "none") -> tuple[Spec, dict[str, Any]]:
    return x, _form(approximate)


@promoting(to_floating)
def _gelu_gradient(g: Spec, x: Spec, *, approximate: str = "none") -> tuple[Spec, dict[str, Any]]:
    return g.like(shape=broadcast_shapes(g, x)), _form(approximate)


@composite(_gelu)
def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    """x times the probability that a standard normal number is less than x.

        y = x (1 + erf(x / sqrt 2)) / 2,  or with approximate="tanh":  x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2

    Source: Hendrycks & Gimpel 2016, arXiv:1606.08415
    """
    if approximate == "tanh":
        return 0.5 * x * (1 + tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
    return 0.5 * x * (1 + erf(x * math.sqrt(0.5)))


@composite(_gelu_gradient)
def gelu_grad(g: Tensor, x: Tensor, *, approximate: str = "none") -> Tensor:
    """The gradient of gelu from its input; far out, where it is 0 or g in every dtype, x counts as 40, or -40."""
    z = clip(x, min=-40, max=40)
    if approximate == "none":
        return g * (0.5 * (1 + erf(z * math.sqrt(0.5))) + z * (exp(-0.5 * z * z) * (1 / math.sqrt(2 * math.pi))))
    c = math.sqrt(2 / math.pi)
    y = tanh(c * (z + 0.044715 * z * z * z))
    return g * (0.5 * (1 + y) + 0.5 * z * ((1 - y * y) * (c + 3 * 0.044715 * c * z * z)))


gelu.vjp(lambda g, y, x, approximate: gelu_grad(g, x, approximate=approximate))
