"""Ops written as classes, as the course writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Self

import numpy as np

import needle_core.op as engine
from needle_core import fallback
from needle_core.autograd import no_grad
from needle_core.backend import default_device
from needle_core.errors import CompileError, DeviceError, MissingGradientError, MissingKernelError, NeedleError
from needle_core.launch import fail, in_class, record_many, write_down
from needle_core.op import Op, operands
from needle_core.record import Node, mode
from needle_core.spec import Spec
from needle_core.tensor import Tensor, tensor_of


class TensorOp(Op[..., Any]):
    """An op written as a class: `compute` on NumPy arrays, `gradient` on tensors. Its fields are its attributes.

        class Swish(TensorOp):
            def compute(self, x):                     # arrays in, array out
                return x / (1 + np.exp(-x))
            def gradient(self, out_grad, node):       # tensors; one gradient for each input, alone or as a tuple
                (x,) = node.inputs
                s = ndl.sigmoid(x)
                return out_grad * (s + x * s * (1 - s))

    It needs host memory: on a backend whose buffers are not NumPy arrays, calling it raises MissingKernelError, unless
    NEEDLE_FALLBACK lets the operands go to the host and the result come back.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        self.name = self.__name__ = cls.__name__
        self.family, self.is_primitive, self.body = cls.__module__.rpartition(".")[2], True, None
        self.operands = operands(cls.compute)[1:]  # without self
        self.rules = self.joint = None
        self._runs, self._singles, self._pairs, self._weak, self._traced, self._narrowed = {}, {}, {}, {}, {}, {}
        self.of_one = self.of_two = self
        return self

    def __init__(self) -> None:
        pass

    def __repr__(self) -> str:
        return f"<primitive {self.name}>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        return object.__reduce__(self)

    def compute(self, *arrays: Any) -> Any:
        """The value: arrays in, one array out, or a tuple of arrays."""
        raise NotImplementedError(f"{type(self).__name__} must define compute(self, *arrays)")

    def gradient(self, out_grad: Tensor, node: Node) -> Any:
        """The gradient for each of `node.inputs`, given `out_grad` for the output, a tuple if there are several."""
        raise MissingGradientError("no gradient rule", hint=f"define {type(self).__name__}.gradient(self, out_grad, node)")

    def __call__(self, *args: Any) -> Any:
        try:
            self._check_count(args)
            device = next((a.spec.device for a in args if isinstance(a, Tensor)), None)
            tensors = tuple(a if isinstance(a, Tensor) else Tensor(a, device=device) for a in args)
            device = tensors[0].spec.device if tensors else default_device()
            if any(t.spec.device is not device for t in tensors):
                raise DeviceError("operands are on different devices", hint="x.to(device) copies a tensor")
            abroad = not device.backend.host
            if abroad and not fallback.is_allowed(self.name, device.backend):
                raise MissingKernelError(
                    f"a TensorOp computes on host arrays, and {device} does not keep its buffers there",
                    hint="NEEDLE_FALLBACK=warn moves them",
                )
        except NeedleError as error:
            raise error.located(self.name, self.describe(args)) from error.__cause__
        if mode.trace is not None:
            return self._try(tensors)
        buffers = tuple(t.buffer for t in tensors)
        views = [t.numpy() for t in tensors]  # read-only
        try:
            compute = self.compute if engine.watcher is None else engine.watcher(self, self.compute, {})
            value = compute(*views)
            results = [Tensor(np.asarray(v), device=device) for v in (value if isinstance(value, tuple) else (value,))]
        except Exception as cause:
            fail(self, cause, tensors)
        if abroad:
            fallback.count(self.name, device.backend, sum(t.spec.nbytes for t in (*tensors, *results)))
        if isinstance(value, tuple):
            specs, made = tuple(y.spec for y in results), tuple(y.buffer for y in results)
            return in_class(type(value), record_many)(self, tensors, buffers, made, specs, {})
        (result,) = results
        if mode.grad and result.spec.dtype.is_floating and any(t.tracked for t in tensors):
            result.node, result.tracked = Node(self, tensors, buffers, {}, result.spec), True
        return result

    def _try(self, tensors: tuple[Tensor, ...]) -> Any:
        """Make a node of the graph that is captured. What it gives is known only by trying: `compute` runs on ones."""
        trace, mode.trace = mode.trace, None
        try:
            result = self(*(Tensor(np.ones(t.shape, t.dtype.numpy), device=t.device) for t in tensors))
        finally:
            mode.trace = trace
        several = isinstance(result, tuple)
        spec = tuple(y.spec for y in result) if several else result.spec
        run = write_down(self, spec, {})
        return in_class(type(result), run)(*tensors) if several else run(*tensors)

    def bound(self, specs: tuple[Spec, ...], spec: Spec | tuple[Spec, ...], attrs: Mapping[str, Any]) -> Callable[..., Any]:
        def kernel(*buffers: Any) -> Any:
            with no_grad():
                result = self(*map(tensor_of, specs, buffers))
            found = tuple(y.spec for y in result) if isinstance(result, tuple) else result.spec
            if found != spec:
                raise CompileError(
                    "compute gave another shape or dtype than for ones, which is what the compiled function was made for",
                    details={"expected": spec, "found": found},
                    hint=f"call {self.name} outside of the compiled function",
                )
            return tuple(y.buffer for y in result) if isinstance(result, tuple) else result.buffer

        return kernel

    def fields(self) -> dict[str, str]:
        """Its attributes, written out: what tells it from others of its class."""
        return {name: repr(value) for name, value in vars(self).items() if name not in _INTERNAL}

    def blame(self, args: tuple[Any, ...]) -> dict[str, object]:
        from needle_core.plugins import registry

        maker = registry.maker_of(type(self).__module__)
        return {"op": f"of {maker}; `needle conform {maker.distribution}` checks it"} if maker is not None else {}

    def pullback(
        self, g: Any, y: Any, inputs: tuple[Tensor, ...], attrs: Mapping[str, Any], needed: list[bool]
    ) -> Sequence[Tensor | None]:
        specs = tuple(t.spec for t in y) if isinstance(y, tuple) else y.spec
        gradients = self.gradient(g, Node(self, inputs, (), attrs, specs))
        return gradients if isinstance(gradients, tuple | list) else (gradients,)


_INTERNAL: Final = frozenset(vars(TensorOp()))  # what every op has, beside the fields of its class
