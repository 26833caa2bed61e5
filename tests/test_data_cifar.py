"""CIFAR-10 in both forms, as published, damaged, and malicious."""

from __future__ import annotations

import io
import pickle
import resource
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, strategies as st

from needle_core.data import cifar10, read_cifar10
from needle_core.errors import DataError

pytestmark = pytest.mark.once

NAMES = ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (3, 3, 32, 32), np.uint8)  # channels first, as the files have them
LABELS = [6, 9, 0]


def records(images: npt.NDArray[np.uint8], labels: list[int]) -> bytes:
    """The binary version."""
    return b"".join(bytes([label]) + image.tobytes() for image, label in zip(images, labels, strict=True))


def text(value: bytes) -> bytes:
    """The opcode of Python 2 for a string."""
    return b"T" + struct.pack("<I", len(value)) + value


def pickled(images: npt.NDArray[np.uint8], labels: list[int]) -> bytes:
    """The Python version, opcode by opcode as cPickle of Python 2 with protocol 2 writes it."""
    dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R"
    dtype += b"(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    state = b"(K\x01" + b"M" + struct.pack("<H", len(images)) + b"M" + struct.pack("<H", 3072) + b"\x86"
    array += state + dtype + b"\x89" + text(images.tobytes()) + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    names = b"](" + text(b"a.png") + text(b"b.png") + b"e"
    items = [text(b"data"), array, text(b"labels"), numbers, text(b"batch_label"), text(b"training batch 1 of 5")]
    return b"\x80\x02}(" + b"".join(items) + text(b"filenames") + names + b"u."


FORMS = {"bin": (".bin", records), "py": ("", pickled)}

forms = pytest.mark.parametrize("form", FORMS)


def write(folder: Path, form: str) -> Path:
    """Six files of three images, each beginning with the last of the one before."""
    suffix, encoded = FORMS[form]
    folder.mkdir(parents=True)
    for n, name in enumerate(NAMES):
        (folder / f"{name}{suffix}").write_bytes(encoded(np.roll(IMAGES, n, axis=0), LABELS[-n % 3 :] + LABELS[: -n % 3]))
    return folder


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NEEDLE_DATA", raising=False)


# -- what the files hold ------------------------------------------------------------------------------------------------


@forms
def test_cifar10_file_is_read(tmp_path: Path, form: str) -> None:
    suffix, encoded = FORMS[form]
    (tmp_path / f"a{suffix}").write_bytes(encoded(IMAGES, LABELS))
    images, labels = read_cifar10(tmp_path / f"a{suffix}")
    assert (images.dtype, labels.dtype) == (np.uint8, np.uint8)
    np.testing.assert_array_equal(images, IMAGES.transpose(0, 2, 3, 1))
    assert labels.tolist() == LABELS


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("key", [str, str.encode])
def test_cifar10_is_read_where_python_3_pickled_it_again(tmp_path: Path, protocol: int, key: Any) -> None:
    made = {key("data"): IMAGES.reshape(3, 3072), key("labels"): LABELS, key("filenames"): ["a.png"]}
    (tmp_path / "a").write_bytes(pickle.dumps(made, protocol))
    images, labels = read_cifar10(tmp_path / "a")
    np.testing.assert_array_equal(images, IMAGES.transpose(0, 2, 3, 1))
    assert labels.tolist() == LABELS


@forms
@pytest.mark.parametrize(("data_format", "axes"), [("NHWC", (0, 2, 3, 1)), ("NCHW", (0, 1, 2, 3))])
def test_cifar10_is_five_files_and_one(tmp_path: Path, form: str, data_format: str, axes: tuple[int, ...]) -> None:
    train, test = cifar10(write(tmp_path / "here", form), data_format=data_format)
    x, y = train[:]
    assert (x.dtype, y.dtype) == (np.float32, np.int64)
    expected = np.concatenate([IMAGES[[-n % 3, (1 - n) % 3, (2 - n) % 3]] for n in range(5)]).transpose(axes)
    np.testing.assert_array_equal(x, expected.astype(np.float32) / np.float32(255))
    assert y.tolist() == [6, 9, 0, 0, 6, 9, 9, 0, 6, 6, 9, 0, 0, 6, 9]
    assert test[:][1].tolist() == [9, 0, 6]


@pytest.mark.parametrize("name", ["data_batch_2", "test_batch"])
def test_cifar10_that_is_cut_between_two_images_names_the_file(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / "here", "bin") / f"{name}.bin"
    file.write_bytes(file.read_bytes()[:-3073])
    with pytest.raises(DataError) as raised:
        cifar10(tmp_path / "here")
    assert str(raised.value) == (
        f"{file}: truncated CIFAR-10 file\n  found: 2 images\n  expected: 3, as another of the six files has"
    )


# -- where they are looked for ------------------------------------------------------------------------------------------


@forms
def test_cifar10_is_found_in_the_folder_of_its_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    write(tmp_path / f"cifar-10-batches-{form}", form)
    monkeypatch.setenv("NEEDLE_DATA", str(tmp_path))
    assert len(cifar10()[0]) == 15


def test_cifar10_says_how_to_get_it() -> None:
    with pytest.raises(DataError) as caught:
        cifar10()
    assert str(caught.value) == (
        "the files of CIFAR-10 were not found\n"
        f"  files: {', '.join(f'{name}.bin' for name in NAMES)} or {', '.join(NAMES)}\n"
        "  looked in: no folder, for none was given\n"
        "  hint: unpack cifar-10-binary.tar.gz of www.cs.toronto.edu/~kriz/cifar.html, and name the folder with NEEDLE_DATA"
    )


@forms
def test_cifar10_names_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    folder = write(tmp_path / f"cifar-10-batches-{form}", form)
    gone = folder / f"data_batch_3{FORMS[form][0]}"
    gone.unlink()
    monkeypatch.setenv("NEEDLE_DATA", str(tmp_path))
    with pytest.raises(DataError) as caught:
        cifar10()
    assert f"  NEEDLE_DATA: {folder} lacks {gone.name}\n" in str(caught.value)


# -- damage -------------------------------------------------------------------------------------------------------------

WHOLE = pickled(IMAGES, LABELS)
EXPECTED = "\n  expected: a pickled dict of data, uint8[n, 3072], and of n labels"
WRONG = "not a file of CIFAR-10\n  found: "


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.bin",
            records(IMAGES, LABELS)[:-1],
            "truncated CIFAR-10 file\n  found: 9218 bytes: 2 records and 3072 bytes\n  expected: records of 3073 bytes",
        ),
        ("a.bin", b"", "truncated CIFAR-10 file\n  found: 0 bytes: 0 records and 0 bytes\n  expected: records of 3073 bytes"),
        (
            "a.bin",
            records(IMAGES, [1, 10, 2]),
            "not the labels of CIFAR-10\n  found: 10 for image 1\n  expected: integers from 0 to 9",
        ),
        ("a", WHOLE[:5000], f"{WRONG}ValueError: expected 9216 bytes in a string4, but only 4857 remain{EXPECTED}"),
        ("a", b"", f"{WRONG}ValueError: pickle exhausted before seeing STOP{EXPECTED}"),
        ("a", pickle.dumps([1]), f"{WRONG}list{EXPECTED}"),
        ("a", pickle.dumps({"fine_labels": [1], "data": 3}), f"{WRONG}a dict of fine_labels, data{EXPECTED}"),
        ("a", pickled(IMAGES, LABELS[:2]), f"{WRONG}data uint8[3, 3072] and 2 labels{EXPECTED}"),
        (
            "a",
            pickled(IMAGES, [1, 2, 99]),
            "not the labels of CIFAR-10\n  found: 99 for image 2\n  expected: integers from 0 to 9",
        ),
        ("a", pickle.dumps({"data": np.zeros(3), "labels": [1]}, 4), f"{WRONG}UnpicklingError: an array of 'f8'{EXPECTED}"),
    ],
    ids=["truncated", "empty", "label", "cut", "nothing", "list", "other dict", "labels", "number", "floats"],
)
def test_cifar10_says_what_is_wrong(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_cifar10(path)
    assert str(caught.value) == f"{path}: {message}"


def test_cifar10_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a readable file") as caught:
        read_cifar10(tmp_path / "absent")
    assert str(tmp_path / "absent") in str(caught.value)


@given(content=st.binary(max_size=64), start=st.integers(0, len(WHOLE)), end=st.integers(0, 64))
def test_cifar10_of_any_bytes_raises_nothing_but_data_error(
    tmp_path_factory: Any, content: bytes, start: int, end: int
) -> None:
    path = tmp_path_factory.mktemp("cifar") / "a"
    path.write_bytes(WHOLE[:start] + content + WHOLE[start + end :])
    try:
        images, labels = read_cifar10(path)
    except DataError:
        return
    assert images.shape == (len(labels), 32, 32, 3)


# -- malice -------------------------------------------------------------------------------------------------------------


class Calls:
    """Pickled, the order to call `function` with `arguments`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_cifar10_runs_nothing_that_a_pickle_asks_for(tmp_path: Path, protocol: int) -> None:
    traces = tmp_path / "traces"
    (tmp_path / "a").write_bytes(pickle.dumps({"data": Calls(open, str(traces), "w"), "labels": []}, protocol))
    with pytest.raises(DataError, match=r"it asks for \w+\.open"):
        read_cifar10(tmp_path / "a")
    assert not traces.exists()


@pytest.mark.parametrize(
    "name",
    [
        "builtins\neval", "builtins\ngetattr", "os\nsystem", "numpy\nload", "numpy\nfrombuffer", "numpy\ndtype.__init__",
        "needle_core.data.cifar\nread_cifar10", "numpy.core.multiarray\nscalar",
    ],
)  # fmt: skip
@pytest.mark.parametrize("opcodes", [b"c%s\n%s\n(U\x01atR.", b"(U\x01ai%s\n%s\n.", b"\x80\x04\x8c%c%s\x8c%c%s\x93."])
def test_cifar10_admits_no_other_name(tmp_path: Path, name: str, opcodes: bytes) -> None:
    module, function = (part.encode() for part in name.split("\n"))
    parts = (len(module), module, len(function), function) if b"%c" in opcodes else (module, function)
    (tmp_path / "a").write_bytes(opcodes % parts)
    with pytest.raises(DataError, match="it asks for"):
        read_cifar10(tmp_path / "a")


def test_cifar10_is_not_changed_by_a_pickle_that_sets_attributes(tmp_path: Path) -> None:
    array = b"cnumpy\nndarray\n"
    (tmp_path / "a").write_bytes(array + b"N}" + text(b"values") + b"K\x07s\x86b.")  # the state (None, {"values": 7})
    with pytest.raises(DataError):
        read_cifar10(tmp_path / "a")
    (tmp_path / "a").write_bytes(WHOLE)
    assert read_cifar10(tmp_path / "a")[1].tolist() == LABELS


@pytest.mark.parametrize("opcodes", [b"]r\xff\xff\xff\x3f.", b"]p1000000000\n.", b"\x80\x05\x96" + struct.pack("<Q", 2**30)])
def test_cifar10_takes_no_more_memory_than_the_file_holds(tmp_path: Path, opcodes: bytes) -> None:
    (tmp_path / "a").write_bytes(opcodes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError):
        read_cifar10(tmp_path / "a")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_pickles_of_the_tests_are_those_of_python_2() -> None:
    made = pickle.load(io.BytesIO(WHOLE), encoding="bytes")
    np.testing.assert_array_equal(made[b"data"], IMAGES.reshape(3, 3072))
    assert made[b"labels"] == LABELS
