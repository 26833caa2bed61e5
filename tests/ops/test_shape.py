"""Functions that rearrange elements against NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core.errors import ArgumentError, DtypeError, ShapeError
from tests.devices import on_the_host

X = np.arange(24.0).reshape(2, 3, 4)


@pytest.mark.parametrize(
    ("f", "expected"),
    [
        (lambda x: x.T, X.T),
        (lambda x: x.mT, X.mT),
        (lambda x: ndl.matrix_transpose(x), X.mT),
        (lambda x: x.transpose(), X.transpose()),
        (lambda x: x.transpose(1, 2, 0), X.transpose(1, 2, 0)),
        (lambda x: x.transpose((1, -1, 0)), X.transpose(1, 2, 0)),
        (lambda x: x.reshape(6, 4), X.reshape(6, 4)),
        (lambda x: x.reshape((4, -1)), X.reshape(4, 6)),
        (lambda x: x.reshape(-1), X.reshape(-1)),
        (lambda x: x.flatten(), X.flatten()),
        (lambda x: ndl.swapaxes(x, 0, -1), np.swapaxes(X, 0, -1)),
        (lambda x: ndl.moveaxis(x, 0, -1), np.moveaxis(X, 0, -1)),
        (lambda x: ndl.moveaxis(x, (0, 1), (-1, 0)), np.moveaxis(X, (0, 1), (-1, 0))),
        (lambda x: ndl.moveaxis(x, [2, 0], [0, 2]), np.moveaxis(X, [2, 0], [0, 2])),
        (lambda x: ndl.expand_dims(x, 0), np.expand_dims(X, 0)),
        (lambda x: ndl.expand_dims(x, -1), np.expand_dims(X, -1)),
        (lambda x: ndl.expand_dims(x, (0, 2, -1)), np.expand_dims(X, (0, 2, -1))),
        (lambda x: ndl.squeeze(x[:1]), X[:1].squeeze()),
        (lambda x: ndl.squeeze(x[:1, :, :1], 0), X[:1, :, :1].squeeze(0)),
        (lambda x: ndl.squeeze(x[:1, :, :1], (0, -1)), X[:1, :, :1].squeeze((0, -1))),
        (lambda x: x.broadcast_to(5, 2, 3, 4), np.broadcast_to(X, (5, 2, 3, 4))),
        (lambda x: ndl.concat([x, x], axis=1), np.concatenate([X, X], axis=1)),
        (lambda x: ndl.stack([x, x], axis=-1), np.stack([X, X], axis=-1)),
        (lambda x: ndl.pad(x, width=((0, 0), (1, 2), (0, 1)), value=7), np.pad(X, ((0, 0), (1, 2), (0, 1)), constant_values=7)),
        (lambda x: ndl.tile(x, repetitions=(2, 1, 1, 2)), np.tile(X, (2, 1, 1, 2))),
        (lambda x: ndl.roll(x, shift=-5, axis=2), np.roll(X, -5, 2)),
    ],
)
def test_is_numpys_and_its_gradient_is_the_adjoint(f: Callable[[ndl.Tensor], ndl.Tensor], expected: Any) -> None:
    """f is linear but for a constant, so for any d the inner products <gradient, d> and <g, f(d) - f(0)> are equal."""
    y, pull = ndl.vjp(f, ndl.Tensor(X))
    assert y.shape == expected.shape
    np.testing.assert_array_equal(y.numpy(), expected)
    rng = np.random.default_rng(0)
    g, d = rng.normal(size=expected.shape), rng.normal(size=X.shape)
    moved = f(ndl.Tensor(d)).numpy() - f(ndl.Tensor(np.zeros(X.shape))).numpy()
    assert float((pull(ndl.Tensor(g))[0].numpy() * d).sum()) == pytest.approx(float((g * moved).sum()), rel=1e-12)


@pytest.mark.parametrize(("sizes", "axis"), [(2, 2), ([1, 2], 1), ([0, 2, 1], -2), (1, 0), ([2], 0)])
def test_split_cuts_and_concat_joins(sizes: Any, axis: int) -> None:
    cuts = sizes if isinstance(sizes, int) else np.cumsum(sizes)[:-1]
    parts = ndl.split(ndl.Tensor(X), sizes, axis)
    for part, expected in zip(parts, np.split(X, cuts, axis), strict=True):
        np.testing.assert_array_equal(part.numpy(), expected)
    np.testing.assert_array_equal(ndl.concat(*parts, axis=axis).numpy(), X)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_unstack_is_the_inverse_of_stack(axis: int) -> None:
    parts = ndl.unstack(ndl.Tensor(X), axis)
    assert [p.tolist() for p in parts] == [p.tolist() for p in np.unstack(X, axis=axis)]
    np.testing.assert_array_equal(ndl.stack(*parts, axis=axis).numpy(), X)


def test_broadcast_arrays_meet_in_one_shape() -> None:
    found = ndl.broadcast_arrays(ndl.ones((2, 1)), ndl.ones(3), ndl.Tensor(1.0))
    assert [t.shape for t in found] == [(2, 3)] * 3


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda x: ndl.split(x, 5), ShapeError, "do not make 5 equal parts"),
        (lambda x: ndl.split(x, 0), ShapeError, "do not make 0 equal parts"),
        (lambda x: ndl.split(x, [1, 2]), ShapeError, "do not add up to 2"),
        (lambda x: ndl.split(x, [3, -1]), ShapeError, "do not add up to 2"),
        (lambda x: ndl.split(x, 1, 3), ShapeError, "axis 3 is out of range"),
        (lambda x: ndl.squeeze(x, 0), ShapeError, "are not all of size 1"),
        (lambda x: ndl.expand_dims(x, 5), ShapeError, "axis 5 is out of range"),
        (lambda x: ndl.expand_dims(x, (0, 0)), ShapeError, "repeat an axis"),
        (lambda x: ndl.moveaxis(x, (0, 0), (1, 2)), ShapeError, "is not one-to-one"),
        (lambda x: ndl.moveaxis(x, 0, (1, 2)), ShapeError, "is not one-to-one"),
        (lambda x: ndl.swapaxes(x, 0, 3), ShapeError, "axis 3 is out of range"),
        (lambda x: ndl.matrix_transpose(x[0, 0]), ShapeError, "at least two axes"),
        (lambda x: x.reshape(5, -1), ShapeError, "cannot put 24 elements"),
        (lambda x: ndl.reshape(x, shape="ab"), ArgumentError, "shape"),
        (lambda x: ndl.reshape(x, shape=(2.5, 4)), ArgumentError, "shape"),
        (lambda x: ndl.pad(x.astype("uint8"), width=1, value=-1), DtypeError, "out of the range of uint8"),
        (lambda x: ndl.repeat(x, repeats=1.5, axis=0), ArgumentError, "an integer"),
        (lambda x: ndl.repeat(x, repeats=[1, 2], axis=0), ArgumentError, "an integer"),
        (lambda x: ndl.roll(x, shift=1.5, axis=0), ArgumentError, "integer"),
        (lambda x: ndl.permute_dims(x, axes=5), ShapeError, "axis 5 is out of range"),
        (lambda x: ndl.broadcast_arrays(x, ndl.ones(3)), ShapeError, "do not broadcast"),
    ],
)
def test_refuses(call: Callable[[ndl.Tensor], Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call(ndl.Tensor(X))


@on_the_host
def test_views_do_not_copy_on_the_host() -> None:
    x = ndl.Tensor(X)
    for view in (x.T, x.reshape(6, 4), x[0], x[:, ::2], ndl.flip(x), x.broadcast_to(2, 2, 3, 4)):
        assert np.shares_memory(view.numpy(), x.numpy())


def test_undilate_is_the_inverse_of_dilate() -> None:
    x = ndl.Tensor(X)
    wide = ndl.dilate(x, axes=(0, 2), dilation=2)
    assert wide.shape == (6, 3, 12)
    np.testing.assert_array_equal(ndl.undilate(wide, axes=(0, 2), dilation=2).numpy(), X)
    assert wide.sum().item() == X.sum()


def test_dilate_puts_zeros_after_each_element() -> None:
    assert ndl.dilate(ndl.Tensor([[1, 2], [3, 4]]), axes=(0, 1), dilation=1).tolist() == [
        [1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0],
    ]  # fmt: skip
