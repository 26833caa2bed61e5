"""Declarations of the ops, by which `needle conform` proves them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from needle_core.errors import ShapeError
from needle_core.testing.samples import COMPLEX, ONE, real, refuses, sample

if TYPE_CHECKING:
    from needle_core.plugins.registrar import Registrar


def declare(registrar: Registrar) -> None:
    registrar.case(
        "fused_add_scalars",
        lambda x, c0, c1: (x + c0, x + c1),
        [sample(real(*shape), real(), real()) for shape in ONE],
        gradient=COMPLEX,
        rounds=1,
        refusals=[
            refuses(ShapeError, "c0 is a single number, not a tensor with 1 axes", real(2), real(2), real()),
            refuses(ShapeError, "c1 is a single number, not a tensor with 2 axes", real(2), real(), real(1, 1)),
        ],
    )
