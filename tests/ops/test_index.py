"""Indexing, gathering, scattering and sorting against NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st
from hypothesis.extra import numpy as hnp

import needle_core as ndl
from needle_core.errors import ArgumentError, BoundsError, ShapeError
from tests.devices import on_the_host

X = np.arange(60.0).reshape(3, 4, 5)


def check_getitem(x: Any, key: Any) -> None:
    """Value, shape and gradient of x[key] are NumPy's; the gradient counts how often each element was taken."""
    t = ndl.Tensor(x, requires_grad=True)
    y, expected = t[key], x[key]
    assert y.shape == np.shape(expected)
    np.testing.assert_array_equal(y.numpy(), expected)
    g = np.random.default_rng(0).normal(size=y.shape)
    y.backward(ndl.Tensor(g))
    taken = np.zeros(x.shape)
    np.add.at(taken, key, g)
    assert t.grad is not None
    np.testing.assert_allclose(t.grad.numpy(), taken, rtol=1e-12, atol=1e-12)


A, J, K = np.array([0, 2, -1]), np.array([[1], [-3]]), np.array([1, 1, 0])


@pytest.mark.parametrize(
    "key",
    [0, -1, (1, 2), (1, 2, 3), (), ..., None, (None, ...), (..., None), (0, ..., 1), (slice(None), None, 1), slice(1, None),
    slice(None, None, -1),
     slice(None, None, 2), (slice(2, 0, -1), slice(None, None, -2)), slice(5, 1), (..., slice(-2, None)), (slice(0, 0), 1),
     A, J, (A, K), (J, K), (A, J), (slice(None), A), (slice(None), J, A), (A, slice(None), K), (A, ..., K),
     (slice(None, None, -1), A, K),
     (0, A), (A, 0), (0, slice(None), A), (A, slice(None), 0), (None, A), (A, None, K), (..., A), (A, None), (1, None, A),
     (slice(1), A, None, K),
     (A, K, A), (J, 0, A), (0, J, slice(None, None, -2)), np.array([], int), (np.array([], int), K[:0]), [0, 1, 1],
     ([0, 1], [1, 2]), [[0, 1], [2, 0]],
     np.array(1), (np.array(1), A), np.int64(2), (A.astype(np.int32), K.astype(np.uint8))],
    ids=lambda k: repr(k)[:50].replace("\n", " "),
)  # fmt: skip
def test_getitem_is_numpys(key: Any) -> None:
    check_getitem(X, key)


@pytest.mark.parametrize(
    "key",
    [X > 30, (X > 30)[..., 0], (X > 30)[:, 0, 0], np.zeros((3,), bool), (slice(None), np.array([True, False, True, True])),
     (np.array([True, False, True]), np.array([0, 1])), (np.array([True, False, True]), slice(None), np.array([0, 1])),
     (0, np.array([True, False, True, True])), ((X > 30)[..., 0], None)],
    ids=lambda k: repr(k)[:50].replace("\n", " "),
)  # fmt: skip
def test_getitem_by_a_mask_is_numpys(key: Any) -> None:
    check_getitem(X, key)


def test_getitem_of_an_empty_tensor_by_a_mask() -> None:
    check_getitem(np.zeros((0, 2)), np.zeros((0, 2), bool))


@pytest.mark.parametrize("key", [(..., 0), slice(0), (None, slice(None)), [], (slice(None), [1, 0])], ids=str)
def test_getitem_of_an_empty_tensor(key: Any) -> None:
    check_getitem(np.zeros((0, 2)), key)


@pytest.mark.parametrize("key", [0, (0, 0), ([0, 1], [1, 1]), slice(None, None, -1)], ids=str)
def test_getitem_of_empty_rows(key: Any) -> None:
    check_getitem(np.zeros((2, 2, 0)), key)


@pytest.mark.parametrize("key", [(), ..., None, (None, None), (..., None)], ids=str)
def test_getitem_of_a_scalar(key: Any) -> None:
    check_getitem(np.array(3.0), key)


def slices(n: int) -> st.SearchStrategy[slice]:
    bound = st.none() | st.integers(-n - 2, n + 2)
    return st.builds(slice, bound, bound, st.none() | st.integers(-3, 3).filter(bool))


