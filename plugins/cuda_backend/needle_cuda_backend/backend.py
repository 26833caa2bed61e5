"""The backend: buffers in the memory of GPUs, and one driver for each. What is of CUDA is loaded when the backend is opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from sys import getrefcount
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from needle_core.backend import Backend, Executable
from needle_core.op import Kernel
from needle_core.spec import Device, DType, Spec
from needle_cuda_backend import libraries
from needle_cuda_backend.memory import Buffer

if TYPE_CHECKING:
    from needle_core.graph.plan import Plan
    from needle_cuda_backend.driver import Driver

Array = npt.NDArray[Any]


class CudaBackend(Backend):
    """The GPUs of NVIDIA's in this machine, or one that is simulated."""

    name = "cuda"
    can_be_simulated = True
    alignment = 256

    def __init__(self) -> None:
        libraries.require_python_packages()
        self._is_simulated = libraries.simulated()
        self._count = 1
        if not self._is_simulated:
            libraries.require_driver()
            self._count = libraries.device_count()
            libraries.require_compiler()
        from needle_cuda_backend import eager

        self._drivers: dict[str, Driver] = {}
        self.driver(self.devices()[0])
        self._table = eager.table()

    def devices(self) -> Sequence[str]:
        return [f"cuda:{i}" for i in range(self._count)]

    def driver(self, device: Device | str) -> Driver:
        """The driver of a device, made when it is first wanted."""
        name = str(device)
        if name not in self._drivers:
            self._drivers[name] = self._opened(int(name.partition(":")[2]))
        return self._drivers[name]

    def _opened(self, number: int) -> Driver:
        if self._is_simulated:
            from needle_cuda_backend.simulated.device import SimulatedDriver

            return SimulatedDriver(number)
        from needle_cuda_backend.driver import CudaDriver

        return CudaDriver(number)

    def from_numpy(self, array: Array, device: Device) -> Buffer:
        rows = np.ascontiguousarray(array)
        driver = self.driver(device)
        buffer = driver.buffer(array.shape, _dtype(array.dtype))
        if rows.nbytes:
            driver.write(buffer.address, rows)
        return buffer

    def to_numpy(self, buffer: Buffer) -> Array:
        array = np.empty(buffer.shape, buffer.dtype.numpy)
        if array.nbytes:
            buffer.memory.driver.read(buffer.address, array)
        return array

    def empty(self, shape: tuple[int, ...], dtype: DType, device: Device) -> Buffer:
        return self.driver(device).buffer(shape, dtype)

    def copy(self, buffer: Buffer, device: Device) -> Buffer:
        driver = self.driver(device)
        copied = driver.buffer(buffer.shape, buffer.dtype)
        if buffer.nbytes:
            driver.copy(copied.address, buffer.address, buffer.nbytes)
        return copied

    def kernel_table(self) -> Mapping[str, Kernel]:
        return self._table

    def describe(self, buffer: Buffer) -> tuple[tuple[int, ...], str]:
        return buffer.shape, buffer.dtype.name

    def bind(
        self, kernel: Kernel, attrs: Mapping[str, Any], inputs: tuple[Spec, ...], output: Spec | tuple[Spec, ...]
    ) -> Callable[..., Buffer]:
        from needle_cuda_backend.eager import CudaKernel
        from needle_cuda_backend.recipe import Call

        if not isinstance(kernel, CudaKernel):  # one of another package, a function of buffers
            return partial(kernel, **attrs) if attrs else kernel
        return kernel.bound(Call(inputs, output if isinstance(output, tuple) else (output,), attrs), isinstance(output, tuple))

    def compile(self, plan: Plan) -> Executable:
        from needle_cuda_backend.compiler import compiled
        from needle_cuda_backend.eager import CudaKernel

        foreign = [n for n in plan.graph.unfused().nodes if not isinstance(n.op.kernel_for(n.spec), CudaKernel)]
        return super().compile(plan) if foreign else compiled(plan, self.driver(plan.device))

    def owns(self, buffer: Buffer) -> bool:
        return getrefcount(buffer.memory) == _ALONE

    def synchronize(self, device: Device) -> None:
        self.driver(device).synchronize()

    def memory_stats(self, device: Device) -> dict[str, int]:
        return {"in_use": self.driver(device).in_use}


def driver_of(device: Device) -> Driver:
    """The driver of a device of this backend."""
    backend = device.backend
    assert isinstance(backend, CudaBackend)
    return backend.driver(device)


def _dtype(dtype: np.dtype[Any]) -> DType:
    from needle_core.spec import DTYPES

    return DTYPES[dtype.name]


class _Holder:
    __slots__ = ("memory",)


def _references() -> int:
    """How many references there are to a memory that one buffer has, seen as `owns` sees it."""
    holder = _Holder()
    holder.memory = object()  # type: ignore[attr-defined]
    return getrefcount(holder.memory)  # type: ignore[attr-defined]


_ALONE = _references()
