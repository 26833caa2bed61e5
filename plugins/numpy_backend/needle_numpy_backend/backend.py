"""The backend: buffers are NumPy arrays, kernels are NumPy calls."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from needle_core.backend import Backend, Executable
from needle_core.op import Kernel
from needle_core.spec import Device, DType, Spec
from needle_numpy_backend import (
    activation,
    attention,
    convolution,
    create,
    elementary,
    elementwise,
    index,
    interpolation,
    linalg,
    loss,
    normalize,
    pooling,
    recurrent,
    reduce,
    shape,
)

if TYPE_CHECKING:
    from needle_core.graph.plan import Plan

Array = npt.NDArray[Any]


def quiet_context() -> Callable[..., Any]:
    """`run(f, *args)` of a context in which NumPy follows IEEE 754 without warnings: 1/0 is inf on every backend.

    Entering it costs 30 ns a kernel; `np.errstate` around each would cost 800.
    """
    context = contextvars.copy_context()
    context.run(np.seterr, all="ignore")
    return context.run


_run = quiet_context()


class NumpyBackend(Backend):
    """NumPy arrays on the host."""

    name = "numpy"
    host = True
    priority = 0
    kernels = (
        activation,
        attention,
        convolution,
        create,
        elementary,
        elementwise,
        index,
        interpolation,
        linalg,
        loss,
        normalize,
        pooling,
        recurrent,
        reduce,
        shape,
    )

    def __init__(self) -> None:
        # glibc gives freed blocks of 128 KB and more back to the system, and new pages cost 0.3 ms a MB, until a block as large
        # as this, which is never touched, has been freed once. A step of ResNet-9 took 17 ms and takes 13; of GPT 75 and 59.
        np.empty(2**25 - 2**16, np.uint8)

    def devices(self) -> Sequence[str]:
        return ["numpy"]

    def from_numpy(self, array: Array, device: Device) -> Array:
        return array

    def to_numpy(self, buffer: Array) -> Array:
        return buffer

    def empty(self, shape: tuple[int, ...], dtype: DType, device: Device) -> Array:
        return np.empty(shape, dtype.numpy)

    def bind(
        self, kernel: Kernel, attrs: Mapping[str, Any], inputs: tuple[Spec, ...], output: Spec | tuple[Spec, ...]
    ) -> Callable[..., Any]:
        bound = with_attributes(kernel, attrs, output)

        def call(*buffers: Array) -> Any:
            try:
                return _run(bound, *buffers)
            except RuntimeError:  # another thread is in the context; what the kernel itself raised, it raises again
                return quiet_context()(bound, *buffers)

        def call_one(x: Array) -> Any:  # these two are most calls, and 0.1 us faster
            try:
                return _run(bound, x)
            except RuntimeError:
                return quiet_context()(bound, x)

        def call_two(a: Array, b: Array) -> Any:
            try:
                return _run(bound, a, b)
            except RuntimeError:
                return quiet_context()(bound, a, b)

        return call_two if len(inputs) == 2 else call_one if len(inputs) == 1 else call

    def compile(self, plan: Plan) -> Executable:
        from needle_numpy_backend.compiler import compiled

        return compiled(plan)

    def owns(self, buffer: Array) -> bool:
        flags = buffer.flags
        return flags.owndata and flags.writeable


def with_attributes(kernel: Kernel, attrs: Mapping[str, Any], output: Spec | tuple[Spec, ...]) -> Callable[..., Any]:
    """`kernel` with its attributes fixed."""
    options = dict(attrs)
    if isinstance(kernel, np.ufunc) and isinstance(output, Spec) and not output.shape:
        options["out"] = ...  # an array also where NumPy gives a number
    return partial(kernel, **options) if options else kernel
