"""Data sets, IDX files, the digits, and the loader: batches, order, prefetching, and going on after a stop."""

from __future__ import annotations

import gzip
import json
import struct
import threading
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, strategies as st

from needle_core.data import ArrayDataset, DataLoader, digits, fashion_mnist, idx, idx_dataset, read_idx
from needle_core.errors import ArgumentError, BoundsError, DataError, DtypeError, ShapeError, StateError
from needle_core.random import Generator

SQUARES = np.arange(10) ** 2
TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}  # of the format's description


def encoded(array: npt.NDArray[Any], code: int = 0x08) -> bytes:
    """`array` in the IDX format."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return header + array.astype(TYPES[code]).tobytes()


def numbers(batches: Iterable[Any]) -> list[list[int]]:
    """The first array of every batch."""
    return [batch[0].numpy().tolist() for batch in batches]


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("needle-data")]


# -- data sets ----------------------------------------------------------------------------------------------------------


def test_array_dataset_gives_one_sample() -> None:
    data = ArrayDataset(np.arange(20).reshape(10, 2), SQUARES)
    x, y = data[3]
    assert len(data) == 10
    assert (x.tolist(), int(y)) == ([6, 7], 9)
    assert int(data[-1][1]) == 81


@pytest.mark.parametrize("index", [slice(2, 9, 3), np.array([2, 5, 8]), np.array([-8, -5, -2]), np.array([2, 5, 8], np.uint8)])
def test_array_dataset_gives_many_samples_at_once(index: Any) -> None:
    x, y = ArrayDataset(np.arange(10), SQUARES)[index]
    assert x.tolist() == [2, 5, 8]
    assert y.tolist() == [4, 25, 64]


def test_array_dataset_transform_sees_batches() -> None:
    shapes = []

    def halved(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], ...]:
        shapes.append(x.shape)
        return x / 2, y

    data = ArrayDataset(np.arange(10), SQUARES, transform=halved)
    assert data[2:4][0].tolist() == [1.0, 1.5]
    assert float(data[3][0]) == 1.5
    assert shapes == [(2,), (1,)]


def test_array_dataset_can_be_iterated() -> None:
    assert [int(y) for _, y in ArrayDataset(np.arange(10), SQUARES)] == SQUARES.tolist()


@pytest.mark.parametrize(("index", "named"), [(10, "10"), (-11, "-11"), (np.array([0, 12]), "12")])
def test_array_dataset_names_the_sample_that_is_missing(index: Any, named: str) -> None:
    with pytest.raises(BoundsError, match=f"^sample {named} of 10$"):
        ArrayDataset(SQUARES)[index]


def test_array_dataset_refuses_other_indices() -> None:
    with pytest.raises(DtypeError, match="chosen by integers, not by bool"):
        ArrayDataset(SQUARES)[SQUARES > 5]


def test_array_dataset_refuses_arrays_of_different_lengths() -> None:
    with pytest.raises(ShapeError) as caught:
        ArrayDataset(np.zeros((3, 2)), np.zeros(4))
    assert str(caught.value) == "the arrays of a data set must have one length\n  array 0: [3, 2]\n  array 1: [4]"


@pytest.mark.parametrize("arrays", [(np.zeros(3), 1.0), (1.0, 2.0)])
def test_array_dataset_refuses_numbers(arrays: tuple[Any, ...]) -> None:
    with pytest.raises(ShapeError):
        ArrayDataset(*arrays)


def test_array_dataset_needs_an_array() -> None:
    with pytest.raises(ArgumentError, match="at least one array"):
        ArrayDataset()


# -- IDX ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", TYPES)
@pytest.mark.parametrize("name", ["values.idx", "values.idx.gz"])
def test_read_idx_reads_every_type(tmp_path: Path, code: int, name: str) -> None:
    values = np.array([[0, 1, 2], [100, 127, 3]])
    content = encoded(values, code)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    array = read_idx(tmp_path / name)
    assert array.dtype == np.dtype(TYPES[code]).newbyteorder("=")
    assert array.dtype.isnative
    assert array.tolist() == values.tolist()


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1, 1, 1, 1, 2)])
def test_read_idx_reads_every_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    (tmp_path / "a").write_bytes(encoded(np.ones(shape)))
    assert read_idx(tmp_path / "a").shape == shape


PLAIN = encoded(np.arange(6).reshape(2, 3))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a", PLAIN[:-1], "truncated IDX data\n  found: 5 bytes\n  expected: 6 bytes for uint8[2, 3]"),
        ("a", PLAIN + b"xy", "oversized IDX data\n  found: 8 bytes\n  expected: 6 bytes for uint8[2, 3]"),
        ("a", PLAIN[:9], "truncated IDX header\n  found: 9 bytes\n  expected: 12 bytes for 2 axes"),
        ("a", b"", "not an IDX file\n  found: nothing\n  expected: 00 00, a type code of 08, 09, 0b, 0c, 0d, 0e, the axes"),
        (
            "a",
            b"\x89PNG\r\n",
            "not an IDX file\n  found: 89 50 4e 47\n  expected: 00 00, a type code of 08, 09, 0b, 0c, 0d, 0e, the axes",
        ),
        (
            "a",
            gzip.compress(PLAIN),
            "not an IDX file\n  found: gzip, which a name ending in .gz would tell\n"
            "  expected: 00 00, a type code of 08, 09, 0b, 0c, 0d, 0e, the axes",
        ),
        ("a.gz", PLAIN, "not a readable gzip file\n  found: Not a gzipped file (b'\\x00\\x00')"),
        (
            "a.gz",
            gzip.compress(PLAIN)[:-9],
            "not a readable gzip file\n  found: Compressed file ended before the end-of-stream marker was reached",
        ),
        (
            "a.gz",
            gzip.compress(PLAIN)[:10] + b"\xff" * 20,
            "not a readable gzip file\n  found: Error -3 while decompressing data: invalid block type",
        ),
        ("a", struct.pack(">4B65I", 0, 0, 8, 65, *[0] * 65), f"IDX header with impossible lengths\n  found: {[0] * 65}"),
        (
            "a",
            struct.pack(">4B4I", 0, 0, 8, 4, 0, *[2**32 - 1] * 3),
            "IDX header with impossible lengths\n  found: [0, 4294967295, 4294967295, 4294967295]",
        ),
    ],
    ids=[
        "truncated",
        "oversized",
        "header",
        "empty",
        "other",
        "gzip unnamed",
        "gzip misnamed",
        "gzip truncated",
        "gzip garbled",
        "axes",
        "lengths",
    ],
)
def test_read_idx_says_what_is_wrong(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_idx(path)
    assert str(caught.value) == f"{path}: {message}"


def test_read_idx_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file") as caught:
        read_idx(tmp_path / "absent")
    assert str(tmp_path / "absent") in str(caught.value)


@given(content=st.binary(max_size=64), code=st.sampled_from([*TYPES, 0]), axes=st.integers(0, 255))
def test_read_idx_of_any_bytes_raises_nothing_but_data_error(
    tmp_path_factory: Any, content: bytes, code: int, axes: int
) -> None:
    path = tmp_path_factory.mktemp("idx") / "a"
    path.write_bytes(bytes([0, 0, code, axes]) + content)
    try:
        array = read_idx(path)
    except DataError:
        return
    assert array.nbytes == len(content) - 4 * axes


def test_idx_dataset_scales_images(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(encoded(np.array([[[0, 51], [255, 102]]])))
    (tmp_path / "y").write_bytes(encoded(np.array([7])))
    x, y = idx_dataset(tmp_path / "x", tmp_path / "y")[:]
    assert (x.dtype, y.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(x, np.array([[[[0, 0.2], [1, 0.4]]]], np.float32))
    assert y.tolist() == [7]


def test_idx_dataset_refuses_labels_for_images(tmp_path: Path) -> None:
    (tmp_path / "y").write_bytes(encoded(np.array([7])))
    with pytest.raises(DataError) as caught:
        idx_dataset(tmp_path / "y", tmp_path / "y")
    assert str(caught.value) == f"{tmp_path / 'y'}: not a file of images\n  found: uint8[1]\n  expected: uint8[n, h, w]"


def test_idx_dataset_refuses_labels_of_other_images(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(encoded(np.zeros((2, 4, 4))))
    (tmp_path / "y").write_bytes(encoded(np.array([7, 1, 2])))
    with pytest.raises(DataError) as caught:
        idx_dataset(tmp_path / "x", tmp_path / "y")
    assert str(caught.value) == f"{tmp_path / 'y'}: not the labels of these images\n  found: uint8[3]\n  expected: uint8[2]"


# -- Fashion-MNIST ------------------------------------------------------------------------------------------------------


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without Fashion-MNIST."""
    monkeypatch.delenv("NEEDLE_DATA", raising=False)
    monkeypatch.setattr(idx, "_DEBIAN", tmp_path / "debian")
    return tmp_path


