"""Data sets: samples by integers, slices and arrays, and the digits."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from needle_core.data import ArrayDataset, digits
from needle_core.errors import ArgumentError, BoundsError, DtypeError, ShapeError

SQUARES = np.arange(10) ** 2


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


@pytest.mark.parametrize("index", [3, -7, np.int64(3), np.uint8(3), np.array(3)])
def test_array_dataset_takes_integers_of_any_kind(index: Any) -> None:
    assert ArrayDataset(np.arange(10), SQUARES)[index] == (3, 9)


@pytest.mark.parametrize("index", [[], np.zeros(0, np.int64), slice(4, 4), slice(90, 99)])
def test_array_dataset_gives_no_samples_at_once(index: Any) -> None:
    x, y = ArrayDataset(np.zeros((10, 2)), SQUARES, transform=lambda x, y: (x + 1, y))[index]
    assert (x.shape, y.shape) == ((0, 2), (0,))


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


def test_array_dataset_refuses_a_grid_of_indices() -> None:
    with pytest.raises(ShapeError, match=r"along one axis, not by \[2, 2\]"):
        ArrayDataset(SQUARES)[np.array([[0, 1], [2, 3]])]


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


# -- digits ----------------------------------------------------------------------------------------------------------------


def test_digits_are_those_of_the_source() -> None:
    train, test = digits()
    images, labels = (np.concatenate(pair) for pair in zip(train.arrays, test.arrays, strict=True))
    # Counts as in the description of the data set; sums as those of sklearn.datasets.load_digits.
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert images.shape == (1797, 8, 8, 1)
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


def test_digits_come_in_both_formats() -> None:
    last, first = (digits(data_format=data_format)[1][:][0] for data_format in ("NHWC", "NCHW"))
    assert (last.shape, first.shape) == ((355, 8, 8, 1), (355, 1, 8, 8))
    np.testing.assert_array_equal(last[..., 0], first[:, 0])
