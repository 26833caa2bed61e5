"""CIFAR-10, in both forms in which it is published.

    binary version    records of 1 byte label | 3072 bytes image [3, 32, 32]
    Python version    a pickle of {"data": uint8[n, 3072], "labels": [n ints], ...} as Python 2 wrote it

A pickle is a program. Here it can make nothing but dicts, lists, numbers, strings and arrays of bytes.

Source:   Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images; www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from needle_core.data.dataset import ArrayDataset, image_dataset
from needle_core.data.files import find_files, mismatch
from needle_core.errors import DataError, brief

Bytes = npt.NDArray[np.uint8]

_SHAPE: Final = (3, 32, 32)
_PIXELS: Final = 3 * 32 * 32
_NAMES: Final = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


def cifar10(directory: str | os.PathLike[str] | None = None, *, data_format: str = "NHWC") -> tuple[ArrayDataset, ArrayDataset]:
    """CIFAR-10, to train on and to test on: 50,000 and 10,000 photographs, 32 x 32 pixels in colour, in 10 classes.

    A sample is an image, float32[32, 32, 3] within 0 and 1 ([3, 32, 32] with the `data_format` "NCHW"), and its class, int64[].
    The six files of the binary version, or else of the Python version, are looked for in `directory`; without one, in
    $NEEDLE_DATA; there also in the folder that their archive makes.

    Raises:   DataError that says where was looked and how to get the files, or which file is not what it should be
    Source:   Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images
    """
    files = find_files(
        "CIFAR-10",
        {"cifar-10-batches-bin": [f"{name}.bin" for name in _NAMES], "cifar-10-batches-py": _NAMES},
        directory,
        hint="unpack cifar-10-binary.tar.gz of www.cs.toronto.edu/~kriz/cifar.html, and name the folder with NEEDLE_DATA",
    )
    parts = [read_cifar10(file) for file in files]
    most = max(len(labels) for _, labels in parts)
    for file, (_, labels) in zip(files, parts, strict=True):
        if len(labels) < most:  # cut between two records
            mismatch(file, "truncated CIFAR-10 file", f"{len(labels)} images", f"{most}, as another of the six files has")
    *train, test = parts
    images, labels = (np.concatenate(parts) for parts in zip(*train, strict=True))
    return image_dataset(images, labels, data_format=data_format), image_dataset(*test, data_format=data_format)


def read_cifar10(path: str | os.PathLike[str]) -> tuple[Bytes, Bytes]:
    """Images, uint8[n, 32, 32, 3], and labels, uint8[n], of one file: of the binary version if its name ends in ".bin".

    Raises:   DataError if there is no such file, or it is not exactly what its name says
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as cause:
        raise DataError(f"{path}: not a readable file", details={"found": cause}) from cause
    pixels, labels = _from_records(path, content) if path.suffix == ".bin" else _from_pickle(path, content)
    for i, label in enumerate(labels):
        if type(label) is not int or not 0 <= label <= 9:
            mismatch(path, "not the labels of CIFAR-10", f"{brief(label)} for image {i}", "integers from 0 to 9")
    return np.ascontiguousarray(np.moveaxis(pixels.reshape(-1, *_SHAPE), 1, -1)), np.array(labels, np.uint8)


def _from_records(path: Path, content: bytes) -> tuple[Bytes, list[int]]:
    record = 1 + _PIXELS
    whole, rest = divmod(len(content), record)
    if rest or not whole:
        found = f"{len(content)} bytes: {whole} records and {rest} bytes"
        mismatch(path, "truncated CIFAR-10 file", found, f"records of {record} bytes")
    records = np.frombuffer(content, np.uint8).reshape(whole, record)
    return records[:, 1:], records[:, 0].tolist()


def _from_pickle(path: Path, content: bytes) -> tuple[Bytes, list[Any]]:
    expected = f"a pickled dict of data, uint8[n, {_PIXELS}], and of n labels"
    try:
        _check_memory(content)
        made = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as cause:  # of any kind, as pickle's documentation warns: content is bytes from anywhere
        mismatch(path, "not a file of CIFAR-10", f"{type(cause).__name__}: {cause}", expected, cause=cause)
    fields = {k.decode("latin1") if isinstance(k, bytes) else k: v for k, v in made.items()} if isinstance(made, dict) else {}
    data, labels = fields.get("data"), fields.get("labels")
    if not isinstance(data, _Array) or not isinstance(labels, list):
        found = f"a dict of {', '.join(map(str, fields)) or 'nothing'}" if isinstance(made, dict) else type(made).__name__
        mismatch(path, "not a file of CIFAR-10", found, expected)
    if data.values.shape != (len(labels), _PIXELS):
        found = f"data uint8{list(data.values.shape)} and {len(labels)} labels"
        mismatch(path, "not a file of CIFAR-10", found, expected)
    return data.values, labels


# -- what a pickle may make -------------------------------------------------------------------------------------------------


class _Uint8:
    """Stands for `numpy.dtype`, of bytes only."""

    def __init__(self, code: Any, *flags: Any) -> None:
        if code not in ("u1", b"u1"):
            raise pickle.UnpicklingError(f"an array of {code!r}")

    def __setstate__(self, state: Any) -> None:
        """Byte order and fields, which bytes do not have."""


class _Array:
    """Stands for `numpy.ndarray` and for the function that pickles make one with, so that no code of NumPy's sees the file."""

    values: Bytes = np.zeros(0, np.uint8)

    def __init__(self, *blank: Any) -> None:
        """Empty, as NumPy's is before its state."""

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, columns_first, content = state
        if not isinstance(dtype, _Uint8) or columns_first or not isinstance(content, bytes):
            raise pickle.UnpicklingError("an array that is not of bytes, row by row")
        self.values = np.frombuffer(content, np.uint8).reshape(shape)


_STAND_INS: Final = {
    ("numpy", "dtype"): _Uint8,
    ("numpy", "ndarray"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
}


def _check_memory(content: bytes) -> None:
    """Refuse the instructions with which a few bytes take gigabytes: places in the memo are reserved up to the highest number
    that is named, and bytearrays at the length that is claimed."""
    from pickletools import genops  # here, for it takes 5 ms to import

    for n, (opcode, argument, _) in enumerate(genops(content)):
        if opcode.name == "BYTEARRAY8" or (opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and not 0 <= (argument or 0) <= n):
            raise pickle.UnpicklingError(f"instruction {n} is {opcode.name} {brief(argument)}")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _STAND_INS[module, name]
