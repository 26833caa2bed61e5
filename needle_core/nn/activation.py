"""Activations as modules; the ops of the same names say what they compute."""

from __future__ import annotations

from needle_core import ops
from needle_core.nn.module import Module
from needle_core.tensor import Axes, Tensor


class ReLU(Module):
    """max(x, 0)."""

    def forward(self, x: Tensor) -> Tensor:
        return ops.relu(x)


class ReLU6(Module):
    """min(max(x, 0), 6)."""

    def forward(self, x: Tensor) -> Tensor:
        return ops.relu6(x)


class LeakyReLU(Module):
    """x where positive, `slope` times x elsewhere."""

    def __init__(self, slope: float = 0.01) -> None:
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        return ops.leaky_relu(x, slope=self.slope)

    def extra_repr(self) -> str:
        return f"{self.slope}"


class ELU(Module):
    """x where positive, alpha (exp(x) - 1) elsewhere."""

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        return ops.elu(x, alpha=self.alpha)

    def extra_repr(self) -> str:
        return f"{self.alpha}"


class SELU(Module):
    """A scaled ELU whose activations keep mean 0 and variance 1."""

    def forward(self, x: Tensor) -> Tensor:
        return ops.selu(x)


class GELU(Module):
    """x times the probability that a standard normal number is less than x; `approximate` is "none" or "tanh"."""

    def __init__(self, approximate: str = "none") -> None:
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        return ops.gelu(x, approximate=self.approximate)

    def extra_repr(self) -> str:
        return "" if self.approximate == "none" else f"approximate={self.approximate!r}"


class SiLU(Module):
    """x sigmoid(x), also known as swish."""

    def forward(self, x: Tensor) -> Tensor:
        return ops.silu(x)


class Mish(Module):
    """x tanh(softplus(x))."""

    def forward(self, x: Tensor) -> Tensor:
        return ops.mish(x)


class Sigmoid(Module):
    """1 / (1 + exp(-x))."""

    def forward(self, x: Tensor) -> Tensor:
        return ops.sigmoid(x)


class LogSigmoid(Module):
    """log(sigmoid(x)), without overflow."""

    def forward(self, x: Tensor) -> Tensor:
        return ops.log_sigmoid(x)


class HardSigmoid(Module):
    """min(max(x / 6 + 1/2, 0), 1)."""

    def forward(self, x: Tensor) -> Tensor:
        return ops.hard_sigmoid(x)


class Tanh(Module):
    """The hyperbolic tangent."""

    def forward(self, x: Tensor) -> Tensor:
        return ops.tanh(x)


class Softplus(Module):
    """log(1 + exp(x)), without overflow."""

    def forward(self, x: Tensor) -> Tensor:
        return ops.softplus(x)


class Softsign(Module):
    """x / (1 + |x|)."""

    def forward(self, x: Tensor) -> Tensor:
        return ops.softsign(x)


class Softmax(Module):
    """exp(x) / sum exp(x) over `axis`, one or several."""

    def __init__(self, axis: Axes = -1) -> None:
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        return ops.softmax(x, axis=self.axis)

    def extra_repr(self) -> str:
        return "" if self.axis == -1 else f"axis={self.axis}"


class LogSoftmax(Module):
    """log(softmax(x)) over `axis`, one or several, without overflow."""

    def __init__(self, axis: Axes = -1) -> None:
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        return ops.log_softmax(x, axis=self.axis)

    def extra_repr(self) -> str:
        return "" if self.axis == -1 else f"axis={self.axis}"
