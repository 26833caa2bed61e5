"""Further ops for Needle: TensorTuple, a value of several tensors, and an op that returns one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from needle_core.plugins import hookimpl
from needle_extra_ops.fused import FusedAddScalars, fused_add_scalars
from needle_extra_ops.tensor_tuple import TensorTuple, make_tuple, tuple_get_item

if TYPE_CHECKING:
    from needle_core.plugins.registrar import Registrar

__all__ = ["FusedAddScalars", "TensorTuple", "fused_add_scalars", "make_tuple", "tuple_get_item"]

needle_api = 1


@hookimpl
def needle_register_ops(registrar: Registrar) -> None:
    registrar.op(fused_add_scalars)


@hookimpl
def needle_conformance(registrar: Registrar) -> None:
    from needle_extra_ops import samples

    samples.declare(registrar)
