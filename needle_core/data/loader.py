"""The way from a data set to a training loop: batches of tensors, shuffled, fetched ahead, and resumable in mid-epoch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator as Generates, Iterable, Iterator
from contextlib import closing
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from needle_core.backend import DeviceLike, host_backends
from needle_core.data.dataset import Arrays, Dataset, Transform
from needle_core.errors import ArgumentError, StateError
from needle_core.random import Generator, default_generator
from needle_core.tensor import Tensor

T = TypeVar("T")
R = TypeVar("R")


class _Epoch(NamedTuple):
    """One pass over the data, as far as the user has come.

    Its samples in order, for each batch a seed for augmenting it, how the generator stood before, and batches given.
    """

    order: npt.NDArray[np.int64]
    seeds: npt.NDArray[np.int64]
    start: list[int]
    given: int


class DataLoader:
    """Iterates over `dataset` in batches: tuples of tensors on `device`, one for each array of a sample.

    Each iteration is an epoch: all samples once, in a new random order if `shuffle`, drawn from `generator` or else from the
    default generator. The last batch is smaller where `batch_size` does not divide the data, or left out if `drop_last`.
    `transform` sees the arrays of a batch before they become tensors; before it, `augment` does, which may draw random numbers:
    it is called as `augment(*arrays, generator=...)`, with a new generator for each batch. The seeds of these are drawn at the
    beginning of an epoch, and their numbers on the host. A thread prepares up to `prefetch` batches in advance; with 0, none
    does, and the batches are the same.

    `state_dict` is the place in the data, up to the batch that the loop was given last: a loader that loads it goes on with the
    next batch, in the same order, and leaves the generator as it stood. After a loop was left with `break`, that is still the
    place where it was left, until the next loop begins.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        *,
        shuffle: bool = False,
        drop_last: bool = False,
        generator: Generator | None = None,
        augment: Transform | None = None,
        transform: Transform | None = None,
        prefetch: int = 2,
        device: DeviceLike | None = None,
    ) -> None:
        if batch_size < 1 or prefetch < 0:
            raise ArgumentError(f"a loader needs batch_size >= 1 and prefetch >= 0, not {batch_size} and {prefetch}")
        self.dataset, self.batch_size, self.shuffle, self.drop_last = dataset, batch_size, shuffle, drop_last
        self.generator, self.augment, self.transform = generator, augment, transform
        self.prefetch, self.device = prefetch, device
        self._epoch: _Epoch | None = None  # the running one; None between epochs
        self._loaded: _Epoch | None = None  # where the next iteration goes on

    def __len__(self) -> int:
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole if self.drop_last or not rest else whole + 1

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        epoch, self._loaded = self._loaded or self._begin(), None
        n = self.batch_size
        batches = ((epoch.order[i * n : (i + 1) * n], int(epoch.seeds[i])) for i in range(epoch.given, len(self)))
        with closing(_ahead(self._fetch, batches, self.prefetch)) as fetched:
            for arrays in fetched:
                epoch = self._epoch = epoch._replace(given=epoch.given + 1)
                yield tuple(Tensor(array, device=self.device) for array in arrays)
        self._epoch = None

    def _begin(self) -> _Epoch:
        start, n = self._position(), len(self.dataset)
        order = self._source.permutation(n).numpy() if self.shuffle else np.arange(n)
        seeds = np.zeros(len(self), np.int64)
        if self.augment is not None:
            words = self._source.bits(len(self), 2).numpy()
            seeds = words[:, 0] >> 1 << 32 | words[:, 1]
        return _Epoch(order, seeds, start, 0)

    def _fetch(self, batch: tuple[npt.NDArray[np.int64], int]) -> Arrays:
        positions, seed = batch
        arrays = _checked(self.dataset[positions])
        if self.augment is not None:
            arrays = _checked(self.augment(*arrays, generator=Generator(seed, device=self._host)))
        return arrays if self.transform is None else _checked(self.transform(*arrays))

    @property
    def _source(self) -> Generator:
        return default_generator(self.device) if self.generator is None else self.generator

    @property
    def _host(self) -> str:
        """The device where augmentations draw: not an accelerator if that can be, for it has other work."""
        own = self._source.device
        return own.name if own.backend.host else next((host.name for host in host_backends()), own.name)

    @property
    def _draws(self) -> bool:
        return self.shuffle or self.augment is not None

    def _position(self) -> list[int]:
        """Where the generator stands; nowhere if none is used."""
        return [int(part) for part in self._source.state.numpy()] if self._draws else []

    def _move(self, position: list[int]) -> None:
        if self._draws:
            self._source.state.data = position

    def state_dict(self) -> dict[str, Any]:
        """The place in the data, in plain integers."""
        now = self._position()
        start, given = (now, 0) if self._epoch is None else (self._epoch.start, self._epoch.given)
        return {**self._settings(), "batches": given, "epoch_start": start, "generator": now}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the place that `state` describes.

        Raises:   StateError if it is not one in these data, in batches of this size
        """
        fields = {*self._settings(), "batches", "epoch_start", "generator"}
        if state.keys() != fields:
            raise StateError("not the state of a data loader", details={"found": sorted(state), "expected": sorted(fields)})
        for name, own in self._settings().items():
            if state[name] != own:
                raise StateError(f"the place in the data was saved with {name} {state[name]}, but here it is {own}")
        if not 0 <= state["batches"] <= len(self):
            raise StateError(f"the place in the data is after batch {state['batches']}, but there are {len(self)}")
        if state["batches"] == 0:
            self._epoch = self._loaded = None
        else:
            self._move(state["epoch_start"])
            self._epoch = self._loaded = self._begin()._replace(given=state["batches"])
        self._move(state["generator"])

    def _settings(self) -> dict[str, int]:
        flags = {"shuffle": int(self.shuffle), "augment": int(self.augment is not None)}
        return {"samples": len(self.dataset), "batch_size": self.batch_size, **flags}


def _checked(arrays: Arrays) -> Arrays:
    if not isinstance(arrays, tuple):
        raise ArgumentError(f"data sets and transforms give tuples of arrays, not {type(arrays).__name__}")
    return arrays


def _ahead(fetch: Callable[[T], R], items: Iterable[T], count: int) -> Generates[R, None, None]:
    """`fetch(item)` for each of `items` in order, up to `count` of them computed in advance by a thread."""
    if count == 0:
        yield from map(fetch, items)
        return
    from concurrent.futures import ThreadPoolExecutor  # here, for it takes 5 ms to import

    waiting = iter(items)
    pool = ThreadPoolExecutor(1, thread_name_prefix="needle-data")
    try:
        ahead = deque(pool.submit(fetch, item) for item in islice(waiting, count))
        while ahead:
            result = ahead.popleft().result()
            ahead.extend(pool.submit(fetch, item) for item in islice(waiting, 1))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)
