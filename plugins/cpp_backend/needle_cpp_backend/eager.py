"""Eager calls: a kernel is made for each op, specs and attributes, and called with arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy.typing as npt

from needle_core.backend import device, public_functions
from needle_core.graph.passes import ELEMENTWISE
from needle_core.graph.single_ops import SINGLE
from needle_core.op import OPS
from needle_core.spec import DTYPES, Spec
from needle_cpp_backend import attention, kernels, recurrent
from needle_cpp_backend.call import Call, code, matrix_shapes
from needle_cpp_backend.native import native
from needle_cpp_backend.programs import of_op
from needle_cpp_backend.views import VIEWS

Array = npt.NDArray[Any]


class NativeKernel:
    """A kernel of this backend: a function of arrays and attributes, as any kernel; `make` makes the native one for a call."""

    def __init__(self, name: str, make: Callable[[Call], Any]) -> None:
        self.name, self.make = name, make

    def __call__(self, *buffers: Array, **attrs: Any) -> Any:
        specs = [Spec.of(a.shape, DTYPES[a.dtype.name], device("cpp")) for a in buffers]
        output, canonical = OPS[self.name].door(*specs, **attrs)
        outputs = output if isinstance(output, tuple) else (output,)
        return self.bound(Call(tuple(specs), outputs, canonical), isinstance(output, tuple))(*buffers)

    def bound(self, call: Call, is_tuple: bool) -> Callable[..., Any]:
        """The function of arrays for eager calls."""
        if self.name in VIEWS:
            return VIEWS[self.name](call)
        if self.name == "matmul":
            y = call.outputs[0]
            return native.ProductCall(code(y.dtype), *matrix_shapes(call), (y.shape, y.dtype.numpy)).function  # type: ignore[no-any-return]
        results = [(y.shape, y.dtype.numpy) for y in call.outputs]
        return native.Call(self.make(call), len(call.inputs), results, is_tuple).function  # type: ignore[no-any-return]


def table() -> dict[str, NativeKernel]:
    """The kernels of this backend by name of op."""
    makers: dict[str, Any] = {name: of_op(name) for name in ELEMENTWISE if native.has_elementwise(name)}
    makers |= {name: of_op(name) for name in SINGLE}
    for module in (kernels, attention, recurrent):
        makers |= public_functions(module)
    return {name: NativeKernel(name, make) for name, make in makers.items()}
