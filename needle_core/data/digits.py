"""The data set that comes with Needle; DIGITS.md beside this file says where it is from and under which licence."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from needle_core.data.dataset import ArrayDataset
from needle_core.data.idx import idx_dataset


def digits(*, data_format: str = "NHWC") -> tuple[ArrayDataset, ArrayDataset]:
    """Handwritten digits, to train on and to test on: 1,442 and 355 images of 8 x 8 pixels.

    A sample is an image, float32[8, 8, 1] within 0 and 1 ([1, 8, 8] with the `data_format` "NCHW"), and the digit that it
    shows, int64[]. Every fifth image of each digit, in the order of the source, is for testing, so that all digits are about
    equally frequent in both parts.

    Source:   Alpaydin and Kaynak 1998, doi 10.24432/C50P49
    """
    folder = Path(__file__).parent
    images_file, labels_file = (folder / f"digits-{part}-ubyte.gz" for part in ("images-idx3", "labels-idx1"))
    every = idx_dataset(images_file, labels_file, white=16, data_format=data_format)
    images, labels = every.arrays
    test = np.zeros(len(every), bool)
    for digit in range(10):
        test[np.flatnonzero(labels == digit)[4::5]] = True
    train = ~test
    return (
        ArrayDataset(images[train], labels[train], transform=every.transform),
        ArrayDataset(images[test], labels[test], transform=every.transform),
    )
