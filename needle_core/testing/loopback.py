"""The loopback device: an honest accelerator in disguise, to test on any machine what only accelerators get wrong.

Its buffers tell nothing and turn into no array; values leave and enter through `to_numpy` and `from_numpy` alone, which copy.
It has kernels for the primitives of the core and for nothing else: those of the host backend of lowest priority, the plainest.
They read operands that stand between guards, which are looked at after every kernel; their results lie in the host's memory,
and are copied into such memory. Views are made, but not computed with: operands lie row after row, as in programs, since BLAS
rounds products of transposed matrices otherwise on some processors, and a step must leave the same bits behind compiled as
eager. What is freed becomes poison, and `empty` gives poison. There are two devices, loopback:0 and loopback:1, so that things
can be on the wrong one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from sys import getrefcount
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet, finalize

import numpy as np
import numpy.typing as npt

from needle_core.backend import Backend, Buffer, Executable, device as find_device, host_backends
from needle_core.errors import DeviceError
from needle_core.op import KERNELS, OPS, Kernel
from needle_core.plugins import hookimpl
from needle_core.plugins.registrar import Registrar
from needle_core.spec import Device, DType, Spec

if TYPE_CHECKING:
    from needle_core.graph.plan import Plan

needle_api = 1

POISON: Final = 0xFFF5
"""Every 16 bits of poison: nan in all floating dtypes, and odd numbers in the others."""
GUARD: Final = 32  # such words before and after


@hookimpl
def needle_register_backends(registrar: Registrar) -> None:
    registrar.backend(LoopbackBackend)


class Memory:
    """So many bytes on a device, all poison, between guards."""

    def __init__(self, nbytes: int, device: Device) -> None:
        self.nbytes, self.device = nbytes, device
        self._words = np.full(GUARD + -(-nbytes // 2) + GUARD, POISON, np.uint16)
        finalize(self, self._words.fill, POISON).atexit = False  # for whoever still looks

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """The memory between the guards."""
        return np.ndarray(shape, dtype, self._words, GUARD * self._words.itemsize)

    @property
    def is_intact(self) -> bool:
        """Whether nobody wrote into the guards."""
        return bool((self._words[:GUARD] == POISON).all() and (self._words[-GUARD:] == POISON).all())


class LoopbackBuffer:
    """An array in a device's memory, or a view of one. Only the backend looks inside."""

    __slots__ = ("_array", "_memory")

    def __init__(self, array: npt.NDArray[Any], memory: Memory) -> None:
        self._array, self._memory = array, memory

    def __repr__(self) -> str:
        return f"<buffer of {self._memory.nbytes} bytes on {self._memory.device}>"