@st.composite
def indexed(draw: st.DrawFn) -> tuple[Any, Any]:
    """An array, and a key for it of any mixture of integers, slices, None, an ellipsis, integer arrays and masks."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4))
    common = draw(hnp.array_shapes(min_dims=0, max_dims=2, max_side=3))  # what the integer arrays broadcast to
    count = draw(st.integers(0, len(shape)))
    gap = draw(st.integers(0, count))  # the ellipsis takes the axes that the others leave
    axes = [*range(gap), *range(len(shape) - count + gap, len(shape))]
    key: list[Any] = []
    for place, axis in enumerate(axes):
        n = shape[axis]
        if place == gap:
            key.append(...)
        shapes = hnp.broadcastable_shapes(common, max_dims=len(common), max_side=1).filter(
            lambda s: np.broadcast_shapes(s, common) == common
        )
        arrays = shapes.flatmap(lambda s, n=n: hnp.arrays(np.int64, s, elements=st.integers(-n, n - 1)))
        key.append(draw(st.one_of(st.integers(-n, n - 1), slices(n), slices(n), arrays)))
        if draw(st.booleans()):
            key.append(None)
    if len(axes) == gap and draw(st.booleans()):
        key.append(...)
    elif gap < len(axes) and ... not in [k for k in key if k is ...]:
        key.insert(0, ...)
    return np.arange(float(np.prod(shape))).reshape(shape), tuple(key)


@settings(max_examples=400, deadline=None)
@given(indexed())
@example((np.arange(2.0).reshape(2, 1, 1, 1), (slice(None), 0, ..., 0, np.array([0]))))  # the ellipsis covers nothing
def test_getitem_of_any_key_is_numpys(case: tuple[Any, Any]) -> None:
    check_getitem(*case)


@settings(max_examples=100, deadline=None)
@given(hnp.array_shapes(max_dims=3, max_side=4).flatmap(lambda s: st.tuples(st.just(s), st.integers(1, len(s)))), st.data())
def test_getitem_of_any_mask_is_numpys(case: tuple[tuple[int, ...], int], data: st.DataObject) -> None:
    shape, covered = case
    mask = data.draw(hnp.arrays(bool, shape[:covered]))
    check_getitem(np.arange(float(np.prod(shape))).reshape(shape), mask)


@pytest.mark.parametrize(
    ("key", "error", "text"),
    [(3, BoundsError, "index 3 is out of range for axis 0 with size 3"), (-4, BoundsError, "index -4 is out of range"),
     ((0, 0, 0, 0), BoundsError, "4 indices for 3 axes"), (np.array([3]), BoundsError, "out of bounds"),
     (np.array([-4]), BoundsError, "out of bounds"),
     ((np.array([0]), np.array([4])), BoundsError, "out of bounds"), ((..., ...), ArgumentError, "at most one ellipsis"),
     ("a", ArgumentError, "is not an index"),
     (1.0, ArgumentError, "1.0 is not an index"), (np.array([0.5]), ArgumentError, "indices are integers"),
     (True, ArgumentError, "is not an index"),
     ((np.array([0, 1]), np.array([0, 1, 2])), ShapeError, "do not broadcast"), (np.zeros(4, bool), BoundsError, "mask"),
     (np.zeros((3, 5), bool), BoundsError, "mask"), (slice(None, None, 0), ArgumentError, "step"),
     (slice(0.5, 2), ArgumentError, "slice")],
    ids=lambda v: repr(v)[:40],
)  # fmt: skip
def test_getitem_refuses(key: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        ndl.Tensor(X)[key]


def test_tensors_are_indices() -> None:
    t = ndl.Tensor(X)
    np.testing.assert_array_equal(t[ndl.Tensor([0, 2])].numpy(), X[[0, 2]])
    np.testing.assert_array_equal(t[ndl.Tensor(1)].numpy(), X[1])
    np.testing.assert_array_equal(t[:, ndl.Tensor([1, 0]), ndl.Tensor([4, 3])].numpy(), X[:, [1, 0], [4, 3]])


@on_the_host
def test_tensors_are_masks() -> None:
    t = ndl.Tensor(X)
    np.testing.assert_array_equal(t[t > 30].numpy(), X[X > 30])


def test_iteration_gives_the_rows() -> None:
    assert [row.tolist() for row in ndl.Tensor(X)] == X.tolist()
    with pytest.raises(ShapeError, match="a 0-d tensor has no length"):
        list(ndl.Tensor(1.0))


def test_scatter_add_sums_duplicates_in_half_precision_too() -> None:
    y = ndl.scatter_add(ndl.zeros(2, dtype="float16"), ndl.Tensor([0, 0, 1, 0]), ndl.ones(4, dtype="float16"))
    assert y.tolist() == [3, 1]


@pytest.mark.parametrize(("count", "dim"), [(1, 3), (3, 1), (50, 7), (1000, 3)])
def test_rows_of_one_place_are_summed(count: int, dim: int) -> None:
    rng = np.random.default_rng(0)
    places, rows = rng.integers(-count, count, (20, 10)), rng.normal(size=(20, 10, dim))
    expected = np.zeros((count, dim))
    np.add.at(expected, places, rows)
    weight = ndl.Tensor(np.zeros((count, dim)), requires_grad=True)
    ndl.embedding(ndl.Tensor(places), weight).backward(ndl.Tensor(rows))
    assert weight.grad is not None
    np.testing.assert_allclose(weight.grad.numpy(), expected, rtol=1e-12, atol=1e-12)
    y = ndl.scatter_add(
        ndl.zeros((dim, count), dtype="float64"), ndl.Tensor(places), ndl.Tensor(np.moveaxis(rows, -1, 0)), axis=1
    )
    np.testing.assert_allclose(y.numpy(), expected.T, rtol=1e-12, atol=1e-12)


def test_gradients_of_a_row_in_half_precision_are_summed_in_float32() -> None:
    g, indices = ndl.full((5000, 2), 1.0, dtype="float16"), ndl.zeros(5000, dtype="int64")
    assert ndl.embedding_grad(g, indices, count=1).tolist() == [[5000, 5000]]


@pytest.mark.parametrize("place", [3, -4])
def test_many_rows_for_a_place_outside_are_refused(place: int) -> None:
    with pytest.raises(BoundsError):
        ndl.embedding_grad(ndl.ones((40, 2)), ndl.full((40,), place), count=3)


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int32", "uint8", "bool"])
def test_sorting_is_stable(dtype: str, descending: bool) -> None:
    x = np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 5, 50)
    t = ndl.Tensor(x).astype(dtype)
    expected = sorted(range(50), key=x.__getitem__, reverse=descending)
    assert ndl.argsort(t, descending=descending).tolist() == expected
    assert ndl.sort(t, descending=descending).astype("int64").tolist() == x[expected].tolist()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_nan_counts_as_the_greatest(dtype: str) -> None:
    t = ndl.Tensor([2.0, math.nan, -math.inf, math.inf, 1.0], dtype=dtype)
    assert ndl.argsort(t).tolist() == [2, 4, 0, 3, 1]
    assert ndl.argsort(t, descending=True).tolist() == [1, 3, 0, 4, 2]
    assert ndl.topk(t, k=2)[1].tolist() == [1, 3]
    assert ndl.topk(t, k=2, largest=False)[1].tolist() == [2, 4]


def test_take_along_axis_of_argmax_is_max() -> None:
    x = np.random.default_rng(0).normal(size=(3, 4, 5))
    t = ndl.Tensor(x)
    for axis in range(3):
        found = ndl.take_along_axis(t, ndl.argmax(t, axis=axis, keepdims=True), axis=axis)
        np.testing.assert_array_equal(found.numpy(), x.max(axis, keepdims=True))


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
def test_indices_of_every_integer_dtype(dtype: str) -> None:
    """Of an axis longer than half of uint8's range, where sums of small indices would overflow."""
    x = np.arange(400.0).reshape(2, 200)
    places = np.array([[199, 0, 130], [5, 199, 7]], dtype)
    t, indices = ndl.Tensor(x, requires_grad=True), ndl.Tensor(places)
    np.testing.assert_array_equal(ndl.take(t, indices, axis=1).numpy(), np.take(x, places, 1))
    np.testing.assert_array_equal(ndl.take_along_axis(t, indices, axis=1).numpy(), np.take_along_axis(x, places.astype(int), 1))
    np.testing.assert_array_equal(t[ndl.Tensor([1, 0], dtype=dtype), indices[:, :2].T].numpy(), x[[1, 0], places[:, :2].T])
    ndl.take_along_axis(t, indices, axis=1).sum().backward()
    assert t.grad is not None
    assert np.flatnonzero(t.grad.numpy()).tolist() == [0, 130, 199, 205, 207, 399]
