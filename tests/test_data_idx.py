"""IDX files, and Fashion-MNIST, which comes in them."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, strategies as st

from needle_core.data import fashion_mnist, idx, idx_dataset, read_idx
from needle_core.errors import ArgumentError, DataError

pytestmark = pytest.mark.once

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}  # of the format's description


def encoded(array: npt.NDArray[Any], code: int = 0x08) -> bytes:
    """`array` in the IDX format."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return header + array.astype(TYPES[code]).tobytes()


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
    np.testing.assert_array_equal(x, np.array([[[[0], [0.2]], [[1], [0.4]]]], np.float32))
    assert y.tolist() == [7]


@pytest.mark.parametrize(("data_format", "shape"), [("NHWC", (2, 3, 1)), ("NCHW", (1, 2, 3))])
def test_idx_dataset_puts_the_channel_where_it_is_told(tmp_path: Path, data_format: str, shape: tuple[int, ...]) -> None:
    (tmp_path / "x").write_bytes(encoded(np.arange(6).reshape(1, 2, 3)))
    (tmp_path / "y").write_bytes(encoded(np.array([7])))
    image, _ = idx_dataset(tmp_path / "x", tmp_path / "y", white=1, data_format=data_format)[0]
    assert image.shape == shape
    assert image.ravel().tolist() == list(range(6))


def test_idx_dataset_refuses_another_format(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(encoded(np.zeros((1, 2, 3))))
    (tmp_path / "y").write_bytes(encoded(np.array([7])))
    with pytest.raises(ArgumentError, match="data_format is 'NHWC' or 'NCHW', not 'HWC'"):
        idx_dataset(tmp_path / "x", tmp_path / "y", data_format="HWC")


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


# -- Fashion-MNIST ---------------------------------------------------------------------------------------------------------


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
    assert train[0][0].shape == (28, 28, 1)
    assert train[:][1].tolist() == [4, 4, 4]


def test_fashion_mnist_prefers_the_argument_then_the_environment(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def label(directory: Path | None = None) -> int:
        return int(fashion_mnist(directory)[0][0][1])

    write_fashion_mnist(nowhere / "debian", 1)
    assert label() == 1
    monkeypatch.setenv("NEEDLE_DATA", str(write_fashion_mnist(nowhere / "environment", 2)))
    assert label() == 2
    assert label(write_fashion_mnist(nowhere / "argument", 3)) == 3


def test_fashion_mnist_is_found_in_a_folder_of_its_own(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_fashion_mnist(nowhere / "fashion-mnist", 5)
    monkeypatch.setenv("NEEDLE_DATA", str(nowhere))
    assert fashion_mnist(data_format="NCHW")[1][0][0].shape == (1, 28, 28)


@pytest.mark.parametrize(("folder", "told"), [("typo", "is not a folder"), (".", "has none of them")])
def test_fashion_mnist_does_not_pass_over_a_wrong_variable(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, folder: str, told: str
) -> None:
    write_fashion_mnist(nowhere / "debian", 1)
    monkeypatch.setenv("NEEDLE_DATA", str(nowhere / folder))
    with pytest.raises(DataError) as caught:
        fashion_mnist()
    assert f"  NEEDLE_DATA: {nowhere / folder} {told}\n" in str(caught.value)


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
        "  hint: apt-get install dataset-fashion-mnist, or name the folder of the files with --data-dir or NEEDLE_DATA"
    )