def write_fashion_mnist(folder: Path, label: int, suffix: str = ".gz") -> Path:
    """Four files in the manner of Fashion-MNIST: 3 images to train on and 2 to test on, all of class `label`."""
    folder.mkdir()
    for split, n in ("train", 3), ("t10k", 2):
        for part, array in ("images-idx3", np.zeros((n, 28, 28))), ("labels-idx1", np.full(n, label)):
            content = encoded(array)
            (folder / f"{split}-{part}-ubyte{suffix}").write_bytes(gzip.compress(content) if suffix else content)
    return folder


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_fashion_mnist_is_read_from_a_directory(nowhere: Path, suffix: str) -> None:
    train, test = fashion_mnist(write_fashion_mnist(nowhere / "mine", 4, suffix))
    assert (len(train), len(test)) == (3, 2)
    assert train[0][0].shape == (1, 28, 28)
    assert train[:][1].tolist() == [4, 4, 4]


def test_fashion_mnist_prefers_the_argument_then_the_environment(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def label(directory: Path | None = None) -> int:
        return int(fashion_mnist(directory)[0][0][1])

    write_fashion_mnist(nowhere / "debian", 1)
    assert label() == 1
    monkeypatch.setenv("NEEDLE_DATA", str(write_fashion_mnist(nowhere / "environment", 2)))
    assert label() == 2
    assert label(write_fashion_mnist(nowhere / "argument", 3)) == 3


def test_fashion_mnist_does_not_look_elsewhere_than_told(nowhere: Path) -> None:
    write_fashion_mnist(nowhere / "debian", 1)
    with pytest.raises(DataError):
        fashion_mnist(nowhere / "typo")


def test_fashion_mnist_says_how_to_get_it(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (write_fashion_mnist(nowhere / "partial", 1) / "t10k-labels-idx1-ubyte.gz").unlink()
    monkeypatch.setenv("NEEDLE_DATA", str(nowhere / "partial"))
    with pytest.raises(DataError) as caught:
        fashion_mnist()
    assert str(caught.value) == (
        "the files of Fashion-MNIST were not found\n"
        "  files: train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte, "
        "each plain or with .gz\n"
        f"  NEEDLE_DATA: {nowhere / 'partial'} lacks t10k-labels-idx1-ubyte\n"
        f"  the Debian package: {nowhere / 'debian'} has none of them\n"
        "  hint: apt-get install dataset-fashion-mnist, or name the folder of the files with --data-dir or NEEDLE_DATA"
    )


# -- digits -------------------------------------------------------------------------------------------------------------


def test_digits_are_those_of_the_source() -> None:
    train, test = digits()
    images, labels = (np.concatenate(pair) for pair in zip(train.arrays, test.arrays, strict=True))
    # Counts as in the description of the data set; sums as those of sklearn.datasets.load_digits.
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert images.shape == (1797, 1, 8, 8)
    assert (int(images.min()), int(images.max()), int(images.sum(dtype=np.int64))) == (0, 16, 561718)
    pixels = images.reshape(-1, 64).astype(np.int64)
    assert int((pixels * np.arange(64)).sum()) == 17660653
    assert int((pixels.sum(axis=1) * labels).sum()) == 2525954


def test_digits_are_split_evenly() -> None:
    train, test = digits()
    assert (len(train), len(test)) == (1442, 355)
    assert np.bincount(test.arrays[1]).tolist() == [35, 36, 35, 36, 36, 36, 36, 35, 34, 36]


def test_digits_are_scaled() -> None:
    x, y = digits()[0][:]
    assert (x.dtype, y.dtype) == (np.float32, np.int64)
    assert (x.min(), x.max()) == (0, 1)
    assert set((x * 16).ravel().tolist()) == set(range(17))


# -- the loader ---------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("prefetch", [0, 3])
def test_loader_raises_what_the_data_set_raises(prefetch: int) -> None:
    def broken(x: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], ...]:
        if 5 in x:
            raise OSError("the disk is gone")
        return (x,)

    seen = []
    with pytest.raises(OSError, match="the disk is gone") as caught:
        for (x,) in DataLoader(ArrayDataset(np.arange(10), transform=broken), 2, prefetch=prefetch):
            seen.append(x.numpy().tolist())
    assert seen == [[0, 1], [2, 3]]
    assert "broken" in [frame.name for frame in traceback.extract_tb(caught.tb)]
    assert not workers()


def test_loader_refuses_what_is_not_a_tuple() -> None:
    with pytest.raises(ArgumentError, match="give tuples of arrays, not ndarray"):
        numbers(DataLoader(ArrayDataset(SQUARES), 2, transform=lambda x: x))


@pytest.mark.parametrize(("size", "prefetch"), [(0, 1), (1, -1)])
def test_loader_refuses_sizes_that_make_no_sense(size: int, prefetch: int) -> None:
    with pytest.raises(ArgumentError, match=f"not {size} and {prefetch}$"):
        DataLoader(ArrayDataset(SQUARES), size, prefetch=prefetch)


# -- going on after a stop ----------------------------------------------------------------------------------------------


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
