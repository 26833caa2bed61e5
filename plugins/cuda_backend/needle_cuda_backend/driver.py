"""What the backend asks of a device, and the real one: `cuda.core`, and streams, graphs and libraries of CUDA."""

from __future__ import annotations

import ctypes
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, Final, NoReturn

import numpy as np
import numpy.typing as npt

from needle_core.errors import KernelError
from needle_core.spec import DType
from needle_cuda_backend.memory import Buffer, Memory
from needle_cuda_backend.recipe import Entry, Sizes
from needle_cuda_backend.unit import cubin, source_of

Array = npt.NDArray[Any]
Function = Any

WORKSPACE: Final = 32 * 2**20
"""Bytes that a matrix product may use."""


class Driver(ABC):
    """A device: memory, kernels, one stream on which all work is done in order. `lock` is held while work is issued."""

    name: str
    architecture: str
    cublaslt: Any
    cudnn: Any
    stream: int
    """The handle of the stream that work goes to, for libraries."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.lock = threading.RLock()
        self.in_use = 0
        self._counting = threading.RLock()
        self._marks = count(1)
        self._blames: dict[int, Callable[[], NoReturn]] = {}
        self._functions: dict[str, Function] = {}
        self._spaces: dict[str, Memory] = {}

    @abstractmethod
    def allocate(self, nbytes: int) -> Memory:
        """New memory. Raises KernelError if there is not enough."""

    @abstractmethod
    def write(self, address: int, array: Array) -> None:
        """Copy an array of the host, row after row, to the device."""

    @abstractmethod
    def read(self, address: int, array: Array) -> None:
        """Copy from the device into an array of the host, when all work before is done."""

    @abstractmethod
    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Copy within the device."""

    @abstractmethod
    def load(self, entries: Sequence[Entry]) -> dict[str, Function]:
        """Compile entries as one unit; the functions by name."""

    @abstractmethod
    def launch(self, function: Function, grid: Sizes, block: Sizes, arguments: Sequence[int]) -> None:
        """Run a function. Arguments are addresses and integers."""

    @abstractmethod
    def captured(self, issue: Callable[[], None]) -> Callable[[], None]:
        """What `issue` gives the device to do, as a graph: a function that runs all of it again."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait for all work."""

    @property
    @abstractmethod
    def failure(self) -> int:
        """The address of the flag that kernels set, to their mark, when they refuse a number."""

    @abstractmethod
    def publish(self) -> None:
        """Let the host see the flag when the work before is done."""

    @abstractmethod
    def take_mark(self) -> int:
        """What the flag is, as far as the host sees it. It is 0 from then on."""

    @abstractmethod
    def seconds(self, issue: Callable[[], None]) -> float:
        """How long the device takes for what `issue` gives it to do."""

    def mark(self, blame: Callable[[], NoReturn]) -> int:
        """A number for the flag; `blame` raises the error for it."""
        mark = next(self._marks)
        self._blames[mark] = blame
        return mark

    def forget(self, marks: Iterable[int]) -> None:
        """These are not used any more."""
        for mark in marks:
            self._blames.pop(mark, None)

    def check(self) -> None:
        """Raise the error for the first kernel that has refused a number, once the host sees it.

        Until then, and until it is raised, kernels that write state do nothing.
        """
        if (mark := self.take_mark()) and mark in self._blames:
            self._blames[mark]()

    def buffer(self, shape: tuple[int, ...], dtype: DType) -> Buffer:
        """A new buffer, its values not yet set."""
        return Buffer(self.allocate(math.prod(shape) * dtype.itemsize), shape, dtype)

    def count(self, nbytes: int) -> None:
        """So many bytes more are in use. Memory is given back in any thread, and in the midst of anything."""
        with self._counting:
            self.in_use += nbytes

    def functions(self, entries: Iterable[Entry]) -> dict[str, Function]:
        """The functions of entries by name; those that are new are compiled together."""
        with self.lock:
            new = [x for x in dict.fromkeys(entries) if x.name not in self._functions]
            if new:
                self._functions.update(self.load(new))
            return self._functions

    def space(self, purpose: str, nbytes: int) -> Memory:
        """Memory for what is needed while work runs; kept, and the same for all work, which runs in order."""
        with self.lock:
            kept = self._spaces.get(purpose)
            if kept is None or kept.nbytes < nbytes:
                kept = self._spaces[purpose] = self.allocate(nbytes)
            return kept


_thread = threading.local()  # the number of its current device


