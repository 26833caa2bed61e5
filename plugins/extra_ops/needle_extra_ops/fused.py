"""Ops that compute several tensors in one go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from needle_core.doors import promoting, to_common
from needle_core.errors import ShapeError
from needle_core.op import composite
from needle_core.spec import Spec
from needle_core.tensor import Tensor
from needle_extra_ops.tensor_tuple import TensorTuple


@promoting(to_common)
def shifted(x: Spec, c0: Spec, c1: Spec) -> tuple[TensorTuple, dict[str, Any]]:
    """A tensor and two single numbers; the outputs are like the tensor."""
    for name, c in (("c0", c0), ("c1", c1)):
        if c.shape:
            raise ShapeError(f"{name} is a single number, not a tensor with {c.ndim} axes")
    return TensorTuple([x, x]), {}


@composite(shifted)
def fused_add_scalars(x: Tensor, c0: Tensor | float, c1: Tensor | float) -> TensorTuple:
    """(x + c0, x + c1), as a TensorTuple.

    Shapes:   x (*s), c0 (), c1 () -> (*s), (*s)
    Dtypes:   all; the three meet in one, as in addition
    """
    return TensorTuple([x + c0, x + c1])


fused_add_scalars.vjp(lambda g, y, x, c0, c1: g[0] + g[1], lambda g, y, x, c0, c1: g[0], lambda g, y, x, c0, c1: g[1])


@dataclass(frozen=True)
class FusedAddScalars:
    """`fused_add_scalars` with its numbers fixed, as the course writes it: FusedAddScalars(c0, c1)(x)."""

    c0: Tensor | float
    c1: Tensor | float

    def __call__(self, x: Tensor) -> TensorTuple:
        return fused_add_scalars(x, self.c0, self.c1)
