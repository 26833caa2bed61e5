"""A device whose results are there later, when somebody waits for them; and its bug, to wait for a part of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from needle_core.testing.loopback import POISON, LoopbackBackend, LoopbackBuffer
from tests.mutants.planting import Mutant, Plant, attribute, together


class LateBuffer(LoopbackBuffer):
    """The result of the kernel that was queued as number `ticket`."""

    __slots__ = ("ticket",)

    def __init__(self, buffer: LoopbackBuffer, ticket: int) -> None:
        super().__init__(buffer._array, buffer._memory)
        self.ticket = ticket


class Queue:
    """Kernels in the order in which they were queued; who waits gets no more than the oldest `at_most` of them done."""

    def __init__(self, at_most: int) -> None:
        self.at_most, self.queued, self.done = at_most, 0, 0

    def keep(self, keep: Any) -> Any:
        def late(backend: Any, result: Any, operands: Any, place: Any) -> Any:
            kept = keep(backend, result, operands, place)
            self.queued += 1
            return LateBuffer(kept, self.queued) if isinstance(kept, LoopbackBuffer) else kept

        return late

    def synchronize(self, _: Any) -> Any:
        def wait(backend: Any, device: Any) -> None:
            self.done = min(self.queued, self.done + self.at_most)

        return wait

    def to_numpy(self, to_numpy: Any) -> Any:
        def read(backend: Any, buffer: Any) -> Any:
            backend.synchronize(buffer._memory.device)
            values = to_numpy(backend, buffer)
            if isinstance(buffer, LateBuffer) and buffer.ticket > self.done:
                return np.frombuffer(np.full(-(-values.nbytes // 2), POISON, np.uint16), values.dtype, values.size).reshape(
                    values.shape
                )
            return values

        return read


def late(at_most: int) -> Plant:
    """Make the loopback device work so."""
    queue = Queue(at_most)
    return together(*(attribute(LoopbackBackend, name, change) for name, change in
                      {"_keep": queue.keep, "synchronize": queue.synchronize, "to_numpy": queue.to_numpy}.items()))  # fmt: skip


MUTANTS = [
    Mutant("a part of the queue", "Waiting ends when the oldest 64 of the queued kernels are done.",
           late(64), ("backend",), "loopback"),
]  # fmt: skip
