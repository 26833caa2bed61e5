"""Memory of a device, and buffers: arrays in it, row after row."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from needle_core.spec import DType

if TYPE_CHECKING:
    from needle_cuda_backend.driver import Driver


class Memory:
    """So many bytes from `address` on, given back when nothing refers to it any more."""

    __slots__ = ("_free", "address", "driver", "nbytes")

    def __init__(self, driver: Driver, address: int, nbytes: int, free: Callable[[], None]) -> None:
        self.driver, self.address, self.nbytes, self._free = driver, address, nbytes, free

    def __del__(self) -> None:
        self._free()


class Buffer:
    """An array. Several may share a `memory`, as a reshaped one does; its values never change but by a step that owns it."""

    __slots__ = ("address", "dtype", "memory", "shape")

    def __init__(self, memory: Memory, shape: tuple[int, ...], dtype: DType) -> None:
        self.memory, self.shape, self.dtype = memory, shape, dtype
        self.address = memory.address

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def __repr__(self) -> str:
        return f"<buffer of {self.nbytes} bytes at {self.address:#x}>"
