"""The backend: buffers are NumPy arrays, kernels are native. What is native is loaded when the backend is opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from needle_core.backend import Backend, Executable
from needle_core.op import Kernel
from needle_core.spec import Device, DType, Spec

if TYPE_CHECKING:
    from needle_core.graph.plan import Plan

Array = npt.NDArray[Any]


class CppBackend(Backend):
    """Native kernels on the host."""

    name = "cpp"
    host = True
    priority = 10
    plans_eagerly = True
    writes_over = MappingProxyType(  # a row is in the cache, and read before it is written
        {"softmax": 0, "log_softmax": 0, "softmax_grad": 1, "cross_entropy_grad": 1, "layer_norm": 0, "layer_norm_grad": 1}
    )

    def __init__(self) -> None:
        from needle_cpp_backend import eager
        from needle_cpp_backend.native import native

        self._native, self._table = native, eager.table()
        self.owns = native.owns  # type: ignore[method-assign]
        self.alone, self.identical = native.alone, native.identical
        np.empty(2**25 - 2**16, np.uint8)  # so that glibc keeps freed memory for the next buffers

    def devices(self) -> Sequence[str]:
        return ["cpp"]

    def from_numpy(self, array: Array, device: Device) -> Array:
        return array

    def to_numpy(self, buffer: Array) -> Array:
        return buffer

    def empty(self, shape: tuple[int, ...], dtype: DType, device: Device) -> Array:
        return np.empty(shape, dtype.numpy)

    def kernel_table(self) -> Mapping[str, Kernel]:
        return self._table

    def bind(
        self, kernel: Kernel, attrs: Mapping[str, Any], inputs: tuple[Spec, ...], output: Spec | tuple[Spec, ...]
    ) -> Callable[..., Any]:
        from needle_cpp_backend.call import Call
        from needle_cpp_backend.eager import NativeKernel

        if not isinstance(kernel, NativeKernel):  # one of another package, a function of arrays
            return partial(kernel, **attrs) if attrs else kernel
        return kernel.bound(Call(inputs, output if isinstance(output, tuple) else (output,), attrs), isinstance(output, tuple))

    def compile(self, plan: Plan) -> Executable:
        from needle_cpp_backend.compiler import compiled
        from needle_cpp_backend.eager import NativeKernel

        foreign = [n for n in plan.graph.unfused().nodes if not isinstance(n.op.kernel_for(n.spec), NativeKernel)]
        return super().compile(plan) if foreign else compiled(plan)

    def set_num_threads(self, n: int) -> None:
        self._native.set_num_threads(n)
