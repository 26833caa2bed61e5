"""The primitives: what a new backend must have before it runs everything."""

from __future__ import annotations

import needle_core as ndl
from needle_core.op import KERNELS, OPS

PRIMITIVES = [
    "abs", "add", "argsort", "astype", "atan2", "broadcast_to", "concat", "cos", "cumsum", "divide", "equal", "erf", "exp",
    "flip", "floor", "floor_divide", "iota", "less", "log", "matmul", "max", "maximum", "min", "minimum", "multiply",
    "negative", "pad", "permute_dims", "pow", "prod", "random_bits", "remainder", "reshape", "round", "scatter_add", "sin",
    "sqrt", "strided_slice", "subtract", "sum", "take", "tanh", "where"
]  # fmt: skip


def test_the_primitives_are_these() -> None:
    assert sorted(n for n, op in OPS.items() if op.is_primitive and op.__module__.startswith("needle_core.")) == PRIMITIVES


def test_there_are_at_most_45_primitives() -> None:
    assert len(PRIMITIVES) <= 45


def test_the_default_backend_has_a_kernel_for_each() -> None:
    backend = ndl.default_device().backend.name
    assert not [name for name in PRIMITIVES if (name, backend) not in KERNELS]
