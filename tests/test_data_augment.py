"""Augmentation: what is done to images, and random numbers that depend on nothing but the seed and the batch."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import needle_core as ndl
from needle_core.data import ArrayDataset, DataLoader, Normalize, RandomCrop, RandomFlip, compose
from needle_core.errors import ArgumentError, DtypeError, ShapeError
from needle_core.random import Generator

FORMATS = ["NHWC", "NCHW"]
IMAGES = np.arange(64 * 5 * 7 * 3, dtype=np.float32).reshape(64, 5, 7, 3) + 1
LABELS = np.arange(64)


def written(images: npt.NDArray[Any], data_format: str) -> npt.NDArray[Any]:
    """Images (n, h, w, c) in `data_format`."""
    return images if data_format == "NHWC" else images.transpose(0, 3, 1, 2)


# -- crops --------------------------------------------------------------------------------------------------------------


def moved(image: npt.NDArray[Any], up: int, left: int) -> npt.NDArray[Any]:
    """`image`, moved pixel by pixel over a ground of zeros."""
    out = np.zeros_like(image)
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            if 0 <= y + up < image.shape[0] and 0 <= x + left < image.shape[1]:
                out[y, x] = image[y + up, x + left]
    return out


@pytest.mark.parametrize("data_format", FORMATS)
def test_random_crop_moves_each_image_over_zeros(data_format: str) -> None:
    images = written(IMAGES, data_format)
    crops, labels = RandomCrop(2, data_format=data_format)(images, LABELS, generator=Generator(3))
    places = Generator(3).integers(0, 5, 64, 2).numpy() - 2
    expected = np.stack([moved(image, *place) for image, place in zip(IMAGES, places.tolist(), strict=True)])
    np.testing.assert_array_equal(crops, written(expected, data_format))
    assert labels is LABELS
    assert crops.dtype == np.float32


def test_random_crop_takes_every_place_about_equally_often() -> None:
    marked = np.zeros((9000, 3, 3, 1), np.float32)
    marked[:, 1, 1] = 1
    (crops,) = RandomCrop(1)(marked, generator=Generator(0))
    counts = crops.sum(axis=0).ravel()
    assert counts.sum() == 9000
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(9000 * 1 / 9 * 8 / 9)  # five standard deviations


def test_random_crop_without_padding_changes_nothing() -> None:
    (crops,) = RandomCrop(0)(IMAGES, generator=Generator(0))
    np.testing.assert_array_equal(crops, IMAGES)


@pytest.mark.parametrize("augment", [RandomCrop(2), RandomFlip()])
def test_augmentations_leave_their_arguments_as_they_are(augment: Any) -> None:
    images = IMAGES.copy()
    images.flags.writeable = False
    augment(images, generator=Generator(0))
    np.testing.assert_array_equal(images, IMAGES)


@pytest.mark.parametrize("augment", [RandomCrop(2), RandomFlip()])
def test_augmentations_take_a_batch_of_none(augment: Any) -> None:
    (images,) = augment(IMAGES[:0], generator=Generator(0))
    assert images.shape == (0, 5, 7, 3)


# -- flips --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data_format", FORMATS)
def test_random_flip_exchanges_left_and_right_of_some(data_format: str) -> None:
    (images,) = RandomFlip(data_format=data_format)(written(IMAGES, data_format), generator=Generator(5))
    flipped = Generator(5).bernoulli(64, p=0.5).numpy()
    assert 16 < flipped.sum() < 48
    for image, original, turned in zip(images, written(IMAGES, data_format), flipped, strict=True):
        width = data_format.index("W") - 1
        np.testing.assert_array_equal(image, np.flip(original, width) if turned else original)


@pytest.mark.parametrize("p", [0, 1])
def test_random_flip_of_all_or_none(p: float) -> None:
    (images,) = RandomFlip(p)(IMAGES, generator=Generator(0))
    np.testing.assert_array_equal(images, IMAGES[:, :, ::-1] if p else IMAGES)


# -- normalisation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data_format", FORMATS)
def test_normalize_gives_each_channel_mean_0_and_deviation_1(data_format: str) -> None:
    noise = np.random.default_rng(0).normal([1, 2, 3], [4, 5, 6], (1000, 5, 7, 3))
    mean, std = noise.mean((0, 1, 2)), noise.std((0, 1, 2))
    images, labels = Normalize(mean, std, data_format=data_format)(written(noise, data_format), LABELS)
    spatial = (0, *(data_format.index(axis) for axis in "HW"))
    np.testing.assert_allclose(images.mean(spatial), 0, atol=1e-12)
    np.testing.assert_allclose(images.std(spatial), 1, rtol=1e-12)
    assert labels is LABELS


def test_normalize_keeps_the_dtype_and_takes_numbers() -> None:
    (images,) = Normalize(0.5, 0.25)(IMAGES)
    assert images.dtype == np.float32
    np.testing.assert_array_equal(images, (IMAGES - 0.5) * 4)


# -- refusals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomCrop(-1), "RandomCrop: padding is -1"),
        (lambda: RandomFlip(1.5), "RandomFlip: p is a probability, not 1.5"),
        (lambda: RandomFlip(data_format="HW"), "RandomFlip: data_format is 'NHWC' or 'NCHW', not 'HW'"),
        (lambda: Normalize(0, [1, 0, 1]), "Normalize: a standard deviation is positive, not 0.0"),
    ],
)
def test_augmentations_refuse_arguments(make: Any, message: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        make()
    assert str(caught.value) == message


@pytest.mark.parametrize("augment", [RandomCrop(1), RandomFlip()])
def test_augmentations_refuse_a_single_image(augment: Any) -> None:
    with pytest.raises(ShapeError, match="a batch of images has the axes NHWC\n  images: \\[5, 7, 3\\]"):
        augment(IMAGES[0], generator=Generator(0))


def test_normalize_refuses_other_channels() -> None:
    with pytest.raises(ShapeError) as caught:
        Normalize([0, 0, 0], [1, 1, 1], data_format="NCHW")(IMAGES)
    assert str(caught.value) == ("Normalize: there are 5 channels in NCHW\n  images: [64, 5, 7, 3]\n  mean: [3]\n  std: [3]")


def test_normalize_refuses_bytes() -> None:
    with pytest.raises(DtypeError, match="images are floating, not uint8"):
        Normalize(0, 1)(IMAGES.astype(np.uint8))


# -- in the loader ------------------------------------------------------------------------------------------------------


def loader(*, seed: int = 7, prefetch: int = 2, shuffle: bool = True, device: str | None = None) -> DataLoader:
    return DataLoader(
        ArrayDataset(IMAGES, LABELS),
        10,
        shuffle=shuffle,
        augment=compose(RandomCrop(2), RandomFlip()),
        transform=Normalize(0.5, 2.0),
        generator=Generator(seed, device=device),
        prefetch=prefetch,
        device=device,
    )


def contents(batches: Any) -> list[list[Any]]:
    return [[array.numpy().tolist() for array in batch] for batch in batches]


def test_compose_is_one_after_the_other() -> None:
    both = compose(RandomCrop(2), RandomFlip())(IMAGES, LABELS, generator=Generator(4))
    generator = Generator(4)
    one_by_one = RandomFlip()(*RandomCrop(2)(IMAGES, LABELS, generator=generator), generator=generator)
    np.testing.assert_array_equal(both[0], one_by_one[0])


def test_loader_augments_before_it_transforms() -> None:
    seen: list[str] = []

    def augment(x: npt.NDArray[Any], *, generator: Generator) -> tuple[npt.NDArray[Any], ...]:
        seen.append("augment")
        return (x,)

    def transform(x: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], ...]:
        seen.append("transform")
        return (x,)

    list(DataLoader(ArrayDataset(LABELS), 64, augment=augment, transform=transform))
    assert seen == ["augment", "transform"]


def test_loader_gives_every_batch_and_every_epoch_other_numbers() -> None:
    def drawn(x: npt.NDArray[Any], *, generator: Generator) -> tuple[npt.NDArray[Any], ...]:
        return (generator.bits(4).numpy(),)

    batches = DataLoader(ArrayDataset(LABELS), 16, augment=drawn, generator=Generator(1))
    numbers = [tuple(x.numpy().tolist()) for _ in range(3) for (x,) in batches]
    assert len(set(numbers)) == 12


@pytest.mark.parametrize("prefetch", [1, 2, 100])
def test_loader_augments_alike_with_any_prefetch(prefetch: int) -> None:
    one, other = loader(prefetch=0), loader(prefetch=prefetch)
    for _ in range(2):
        assert contents(one) == contents(other)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("stop", [0, 1, 4, 7])
def test_loader_augments_alike_after_a_stop(stop: int, shuffle: bool) -> None:
    whole, stopped, resumed = loader(shuffle=shuffle), loader(shuffle=shuffle), loader(seed=99, shuffle=shuffle)
    before = contents(islice(stopped, stop))
    resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
    assert before + contents(resumed) == contents(whole)  # after all 7, nothing is left of the epoch
    assert contents(resumed) == contents(whole)


def test_loader_augments_alike_on_every_device() -> None:
    assert contents(loader(device="loopback")) == contents(loader(device="numpy"))


def test_loader_without_augmentation_draws_the_order_alone() -> None:
    generator = Generator(3)
    list(DataLoader(ArrayDataset(LABELS), 8, shuffle=True, generator=generator))
    assert ndl.Tensor(generator.state).numpy().tolist() == [3, 1]
