"""Checks of what an op does to memory: what it reads, what it writes, and whether it does the same every time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

import needle_core as ndl
from needle_core.op import OPS
from needle_core.spec import DTYPES, Spec
from needle_core.tensor import tensor_of
from needle_core.testing.bounds import outputs, rounded
from needle_core.testing.loopback import POISON, LoopbackBackend, Memory
from needle_core.testing.samples import Array, Case, MismatchError, Sample


def check_memory(case: Case, sample: Sample, dtype: str, seed: int = 0) -> None:
    """Nothing is written into inputs or beside them, nothing is read beside them or from memory that was never set, and
    no result shares memory with an input unless that is declared.

    Inputs stand between guards where `has_guards`, and new memory of a host is likely to hold poison.
    """
    place = f"{case.name}/memory/{sample}/{dtype}"
    arrays = [rounded(x, DTYPES[dtype]) for x in sample.draw(case.name, seed)]
    sizes = [y.spec.nbytes for y in outputs(OPS[case.name](*map(ndl.Tensor, arrays), **sample.arguments))]
    runs = []
    for poison in (POISON, 0x0101):
        inputs = [_Guarded(x) for x in arrays]
        _leave(poison, [*sizes, *(x.nbytes for x in arrays)])
        results = outputs(OPS[case.name](*(g.tensor for g in inputs), **sample.arguments))
        for guarded in inputs:
            guarded.look(place)
            if not case.aliases and any(map(guarded.lends_to, results)):
                raise MismatchError(f"{place}: a result shares memory with an input, which is not declared")
        runs.append(_bits(results))
    if runs[0] != runs[1]:
        raise MismatchError(f"{place}: the result depends on what was in memory before")


def has_guards() -> bool:
    """Whether operands on the default device stand between guards: loopback has its own, and a host may take ours over."""
    backend = ndl.default_device().backend
    if isinstance(backend, LoopbackBackend) or not backend.host:
        return isinstance(backend, LoopbackBackend)
    array = np.zeros(3, np.float32)
    return np.may_share_memory(backend.to_numpy(backend.from_numpy(array, ndl.default_device())), array)


class _Guarded:
    """A copy of `array` between guards, as a tensor, which lies in this very memory if the backend takes arrays over."""

    def __init__(self, array: Array) -> None:
        here = ndl.default_device()
        self._values, self._memory = array, Memory(array.nbytes, here)
        inside = self._memory.array(array.shape, array.dtype)
        inside[...] = array
        self.tensor = tensor_of(Spec.of(array.shape, DTYPES[array.dtype.name], here), here.backend.from_numpy(inside, here))

    def look(self, place: str) -> None:
        """Raise if the values, or what stands beside them, have changed."""
        if self.tensor.numpy().tobytes() != self._values.tobytes():
            raise MismatchError(f"{place}: an input was written")
        if not self._memory.is_intact:
            raise MismatchError(f"{place}: something was written outside of an input")

    def lends_to(self, y: ndl.Tensor) -> bool:
        return ndl.default_device().backend.host and np.may_share_memory(y.numpy(), self.tensor.numpy())


def _leave(poison: int, sizes: Iterable[int]) -> None:
    """Free memory full of poison, two blocks of each size: what is allocated next is likely to be there."""
    blocks = [np.full(-(-size // 2), poison, np.uint16) for size in sizes for _ in range(2)]
    blocks.clear()


def check_repeat(case: Case, sample: Sample, dtype: str, seed: int = 0) -> None:
    """The same bits every time, also while other threads compute with other values; and results stay as they are."""
    place = f"{case.name}/repeat/{sample}/{dtype}"
    given = [[ndl.Tensor(rounded(x, DTYPES[dtype])) for x in sample.draw(case.name, values)] for values in (seed, seed + 1)]

    def run(which: int) -> list[ndl.Tensor]:
        return outputs(OPS[case.name](*given[which], **sample.arguments))

    kept = [run(0), run(1)]
    expected = [_bits(ys) for ys in kept]
    if [_bits(run(0)), _bits(run(1))] != expected:
        raise MismatchError(f"{place}: a second time the result is another")
    if any(bits != expected[which] for which, found in enumerate(at_once(lambda i: [_bits(run(i)) for _ in range(8)], 2))
           for bits in found):  # fmt: skip
        raise MismatchError(f"{place}: while another thread computes, the result is another")
    if [_bits(ys) for ys in kept] != expected:
        raise MismatchError(f"{place}: a result changed when the op was called again")


def _bits(ys: Iterable[ndl.Tensor]) -> list[bytes]:
    return [y.numpy().tobytes() for y in ys]


def at_once(f: Callable[[int], Any], threads: int) -> Sequence[Any]:
    """What `f(0)`, `f(1)`, ... give in as many threads, which begin together."""
    start = threading.Barrier(threads)

    def run(i: int) -> Any:
        start.wait()
        return f(i)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(run, range(threads)))
