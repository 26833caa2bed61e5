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
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from needle_core.data.dataset import ArrayDataset, image_dataset
from needle_core.data.files import find_files, mismatch
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
        mismatch(path, "not an IDX file", found, f"00 00, a type code of {', '.join(f'{t:02x}' for t in _TYPES)}, the axes")
    dtype, start = np.dtype(_TYPES[content[2]]), 4 + 4 * content[3]
    if len(content) < start:
        mismatch(path, "truncated IDX header", f"{len(content)} bytes", f"{start} bytes for {content[3]} axes")
    shape = tuple(np.frombuffer(content[4:start], ">u4").tolist())
    size, expected = len(content) - start, math.prod(shape) * dtype.itemsize
    if size != expected:
        what = "truncated" if size < expected else "oversized"
        mismatch(path, f"{what} IDX data", f"{size} bytes", f"{expected} bytes for {dtype.name}{list(shape)}")
    try:
        return np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))
    except ValueError as cause:  # no values, but more axes or longer ones than NumPy has
        raise DataError(f"{path}: IDX header with impossible lengths", details={"found": list(shape)}) from cause


def idx_dataset(
    images: str | os.PathLike[str], labels: str | os.PathLike[str], *, white: int = 255, data_format: str = "NHWC"
) -> ArrayDataset:
    """Images and their labels from two IDX files.

    A sample is the image divided by `white`, float32 within 0 and 1, [h, w, 1] or with the `data_format` "NCHW" [1, h, w], and
    its label, int64[].

    Raises:   DataError if the files are not uint8 images and as many uint8 labels
    """
    x, y = read_idx(images), read_idx(labels)
    if x.dtype != np.uint8 or x.ndim != 3:
        mismatch(images, "not a file of images", f"{x.dtype}{list(x.shape)}", "uint8[n, h, w]")
    if y.dtype != np.uint8 or y.shape != x.shape[:1]:
        mismatch(labels, "not the labels of these images", f"{y.dtype}{list(y.shape)}", f"uint8[{len(x)}]")
    return image_dataset(x[..., np.newaxis], y, white=white, data_format=data_format)


def fashion_mnist(
    directory: str | os.PathLike[str] | None = None, *, data_format: str = "NHWC"
) -> tuple[ArrayDataset, ArrayDataset]:
    """Fashion-MNIST, to train on and to test on: 60,000 and 10,000 images of clothes, 28 x 28 pixels in 10 classes.

    A sample is as `idx_dataset` says. Its four files are looked for in `directory`; without one, in $NEEDLE_DATA; where that is
    not set either, where Debian's package dataset-fashion-mnist puts them.

    Raises:   DataError that says where was looked and how to get the files
    Source:   Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747
    """
    train_x, train_y, test_x, test_y = find_files(
        "Fashion-MNIST",
        {"fashion-mnist": [f"{split}-{part}-ubyte" for split in _SPLITS for part in ("images-idx3", "labels-idx1")]},
        directory,
        suffixes=(".gz", ""),
        packaged=_DEBIAN,
        hint="apt-get install dataset-fashion-mnist, or name the folder of the files with --data-dir or NEEDLE_DATA",
    )
    return (
        idx_dataset(train_x, train_y, data_format=data_format),
        idx_dataset(test_x, test_y, data_format=data_format),
    )
