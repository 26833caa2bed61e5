"""Transforms of batches of images: random crops and flips, and normalisation.

    augment = compose(RandomCrop(4), RandomFlip())
    DataLoader(train, batch_size=128, shuffle=True, augment=augment, transform=Normalize(mean, std))

An augmentation is a transform that draws: it takes a `generator` besides the arrays of a batch, `f(x, y, *, generator)`. Those
here change the first array, the images, and pass on the others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from needle_core.data.dataset import Arrays, Transform
from needle_core.doors import normalize_integer
from needle_core.errors import ArgumentError, DtypeError, ShapeError
from needle_core.nn.formats import normalize_format
from needle_core.random import Generator

Images = npt.NDArray[Any]


def compose(*transforms: Transform) -> Transform:
    """One transform after the other: the next one gets what the one before returned, and the generator if there is one."""

    def composed(*arrays: npt.NDArray[Any], **generator: Generator) -> Arrays:
        for transform in transforms:
            arrays = transform(*arrays, **generator)
        return arrays

    return composed


class RandomCrop:
    """Each image is moved by up to `padding` pixels along both axes; zeros move in, and what moves out is lost.

    That is a crop of the original size, at a random place, from the image with `padding` zeros on every side.

    Shapes:   (n, h, w, c) -> (n, h, w, c), or with the `data_format` "NCHW" (n, c, h, w) -> (n, c, h, w)
    """

    def __init__(self, padding: int, *, data_format: str = "NHWC") -> None:
        self.padding = normalize_integer("RandomCrop: padding", padding)
        self.data_format = normalize_format("RandomCrop", data_format, 2)
        if self.padding < 0:
            raise ArgumentError(f"RandomCrop: padding is {padding}")

    def __call__(self, images: Images, *others: npt.NDArray[Any], generator: Generator) -> Arrays:
        _check("RandomCrop", images, self.data_format)
        n, p = len(images), self.padding
        places = generator.integers(0, 2 * p + 1, n, 2).numpy()
        padded = np.pad(images, [(p, p) if axis in "HW" else (0, 0) for axis in self.data_format])
        crops = sliding_window_view(padded, images.shape[1:], axis=(1, 2, 3))  # one for every place, without a copy
        crops = crops.squeeze(self.data_format.index("C"))
        return crops[np.arange(n), places[:, 0], places[:, 1]], *others


class RandomFlip:
    """Each image is mirrored, left and right exchanged, with probability `p`.

    Shapes:   (n, h, w, c) -> (n, h, w, c), or with the `data_format` "NCHW" (n, c, h, w) -> (n, c, h, w)
    """

    def __init__(self, p: float = 0.5, *, data_format: str = "NHWC") -> None:
        if not 0 <= p <= 1:
            raise ArgumentError(f"RandomFlip: p is a probability, not {p!r}")
        self.p, self.data_format = p, normalize_format("RandomFlip", data_format, 2)

    def __call__(self, images: Images, *others: npt.NDArray[Any], generator: Generator) -> Arrays:
        _check("RandomFlip", images, self.data_format)
        flipped = generator.bernoulli(len(images), 1, 1, 1, p=self.p).numpy()
        return np.where(flipped, np.flip(images, self.data_format.index("W")), images), *others


class Normalize:
    """Images from which the mean is taken and which are divided by the standard deviation, channel by channel.

        y = (x - mean) / std

    `mean` and `std` are numbers, or one for each channel.

    Shapes:   (n, h, w, c) -> (n, h, w, c), or with the `data_format` "NCHW" (n, c, h, w) -> (n, c, h, w)
    Dtypes:   that of the images, which is floating
    """

    def __init__(self, mean: npt.ArrayLike, std: npt.ArrayLike, *, data_format: str = "NHWC") -> None:
        self.mean, self.std = np.asarray(mean, np.float64), np.asarray(std, np.float64)
        self.data_format = normalize_format("Normalize", data_format, 2)
        if self.mean.ndim > 1 or self.std.ndim > 1:
            raise ShapeError(
                "Normalize: mean and std are numbers, or one for each channel",
                details={"mean": list(self.mean.shape), "std": list(self.std.shape)},
            )
        if not (self.std > 0).all():
            raise ArgumentError(f"Normalize: a standard deviation is positive, not {self.std.min()}")

    def __call__(self, images: Images, *others: npt.NDArray[Any]) -> Arrays:
        _check("Normalize", images, self.data_format)
        axis = self.data_format.index("C")
        if not {self.mean.size, self.std.size} <= {1, images.shape[axis]}:
            details = {"images": list(images.shape), "mean": list(self.mean.shape), "std": list(self.std.shape)}
            raise ShapeError(f"Normalize: there are {images.shape[axis]} channels in {self.data_format}", details=details)
        if images.dtype.kind != "f":
            raise DtypeError(f"Normalize: images are floating, not {images.dtype}")
        mean, std = (v.astype(images.dtype).reshape([-1 if i == axis else 1 for i in range(4)]) for v in (self.mean, self.std))
        y = images - mean
        y /= std
        return y, *others


def _check(name: str, images: Images, data_format: str) -> None:
    if images.ndim != len(data_format):
        raise ShapeError(f"{name}: a batch of images has the axes {data_format}", details={"images": list(images.shape)})