class CudaDriver(Driver):
    """A GPU of NVIDIA's."""

    def __init__(self, number: int) -> None:
        from cuda.core import Device, LegacyPinnedMemoryResource

        from needle_cuda_backend.libraries import cublaslt, cudnn

        super().__init__(number)
        self._device = Device(number)
        self._device.set_current()
        self._stream = self._device.create_stream()
        major, minor = self._device.compute_capability
        self.architecture = f"sm_{major}{minor}{'a' if major >= 9 else ''}"
        self.name = self._device.name
        self.cublaslt, self.cudnn = cublaslt(), cudnn()
        self._target: Any = self._stream  # a graph builder while work is captured
        self._flag = self._device.allocate(4, stream=self._stream)
        self._seen = LegacyPinnedMemoryResource().allocate(4, stream=self._stream)
        self._mark = ctypes.c_int.from_address(int(self._seen.handle))
        self.write(self.failure, np.zeros(1, np.int32))
        self.publish()
        self._stream.sync()

    @property
    def stream(self) -> int:  # type: ignore[override]
        return int(getattr(self._target, "stream", self._target).handle)

    def allocate(self, nbytes: int) -> Memory:
        self._enter()
        try:
            buffer = self._device.allocate(max(nbytes, 1), stream=self._stream)
        except Exception as cause:
            raise KernelError(
                f"out of memory on {self.name}: {nbytes / 2**20:.1f} MiB beside {self.in_use / 2**20:.1f} in use: {cause}"
            ) from cause
        self.count(nbytes)

        def free() -> None:
            self.count(-nbytes)
            buffer.close()

        return Memory(self, int(buffer.handle), nbytes, free)

    def write(self, address: int, array: Array) -> None:
        self._move(address, array.ctypes.data, array.nbytes)

    def read(self, address: int, array: Array) -> None:
        self._move(array.ctypes.data, address, array.nbytes)
        self.synchronize()

    def copy(self, target: int, source: int, nbytes: int) -> None:
        self._move(target, source, nbytes)

    def _move(self, target: int, source: int, nbytes: int) -> None:
        from cuda.core import Buffer

        if nbytes:
            self._enter()
            with self._faults():
                Buffer.from_handle(target, nbytes).copy_from(Buffer.from_handle(source, nbytes), stream=self._target)

    def load(self, entries: Sequence[Entry]) -> dict[str, Function]:
        from cuda.core import ObjectCode

        self._enter()
        code = ObjectCode.from_cubin(cubin(source_of(entries), self.architecture).code)
        return {x.name: code.get_kernel(x.name) for x in entries}

    def launch(self, function: Function, grid: Sizes, block: Sizes, arguments: Sequence[int]) -> None:
        from cuda.core import LaunchConfig, launch

        self._enter()
        launch(self._target, LaunchConfig(grid=grid, block=block), function, *arguments)

    def captured(self, issue: Callable[[], None]) -> Callable[[], None]:
        with self.lock:
            self._enter()
            builder = self._device.create_graph_builder()
            builder.begin_building("thread_local")
            self._target = builder
            try:
                issue()
            finally:
                self._target = self._stream
                builder.end_building()
            graph = builder.complete()

        def replay() -> None:
            self._enter()
            graph.launch(self._stream)

        return replay

    def synchronize(self) -> None:
        with self._faults():
            self._stream.sync()
        self.check()

    @property
    def failure(self) -> int:
        return int(self._flag.handle)

    def publish(self) -> None:
        self._move(int(self._seen.handle), self.failure, 4)

    def take_mark(self) -> int:
        found = self._mark.value
        if found:
            self.write(self.failure, np.zeros(1, np.int32))
            self.publish()
            self._stream.sync()
        return found

    def seconds(self, issue: Callable[[], None]) -> float:
        from cuda.core import EventOptions

        options = EventOptions(timing_enabled=True)
        with self.lock:
            before = self._stream.record(options=options)
            issue()
            after = self._stream.record(options=options)
            after.sync()
        return float(after - before) / 1e3

    def _enter(self) -> None:
        """Make the device that of this thread."""
        if getattr(_thread, "number", None) != self.number:
            self._device.set_current()
            _thread.number = self.number

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Faults of kernels come to light with the next call that waits; say how to find the one."""
        try:
            yield
        except Exception as cause:
            raise KernelError(
                f"{self.name}: {cause}", hint="NEEDLE_CUDA_DEBUG=1 waits after each kernel and names the one at fault"
            ) from cause
