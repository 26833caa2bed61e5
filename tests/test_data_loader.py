"""The loader: batches, order, prefetching, and going on after a stop."""

from __future__ import annotations

import json
import threading
import traceback
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from needle_core.data import ArrayDataset, DataLoader
from needle_core.errors import ArgumentError, StateError
from needle_core.random import Generator

SQUARES = np.arange(10) ** 2


def numbers(batches: Iterable[Any]) -> list[list[int]]:
    """The first array of every batch."""
    return [batch[0].numpy().tolist() for batch in batches]


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("needle-data")]


def test_loader_gives_batches_of_tensors_in_order() -> None:
    loader = DataLoader(ArrayDataset(np.arange(10), SQUARES.astype(np.float32)), 4)
    x, y = next(iter(loader))
    assert (str(x.dtype), str(y.dtype)) == ("int64", "float32")
    assert numbers(loader) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize(
    ("n", "size", "drop_last", "lengths"),
    [
        (10, 4, False, [4, 4, 2]),
        (10, 4, True, [4, 4]),
        (8, 4, True, [4, 4]),
        (8, 4, False, [4, 4]),
        (3, 4, False, [3]),
        (3, 4, True, []),
        (0, 4, False, []),
    ],
)
def test_loader_length_is_the_number_of_batches(n: int, size: int, drop_last: bool, lengths: list[int]) -> None:
    loader = DataLoader(ArrayDataset(np.arange(n)), size, drop_last=drop_last)
    assert len(loader) == len(lengths)
    assert [len(batch) for batch in numbers(loader)] == lengths


def test_loader_shuffles_anew_each_epoch() -> None:
    loader = DataLoader(ArrayDataset(np.arange(64)), 10, shuffle=True, generator=Generator(1))
    first, second = (np.concatenate(numbers(loader)).tolist() for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(64))
    assert list(range(64)) != first != second


def test_loader_order_is_the_permutation_of_the_generator() -> None:
    loader = DataLoader(ArrayDataset(np.arange(64)), 64, shuffle=True, generator=Generator(1))
    generator = Generator(1)
    for _ in range(2):
        assert numbers(loader) == [generator.permutation(64).numpy().tolist()]


@pytest.mark.parametrize("prefetch", [1, 2, 100])
def test_loader_prefetching_changes_nothing(prefetch: int) -> None:
    def epochs(prefetch: int) -> list[list[list[int]]]:
        loader = DataLoader(ArrayDataset(np.arange(30)), 4, shuffle=True, generator=Generator(7), prefetch=prefetch)
        return [numbers(loader) for _ in range(3)]

    assert epochs(prefetch) == epochs(0)


def test_loader_fetches_ahead_and_no_further() -> None:
    fetched: list[int] = []
    progress = threading.Semaphore(0)

    def noted(x: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], ...]:
        fetched.append(int(x[0]))
        progress.release()
        return (x,)

    batches = iter(DataLoader(ArrayDataset(np.arange(100)), 10, transform=noted, prefetch=3))
    next(batches)
    for _ in range(4):
        assert progress.acquire(timeout=60)
    assert fetched == [0, 10, 20, 30]


def test_loader_fetches_while_the_loop_works() -> None:
    both = threading.Barrier(2, timeout=60)  # is passed only by two threads at once

    def fetched(x: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], ...]:
        if x[0] > 0:
            both.wait()
        return (x,)

    for x, *_ in DataLoader(ArrayDataset(np.arange(5)), 1, transform=fetched, prefetch=1):
        if x.item() < 4:
            both.wait()


def test_loader_transforms_in_a_thread_of_its_own() -> None:
    threads = set()

    def noted(x: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], ...]:
        threads.add(threading.current_thread())
        return (x,)

    numbers(DataLoader(ArrayDataset(np.arange(100)), 10, transform=noted))
    assert len(threads) == 1
    assert threading.current_thread() not in threads


def test_loader_leaves_no_thread_behind() -> None:
    loader = DataLoader(ArrayDataset(np.arange(1000)), 1)
    numbers(loader)
    assert not workers()
    for _ in loader:
        assert len(workers()) == 1
        break
    assert not workers()


def test_loader_leaves_no_thread_behind_when_the_loop_fails() -> None:
    with pytest.raises(ZeroDivisionError):
        for _ in DataLoader(ArrayDataset(np.arange(1000)), 1):
            1 / 0  # noqa: B018
    assert not workers()


