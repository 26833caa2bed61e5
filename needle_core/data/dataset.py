"""What a data set is: something with a length, that gives any selection of its samples at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from needle_core.errors import ArgumentError, BoundsError, DtypeError, ShapeError
from needle_core.nn.formats import normalize_format

Arrays: TypeAlias = tuple[npt.NDArray[Any], ...]
Index: TypeAlias = int | slice | npt.NDArray[np.integer[Any]]
Transform: TypeAlias = Callable[..., Arrays]
"""Takes the arrays of a batch, one argument each, and returns the tuple of those to use instead. It must leave its arguments as
they are, and depend on nothing else: then training goes on after a stop as if there had been none."""


class Dataset(Protocol):
    """Samples by position; any object with these two methods is one.

    An integer gives one sample, a tuple of arrays; a slice or an array of n integers gives n of them in one go, a tuple of
    arrays whose first axis has length n.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: Index, /) -> Arrays: ...


class ArrayDataset:
    """Samples along the first axis of arrays in memory: sample i is `(arrays[0][i], arrays[1][i], ...)`, transformed.

    `transform` sees whole batches, a batch of one for a single sample.

    Raises:   ShapeError if the arrays do not have one length
    """

    def __init__(self, *arrays: npt.ArrayLike, transform: Transform | None = None) -> None:
        self.arrays: Arrays = tuple(np.asarray(array) for array in arrays)
        self.transform = transform
        if not arrays:
            raise ArgumentError("a data set needs at least one array")
        if len({array.shape[:1] for array in self.arrays}) != 1 or self.arrays[0].ndim == 0:
            shapes = {f"array {i}": list(array.shape) for i, array in enumerate(self.arrays)}
            raise ShapeError("the arrays of a data set must have one length", details=shapes)

    def __len__(self) -> int:
        return len(self.arrays[0])

    def __getitem__(self, index: Index) -> Arrays:
        if isinstance(index, slice):
            return self._batch(index)
        positions = np.asarray(index)
        if positions.size == 0 and positions.ndim == 1:
            return self._batch(slice(0))  # of any dtype, for that of an empty list is floating
        if positions.dtype.kind not in "iu":
            raise DtypeError(f"samples are chosen by integers, not by {positions.dtype}")
        if positions.ndim > 1:
            raise ShapeError(f"samples are chosen by integers along one axis, not by {list(positions.shape)}")
        if not -len(self) <= positions.min() <= positions.max() < len(self):
            raise BoundsError(f"sample {positions.max() if positions.min() >= 0 else positions.min()} of {len(self)}")
        if positions.ndim == 0:
            return tuple(array[0] for array in self._batch(positions[np.newaxis]))
        return self._batch(positions)

    def _batch(self, index: slice | npt.NDArray[np.integer[Any]]) -> Arrays:
        batch = tuple(array[index] for array in self.arrays)
        return batch if self.transform is None else self.transform(*batch)

    def __repr__(self) -> str:
        return f"ArrayDataset({', '.join(f'{array.dtype}{list(array.shape)}' for array in self.arrays)})"


def image_dataset(
    images: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8], *, white: int = 255, data_format: str = "NHWC"
) -> ArrayDataset:
    """Images, uint8[n, h, w, c] within 0 and `white`, and their labels, uint8[n].

    A sample is the image divided by `white`, float32 within 0 and 1, [h, w, c] or with the `data_format` "NCHW" [c, h, w], and
    its label, int64[].
    """
    if normalize_format("image_dataset", data_format, 2) == "NCHW":
        images = np.ascontiguousarray(np.moveaxis(images, -1, 1))

    def scaled(x: npt.NDArray[np.uint8], y: npt.NDArray[np.int64]) -> Arrays:
        return x.astype(np.float32) / np.float32(white), y

    # The bytes are kept and scaled batch by batch: a quarter of the memory.
    return ArrayDataset(images, labels.astype(np.int64), transform=scaled)
