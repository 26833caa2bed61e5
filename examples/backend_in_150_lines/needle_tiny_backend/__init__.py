"""The device "tiny": a complete backend of Needle in two short files. Here are memory and calls, in kernels.py the ops.

The device is imaginary: its memory is made of NumPy arrays that only this file can reach. For a real device, let Memory hold
what its library calls a buffer, and write in kernels.py what that library calls the functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from needle_core.backend import Backend
from needle_core.plugins import Registrar, hookimpl
from needle_core.spec import Device, DType, Spec

from . import kernels

needle_api = 1


@hookimpl
def needle_register_backends(registrar: Registrar) -> None:
    registrar.backend(TinyBackend)


class Memory:
    """A buffer on the device. The core passes it from kernel to kernel and never looks inside."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self.array = array


class TinyBackend(Backend):
    """One device, with kernels for the primitives alone: every other op of Needle is made of these."""

    name = "tiny"
    kernels = (kernels,)

    def devices(self) -> Sequence[str]:
        return ["tiny"]

    def from_numpy(self, array: npt.NDArray[Any], device: Device) -> Memory:
        return Memory(array.copy())

    def to_numpy(self, buffer: Memory) -> npt.NDArray[Any]:
        return buffer.array.copy()

    def empty(self, shape: tuple[int, ...], dtype: DType, device: Device) -> Memory:
        return Memory(np.empty(shape, dtype.numpy))

    def describe(self, buffer: Memory) -> tuple[tuple[int, ...], str]:
        return buffer.array.shape, buffer.array.dtype.name

    def bind(
        self, kernel: Callable[..., Any], attrs: Mapping[str, Any], inputs: tuple[Spec, ...], output: Spec | tuple[Spec, ...]
    ) -> Callable[..., Any]:
        """The kernel as the core calls it: buffers in, buffers out. Floating numbers are computed in float64, and rounded once."""
        wide = [np.dtype(np.float64) if spec.dtype.is_floating else spec.dtype.numpy for spec in inputs]
        dtypes = [spec.dtype.numpy for spec in (output if isinstance(output, tuple) else (output,))]

        def call(*buffers: Memory) -> Any:
            arrays = (b.array.astype(d, copy=False) for b, d in zip(buffers, wide, strict=True))
            with np.errstate(all="ignore"):  # 1 / 0 is inf, without a warning
                ys = kernel(*arrays, **attrs) if isinstance(output, tuple) else [kernel(*arrays, **attrs)]
                made = [Memory(np.asarray(y).astype(d, copy=False)) for y, d in zip(ys, dtypes, strict=True)]
            return made if isinstance(output, tuple) else made[0]

        return call
