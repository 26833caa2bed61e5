"""Linear maps, tables, and layers that only rearrange."""

from __future__ import annotations

import math

from needle_core.backend import DeviceLike
from needle_core.nn import init
from needle_core.nn.module import Module, Parameter
from needle_core.ops import embedding, linear
from needle_core.spec import DTypeLike
from needle_core.tensor import Tensor


class Linear(Module):
    """An affine map of the last axis.

        y = x @ weight + bias

    weight (i, o) starts Kaiming uniform for fan_in = i, bias (o) for fan_in = o, drawn in this order from the default generator
    of the device.

    Shapes:   x (*s, i) -> (*s, o), i = in_features, o = out_features
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: DeviceLike | None = None,
        dtype: DTypeLike = "float32",
    ) -> None:
        self.in_features, self.out_features = in_features, out_features
        self.weight = Parameter(init.kaiming_uniform(in_features, out_features, device=device, dtype=dtype))
        self.bias: Parameter | None = None
        if bias:
            self.bias = Parameter(init.kaiming_uniform(out_features, 1, shape=(out_features,), device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight if self.bias is None else linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}" + ("" if self.bias is not None else ", bias=False")


class Embedding(Module):
    """A table with one row for each of `count` things, which are named by integers. The rows start standard normal.

    Shapes:   x (*s) -> (*s, dim); integers in [-count, count)
    Raises:   BoundsError for an integer outside of that range
    """

    def __init__(self, count: int, dim: int, device: DeviceLike | None = None, dtype: DTypeLike = "float32") -> None:
        self.count, self.dim = count, dim
        self.weight = Parameter(init.randn(count, dim, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return embedding(x, self.weight)

    def extra_repr(self) -> str:
        return f"{self.count}, {self.dim}"


class Flatten(Module):
    """All axes but the first as one: (n, *s) -> (n, product of s)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], math.prod(x.shape[1:]))


class Identity(Module):
    """What it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return x
