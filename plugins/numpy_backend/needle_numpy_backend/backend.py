"""The backend: buffers are NumPy arrays, kernels are NumPy calls."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from needle_core.backend import Backend
from needle_core.op import Kernel
from needle_core.spec import Device, DType
from needle_numpy_backend import activation, create, elementary, elementwise, index, linalg, loss, normalize, reduce, shape

Array = npt.NDArray[Any]


class _Quiet(threading.local):
    """A context, one for each thread, in which NumPy follows IEEE 754 without warnings: 1/0 is inf on every backend.

    Entering it costs 30 ns a kernel; `np.errstate` around each would cost 800.
    """

    def __init__(self) -> None:
        context = contextvars.copy_context()
        context.run(np.seterr, all="ignore")
        self.run = context.run


_quiet = _Quiet()


class NumpyBackend(Backend):
    """NumPy arrays on the host."""

    name = "numpy"
    host = True
    priority = 0
    kernels = (activation, create, elementary, elementwise, index, linalg, loss, normalize, reduce, shape)

    def devices(self) -> Sequence[str]:
        return ["numpy"]

    def from_numpy(self, array: Array, device: Device) -> Array:
        return array

    def to_numpy(self, buffer: Array) -> Array:
        return buffer

    def empty(self, shape: tuple[int, ...], dtype: DType, device: Device) -> Array:
        return np.empty(shape, dtype.numpy)

    def bind(self, kernel: Kernel, attrs: Mapping[str, Any]) -> Callable[..., Any]:
        if isinstance(kernel, np.ufunc):  # out=... gives an array also where the result is 0-d
            if kernel.nin == 2:
                return lambda a, b: _quiet.run(kernel, a, b, out=...)
            return lambda x: _quiet.run(kernel, x, out=...)
        if attrs:
            return lambda *buffers: _quiet.run(kernel, *buffers, **attrs)
        return lambda *buffers: _quiet.run(kernel, *buffers)