class LoopbackBackend(Backend):
    """Two devices that are as far from the host as a GPU."""

    name = "loopback"
    priority = -1

    def __init__(self) -> None:
        self._host = find_device(host_backends()[-1].name)
        self._live: WeakSet[Memory] = WeakSet()

    def devices(self) -> Sequence[str]:
        return ["loopback:0", "loopback:1"]

    def kernel_table(self) -> Mapping[str, Kernel]:
        host = self._host.backend.name
        primitives = [name for name, op in OPS.items() if op.is_primitive and op.__module__.startswith("needle_core.")]
        kernels = {name: KERNELS[name, host] for name in primitives if (name, host) in KERNELS}
        self._rearranging = [kernel for name, kernel in kernels.items() if OPS[name].__module__ == "needle_core.ops.shape"]
        return kernels

    def from_numpy(self, array: npt.NDArray[Any], device: Device) -> LoopbackBuffer:
        memory = Memory(array.nbytes, device)
        self._live.add(memory)
        copy = memory.array(array.shape, array.dtype)
        copy[...] = array
        return LoopbackBuffer(copy, memory)

    def to_numpy(self, buffer: LoopbackBuffer) -> npt.NDArray[Any]:
        return np.array(buffer._array, order="C")

    def empty(self, shape: tuple[int, ...], dtype: DType, device: Device) -> LoopbackBuffer:
        memory = Memory(Spec.of(shape, dtype, device).nbytes, device)
        self._live.add(memory)
        return LoopbackBuffer(memory.array(shape, dtype.numpy), memory)

    def describe(self, buffer: LoopbackBuffer) -> tuple[tuple[int, ...], str]:
        return buffer._array.shape, buffer._array.dtype.name

    def bind(
        self, kernel: Kernel, attrs: Mapping[str, Any], inputs: tuple[Spec, ...], output: Spec | tuple[Spec, ...]
    ) -> Callable[..., Buffer]:
        """The host's kernel for the same call on the host, its operands row after row unless it is one that makes views.

        What it returns is copied, unless it is a view of an operand.
        """
        outputs = output if isinstance(output, tuple) else (output,)
        place, hosts = outputs[0].device, [Spec.of(s.shape, s.dtype, self._host) for s in (*inputs, *outputs)]
        run = self._host.backend.bind(
            kernel,
            {name: self._host if value is place else value for name, value in attrs.items()},
            tuple(hosts[: len(inputs)]),
            tuple(hosts[len(inputs) :]) if isinstance(output, tuple) else hosts[-1],
        )

        def call(*buffers: LoopbackBuffer) -> Any:
            strangers = [b for b in buffers if b._memory.device is not place]
            if strangers:
                raise DeviceError(f"a kernel on {place} got {strangers[0]!r}")
            operands = buffers if kernel in self._rearranging else [self._in_rows(b, place) for b in buffers]
            result = run(*(b._array for b in operands))
            if not all(b._memory.is_intact for b in operands):
                raise RuntimeError("the kernel wrote outside of an operand")
            if isinstance(output, tuple):
                return [self._keep(y, operands, place) for y in result]
            return self._keep(result, operands, place)

        return call

    def compile(self, plan: Plan) -> Executable:
        """The interpreter of plans, so that a plan is run in poisoned memory wherever this device is tested."""
        from needle_core.testing.interpreter import interpreted

        graph, run = plan.graph, interpreted(plan)
        inputs = {v: j for j, v in enumerate(graph.inputs)}
        kept = {k: inputs[v] for k, v in enumerate(graph.outputs) if v in inputs} | dict(plan.donated)

        def execute(*buffers: LoopbackBuffer) -> list[LoopbackBuffer]:
            made = run(*(np.ascontiguousarray(b._array).reshape(b._array.shape) for b in buffers))
            if not all(b._memory.is_intact for b in buffers):
                raise RuntimeError("the program wrote outside of an operand")
            return [buffers[kept[k]] if k in kept else self.from_numpy(y, plan.device) for k, y in enumerate(made)]

        return Executable(execute, frozenset(plan.donated.values()))

    def owns(self, buffer: LoopbackBuffer) -> bool:
        is_whole = buffer._array.flags.c_contiguous and buffer._array.nbytes == buffer._memory.nbytes
        return is_whole and getrefcount(buffer._memory) == 2  # of this buffer, and of the question

    def _in_rows(self, buffer: LoopbackBuffer, place: Device) -> LoopbackBuffer:
        """The buffer, or a copy of a view whose elements do not lie row after row."""
        return buffer if buffer._array.flags.c_contiguous else self.from_numpy(buffer._array, place)

    def _keep(self, result: Any, operands: Sequence[LoopbackBuffer], place: Device) -> Any:
        """A buffer for what a kernel returned; what is no array is left to the core, which refuses it."""
        if not isinstance(result, np.ndarray | np.generic):
            return result
        array = np.asarray(result)
        for operand in operands:
            if np.may_share_memory(array, operand._array):
                return LoopbackBuffer(array, operand._memory)
        return self.from_numpy(array, place)

    def memory_stats(self, device: Device) -> dict[str, int]:
        live = [memory.nbytes for memory in list(self._live) if memory.device is device]
        return {"in_use": sum(live), "buffers": len(live)}
