"""Kernels made of others: one after the other, with memory for what lies between."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from needle_cpp_backend import programs
from needle_cpp_backend.call import Call, Kernel
from needle_cpp_backend.native import native


class Between(NamedTuple):
    """A result that later steps read: its place in the scratch memory, in bytes."""

    offset: int


Place: TypeAlias = "int | Between"
"""An operand by its number, as something read; an output by its number, as something written; or what lies between."""


class Work:
    """Steps of a kernel for `call`. All arrays between are of its first output's dtype."""

    def __init__(self, call: Call) -> None:
        self._call, self._steps, self._bytes = call, list[Any](), 0
        self._dtype = call.outputs[0].dtype

    def space(self, shape: Sequence[int]) -> Between:
        """Memory for an array."""
        place = Between(self._bytes)
        self._bytes += -(-math.prod(shape) * self._dtype.itemsize // 64) * 64
        return place

    def add(self, kernel: Kernel, operands: Sequence[Place], shape: Sequence[int]) -> Between:
        """Run a kernel; where its result lies, which has that shape."""
        result = self.space(shape)
        self.finish(kernel, operands, [result])
        return result

    def finish(self, kernel: Kernel, operands: Sequence[Place], results: Sequence[Place]) -> None:
        """Run a kernel whose results go where is said."""
        self._steps.append(
            (kernel, [self._place(x, 1) for x in operands], [self._place(y, 1 + len(self._call.inputs)) for y in results])
        )

    def before(self, y: Place, h: Place, shape: tuple[int, int, int], reverse: bool) -> Between:
        """The states before every step, of those after it and of the first."""
        t, n, d = shape
        result = self.space(shape)
        if not t:
            return result
        rest, first, start = (0, (t - 1) * n * d, n * d) if reverse else (n * d, 0, 0)
        step = (n * d, 1)
        self.finish(programs.of_copy(self._dtype, (t - 1, n * d), step, step, start=start, offset=rest), [y], [result])
        self.finish(programs.of_copy(self._dtype, (1, n * d), step, step, offset=first), [h], [result])
        return result

    def kernel(self) -> Kernel:
        """All steps as one kernel."""
        return native.sequence(self._steps, len(self._call.inputs), len(self._call.outputs), self._bytes)

    def _place(self, x: Place, base: int) -> tuple[int, int]:
        return (0, x.offset) if isinstance(x, Between) else (base + x, 0)
