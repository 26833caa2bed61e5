"""Files in the IDX format, in which MNIST and Fashion-MNIST come.

    2 bytes 0 | 1 byte type code | 1 byte number of axes | their lengths, uint32 each | the values; all big-endian

Source:   LeCun, Cortes and Burges, The MNIST database of handwritten digits
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
import numpy.typing as npt

from needle_core.data.dataset import ArrayDataset, Arrays
from needle_core.errors import DataError

_TYPES: Final = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP: Final = b"\x1f\x8b"
_SPLITS: Final = ("train", "t10k")
_DEBIAN: Final = Path("/usr/share/datasets/fashion-mnist")


def read_idx(path: str | os.PathLike[str]) -> npt.NDArray[Any]:
    """The array in an IDX file, which is compressed with gzip if its name ends in ".gz".

    Raises:   DataError if there is no such file, or it is not exactly what its name and header say
    """
    path = Path(path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as cause:
        kind = "gzip file" if path.suffix == ".gz" else "file"
        raise DataError(f"{path}: not a readable {kind}", details={"found": cause}) from cause

    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _TYPES:
        found = "gzip, which a name ending in .gz would tell" if content[:2] == _GZIP else content[:4].hex(" ") or "nothing"
        _mismatch(path, "not an IDX file", found, f"00 00, a type code of {', '.join(f'{t:02x}' for t in _TYPES)}, the axes")
    dtype, start = np.dtype(_TYPES[content[2]]), 4 + 4 * content[3]
    if len(content) < start:
        _mismatch(path, "truncated IDX header", f"{len(content)} bytes", f"{start} bytes for {content[3]} axes")
    shape = tuple(np.frombuffer(content[4:start], ">u4").tolist())
    size, expected = len(content) - start, math.prod(shape) * dtype.itemsize
    if size != expected:
        what = "truncated" if size < expected else "oversized"
        _mismatch(path, f"{what} IDX data", f"{size} bytes", f"{expected} bytes for {dtype.name}{list(shape)}")
    try:
        return np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))
    except ValueError as cause:  # no values, but more axes or longer ones than NumPy has
        raise DataError(f"{path}: IDX header with impossible lengths", details={"found": list(shape)}) from cause


def idx_dataset(images: str | os.PathLike[str], labels: str | os.PathLike[str], *, white: int = 255) -> ArrayDataset:
    """Images and their labels from two IDX files.

    A sample is the image divided by `white`, float32[1, h, w] within 0 and 1, and its label, int64[].

    Raises:   DataError if the files are not uint8 images and as many uint8 labels
    """
    x, y = read_idx(images), read_idx(labels)
    if x.dtype != np.uint8 or x.ndim != 3:
        _mismatch(images, "not a file of images", f"{x.dtype}{list(x.shape)}", "uint8[n, h, w]")
    if y.dtype != np.uint8 or y.shape != x.shape[:1]:
        _mismatch(labels, "not the labels of these images", f"{y.dtype}{list(y.shape)}", f"uint8[{len(x)}]")

    def scaled(x: npt.NDArray[np.uint8], y: npt.NDArray[np.int64]) -> Arrays:
        return x.astype(np.float32) / np.float32(white), y

    # The bytes are kept and scaled batch by batch: a quarter of the memory.
    return ArrayDataset(x[:, np.newaxis], y.astype(np.int64), transform=scaled)


def fashion_mnist(directory: str | os.PathLike[str] | None = None) -> tuple[ArrayDataset, ArrayDataset]:
    """Fashion-MNIST, to train on and to test on: 60,000 and 10,000 images of clothes, 28 x 28 pixels in 10 classes.

    Its four files are looked for in `directory`; without one, in $NEEDLE_DATA, then where Debian's package
    dataset-fashion-mnist puts them.

    Raises:   DataError that says where was looked and how to get the files
    Source:   Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747
    """
    places: dict[str, Path] = {}
    if directory is not None:
        places["the given directory"] = Path(directory)
    else:
        if given := os.environ.get("NEEDLE_DATA"):
            places["NEEDLE_DATA"] = Path(given)
        places["the Debian package"] = _DEBIAN
    names = [f"{split}-{part}-ubyte" for split in _SPLITS for part in ("images-idx3", "labels-idx1")]
    looked: dict[str, object] = {}
    for place, folder in places.items():
        files = [next((f for f in (folder / f"{name}.gz", folder / name) if f.is_file()), None) for name in names]
        missing = [name for name, file in zip(names, files, strict=True) if file is None]
        if not missing:
            train_x, train_y, test_x, test_y = (file for file in files if file is not None)
            return idx_dataset(train_x, train_y), idx_dataset(test_x, test_y)
        looked[place] = f"{folder} has none of them" if len(missing) == 4 else f"{folder} lacks {', '.join(missing)}"
    raise DataError(
        "the files of Fashion-MNIST were not found",
        details={"files": f"{', '.join(names)}, each plain or with .gz", **looked},
        hint="apt-get install dataset-fashion-mnist, or name the folder of the files with --data-dir or NEEDLE_DATA",
    )


def _mismatch(path: str | os.PathLike[str], what: str, found: str, expected: str) -> NoReturn:
    raise DataError(f"{os.fspath(path)}: {what}", details={"found": found, "expected": expected})
