"""The simulated device: memory of the host between guards, kernels compiled for the host, libraries that compute as told.

All is done at once, so that a fault is found where it is made. While work is captured, nothing may be allocated and nothing
runs; a replay does what was captured, with the arguments of then.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from typing import Any, Final
from weakref import WeakSet

import numpy as np
import numpy.typing as npt

from needle_core.errors import KernelError
from needle_cuda_backend.cublaslt import CublasLt
from needle_cuda_backend.cudnn import Cudnn
from needle_cuda_backend.driver import Driver, Function
from needle_cuda_backend.memory import Memory
from needle_cuda_backend.recipe import Entry, Sizes
from needle_cuda_backend.simulated import cudnn
from needle_cuda_backend.unit import host_library, simulator, source_of

Array = npt.NDArray[Any]

POISON: Final = 0xF5
"""Every byte of unset memory and of guards: nan in all floating dtypes."""
GUARD: Final = 256


class SimulatedDriver(Driver):
    """A device without a GPU."""

    name = "the simulated device"
    architecture = "simulated"

    def __init__(self, number: int = 0) -> None:
        super().__init__(number)
        ctypes.CDLL(str(simulator("simulator")), ctypes.RTLD_GLOBAL)
        self.cublaslt = _Deferred(self, CublasLt(ctypes.CDLL(str(simulator("cublaslt", "-march=native", "-fopenmp")))))
        self.cudnn = _Deferred(self, Cudnn(cudnn))
        self.stream = 0
        self._live: WeakSet[_Guarded] = WeakSet()
        self._recording: list[Callable[[], None]] | None = None
        self._flag = np.zeros(1, np.int32)

    def allocate(self, nbytes: int) -> Memory:
        if self._recording is not None:
            raise KernelError("memory is allocated while work is captured")
        try:
            guarded = _Guarded(nbytes)
        except (MemoryError, ValueError) as cause:
            raise KernelError(f"out of memory on {self.name}: {nbytes / 2**20:.1f} MiB: {cause}") from cause
        self._live.add(guarded)
        self.count(nbytes)
        poison = POISON  # a module's names may be gone before its last memory

        def free() -> None:
            self.count(-nbytes)
            guarded.words.fill(poison)

        return Memory(self, guarded.address, nbytes, free)

    def write(self, address: int, array: Array) -> None:
        self._issue(lambda: ctypes.memmove(address, array.ctypes.data, array.nbytes))

    def read(self, address: int, array: Array) -> None:
        self.synchronize()
        ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def copy(self, target: int, source: int, nbytes: int) -> None:
        self._issue(lambda: ctypes.memmove(target, source, nbytes))

    def load(self, entries: Sequence[Entry]) -> dict[str, Function]:
        library = ctypes.CDLL(str(host_library(source_of(entries))))
        return {x.name: library[f"run_{x.name}"] for x in entries}

    def launch(self, function: Function, grid: Sizes, block: Sizes, arguments: Sequence[int]) -> None:
        if any(n <= 0 for n in (*grid, *block)) or block[0] * block[1] * block[2] > 1024 or max(grid[1:]) > 65535:
            raise KernelError(f"a device refuses the grid {grid} with blocks {block}")
        sizes = (ctypes.c_longlong * 6)(*grid, *block)
        values = (ctypes.c_longlong * max(len(arguments), 1))(*arguments)
        self._issue(lambda: function(sizes, values))

    def captured(self, issue: Callable[[], None]) -> Callable[[], None]:
        with self.lock:
            work = self._recording = []
            try:
                issue()
            finally:
                self._recording = None

        def replay() -> None:
            with self.lock:
                for run in work:
                    run()

        return replay

    def synchronize(self) -> None:
        for guarded in list(self._live):
            guarded.check()
        self.check()

    @property
    def failure(self) -> int:
        return int(self._flag.ctypes.data)

    def publish(self) -> None:
        pass  # the flag lies in the host's memory

    def take_mark(self) -> int:
        found, self._flag[0] = int(self._flag[0]), 0
        return found

    def seconds(self, issue: Callable[[], None]) -> float:
        start = time.perf_counter()
        issue()
        return time.perf_counter() - start

    def _issue(self, run: Callable[[], Any]) -> None:
        if self._recording is None:
            run()
        else:
            self._recording.append(run)


class _Guarded:
    """Bytes at a multiple of 256, with guards on both sides."""

    __slots__ = ("__weakref__", "address", "nbytes", "words")

    def __init__(self, nbytes: int) -> None:
        self.words = np.full(nbytes + 3 * GUARD, POISON, np.uint8)
        self.nbytes = nbytes
        start = int(self.words.ctypes.data)
        self.address = (start + 2 * GUARD - 1) // GUARD * GUARD

    def check(self) -> None:
        first = self.address - int(self.words.ctypes.data)
        if (self.words[:first] != POISON).any() or (self.words[first + self.nbytes :] != POISON).any():
            raise KernelError(f"a kernel wrote beside the {self.nbytes} bytes at {self.address:#x}")


class _Deferred:
    """A library whose `run` waits for the replay while work is captured."""

    def __init__(self, driver: SimulatedDriver, library: Any) -> None:
        self._driver, self._library = driver, library

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def run(self, *arguments: Any) -> None:
        self._driver._issue(lambda: self._library.run(*arguments))