@pytest.mark.parametrize("prefetch", [0, 3])
def test_loader_raises_what_the_data_set_raises(prefetch: int) -> None:
    def broken(x: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], ...]:
        if 5 in x:
            raise OSError("the disk is gone") from EOFError("byte 7")
        return (x,)

    seen = []
    with pytest.raises(OSError, match="the disk is gone") as caught:
        for (x,) in DataLoader(ArrayDataset(np.arange(10), transform=broken), 2, prefetch=prefetch):
            seen.append(x.numpy().tolist())
    assert seen == [[0, 1], [2, 3]]
    assert repr(caught.value.__cause__) == "EOFError('byte 7')"
    assert "broken" in [frame.name for frame in traceback.extract_tb(caught.tb)]
    assert not workers()


def test_loader_refuses_what_is_not_a_tuple() -> None:
    with pytest.raises(ArgumentError, match="give tuples of arrays, not ndarray"):
        numbers(DataLoader(ArrayDataset(SQUARES), 2, transform=lambda x: x))
    with pytest.raises(ArgumentError, match="give tuples of arrays, not ndarray"):
        numbers(DataLoader(ArrayDataset(SQUARES), 2, augment=lambda x, generator: x, transform=lambda x: (x,)))


@pytest.mark.parametrize(("size", "prefetch"), [(0, 1), (1, -1)])
def test_loader_refuses_sizes_that_make_no_sense(size: int, prefetch: int) -> None:
    with pytest.raises(ArgumentError, match=f"not {size} and {prefetch}$"):
        DataLoader(ArrayDataset(SQUARES), size, prefetch=prefetch)


# -- going on after a stop -------------------------------------------------------------------------------------------------


def run(loader: DataLoader, batches: int) -> list[tuple[list[int], list[int]]]:
    """The next batches, over as many epochs as it takes, each with something else drawn from the same generator."""
    seen: list[tuple[list[int], list[int]]] = []
    while len(seen) < batches:
        for (x,) in loader:
            assert loader.generator is not None
            seen.append((x.numpy().tolist(), loader.generator.permutation(9).numpy().tolist()))
            if len(seen) == batches:
                break
    return seen


def resumable(seed: int, prefetch: int = 2) -> DataLoader:
    return DataLoader(ArrayDataset(np.arange(10)), 3, shuffle=True, generator=Generator(seed), prefetch=prefetch)


@pytest.mark.parametrize("prefetch", [0, 3])
@pytest.mark.parametrize("stop", range(10))
def test_loader_goes_on_as_if_never_stopped(stop: int, prefetch: int) -> None:
    stopped, resumed = resumable(5, prefetch), resumable(99, prefetch)
    before = run(stopped, stop)
    resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
    assert before + run(resumed, 12 - stop) == run(resumable(5), 12)


def test_loader_state_survives_a_second_stop() -> None:
    stopped, resumed = resumable(5), resumable(99)
    run(stopped, 2)
    resumed.load_state_dict(stopped.state_dict())
    assert resumed.state_dict() == stopped.state_dict()


def test_loader_state_after_an_epoch_is_that_before_the_next() -> None:
    stopped, resumed = resumable(5), resumable(99)
    numbers(stopped)
    resumed.load_state_dict(stopped.state_dict())
    assert numbers(resumed) == numbers(stopped)


def test_loader_state_replaces_the_place_that_it_was_at() -> None:
    fresh = resumable(5).state_dict()
    loader = resumable(99)
    run(loader, 2)
    loader.load_state_dict(fresh)
    assert loader.state_dict() == fresh
    assert run(loader, 6) == run(resumable(5), 6)


def test_loader_without_shuffling_goes_on() -> None:
    stopped, resumed = (DataLoader(ArrayDataset(np.arange(10)), 3) for _ in range(2))
    for _ in zip(range(2), stopped, strict=False):
        pass
    resumed.load_state_dict(stopped.state_dict())
    assert numbers(resumed) == [[6, 7, 8], [9]]
    assert numbers(resumed) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]


def test_loader_starts_a_new_epoch_after_a_break() -> None:
    loader = DataLoader(ArrayDataset(np.arange(10)), 5)
    next(iter(loader))
    assert numbers(loader) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 4}, "saved with batch_size 4, but here it is 3"),
        ({"samples": 11}, "saved with samples 11, but here it is 10"),
        ({"shuffle": 0}, "saved with shuffle 0, but here it is 1"),
        ({"augment": 1}, "saved with augment 1, but here it is 0"),
        ({"batches": 5}, "after batch 5, but there are 4"),
        ({"more": 1}, "not the state of a data loader"),
    ],
)
def test_loader_refuses_the_state_of_another(change: dict[str, int], message: str) -> None:
    loader = resumable(5)
    state = loader.state_dict()
    with pytest.raises(StateError, match=message):
        loader.load_state_dict(state | change)
    assert loader.state_dict() == state
