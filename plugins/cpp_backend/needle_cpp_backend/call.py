"""What a native kernel is made for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from needle_core.spec import DType, Spec, float32
from needle_cpp_backend.native import native

Kernel: TypeAlias = Any
"""A kernel of the native module."""
Steps: TypeAlias = tuple[int, ...]


class Call(NamedTuple):
    """A call of an op: the specs of what goes in and comes out, and canonical attributes."""

    inputs: tuple[Spec, ...]
    outputs: tuple[Spec, ...]
    attrs: Mapping[str, Any]

    def widened(self) -> Call:
        """The same with float32 in place of half precision."""
        inputs, outputs = (
            tuple(s.like(dtype=float32) if s.dtype.itemsize == 2 else s for s in specs) for specs in (self.inputs, self.outputs)
        )
        return Call(inputs, outputs, self.attrs)


def in_float32(make: Callable[[Call], Kernel]) -> Callable[[Call], Kernel]:
    """`make`, which knows no half precision, for all dtypes: what is narrow is copied, and results are rounded."""

    def made(call: Call) -> Kernel:
        if all(s.dtype.itemsize != 2 for s in (*call.inputs, *call.outputs)):
            return make(call)
        forms = [[(s.shape, code(s.dtype)) for s in specs] for specs in (call.inputs, call.outputs)]
        return native.widened(make(call.widened()), *forms)

    made.__module__ = make.__module__
    return made


def matrix_shapes(call: Call) -> list[Steps]:
    """The shapes of the operands of matmul, vectors as matrices of one row and of one column."""
    a, b = (x.shape for x in call.inputs)
    return [(1, *a) if len(a) == 1 else a, (*b, 1) if len(b) == 1 else b]


def code(dtype: DType) -> Any:
    """What the native module calls a dtype."""
    return getattr(native.DType, dtype.name)
