"""Gathering, scattering and sorting, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from needle_core.graph.single_ops import copying
from needle_core.spec import DTYPES, int64
from needle_cuda_backend.index import argsort, embedding_grad, places, scatter_add, take
from needle_cuda_backend.loops import recipe_of
from needle_cuda_backend.recipe import Call, Place, Recipe, outputs_of

RNG = np.random.default_rng(0)
NAMES = sorted(DTYPES)


def _numbers(shape: tuple[int, ...], dtype: str) -> Any:
    """Small integers, which all dtypes add up without rounding."""
    return RNG.integers(0, 2 if dtype == "bool" else 4, shape).astype(DTYPES[dtype].numpy)


def _index(shape: tuple[int, ...], n: int, dtype: str = "int64") -> Any:
    return RNG.integers(0 if dtype == "uint8" else -n, n, shape).astype(dtype)


def _added(x: Any, indices: Any, updates: Any, axis: int) -> Any:
    y = np.moveaxis(x.astype(np.float64), axis, 0).copy()
    source = np.moveaxis(updates.astype(np.float64), range(axis, axis + indices.ndim), range(indices.ndim))
    np.add.at(y, indices, source)
    return np.moveaxis(y != 0 if x.dtype == np.bool_ else y, 0, axis).astype(x.dtype)


@pytest.mark.parametrize("dtype", NAMES)
@pytest.mark.parametrize("fixed", [False, True])
def test_take_of_each_dtype(simulated: Any, case: Any, dtype: str, fixed: bool) -> None:
    shapes: list[Any] = [((5,), (), 0), ((7, 3), (2, 5), 0), ((3, 4, 8), (6,), 1), ((3, 4), (0,), 0), ((0, 3), (2,), 1)]
    cases, expected = [], []
    for i, (shape, indices, axis) in enumerate(shapes):
        x, index = _numbers(shape, dtype), _index(indices, shape[axis], ("int64", "int32", "uint8")[i % 3])
        cases.append(case(take, [x, index], {"axis": axis}, fixed=fixed))
        expected.append(np.take(x, index, axis))
    for (y,), z in zip(simulated.results(cases), expected, strict=True):
        np.testing.assert_array_equal(y, z)


@pytest.mark.parametrize("dtype", NAMES)
@pytest.mark.parametrize("fixed", [False, True])
def test_scatter_add_of_each_dtype(simulated: Any, case: Any, dtype: str, fixed: bool) -> None:
    """Of few rows, so that chunks are combined; of more columns than a tile; of more indices than are listed at once."""
    shapes: list[Any] = [((5,), (), 0), ((7, 3), (2, 5), 0), ((3, 40, 5), (6,), 1), ((2, 130), (1500,), 0), ((3,), (0,), 0)]
    cases, expected = [], []
    for i, (shape, indices, axis) in enumerate(shapes):
        x, index = _numbers(shape, dtype), _index(indices, shape[axis], ("int64", "int32", "uint8")[i % 3])
        updates = _numbers((*shape[:axis], *indices, *shape[axis + 1 :]), dtype)
        cases.append(case(scatter_add, [x, index, updates], {"axis": axis}, fixed=fixed))
        expected.append(_added(x, index, updates, axis))
    for (y,), z in zip(simulated.results(cases), expected, strict=True):
        np.testing.assert_array_equal(y, z)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_gradient_of_embedding(simulated: Any, case: Any, dtype: str) -> None:
    g = RNG.normal(size=(3000, 5)).astype(DTYPES[dtype].numpy)
    many = _index((3000,), 2)
    (by_weight,) = simulated.results([case(embedding_grad, [g, many], {"count": 2}, fixed=True)])
    exact = _added(np.zeros((2, 5)), many, g, 0)
    eps = float(DTYPES[dtype].numpy.type(1)) * {"float16": 2**-11, "bfloat16": 2**-8, "float32": 2**-24}[dtype]
    bound = eps * np.abs(exact) + 3000 * 2**-24 * _added(np.zeros((2, 5)), many, np.abs(g), 0)
    assert (np.abs(by_weight[0].astype(np.float64) - exact) <= bound).all()


@pytest.mark.parametrize("bad", [5, -6])
def test_indices_out_of_bounds_are_refused(simulated: Any, case: Any, bad: int) -> None:
    x, index = _numbers((2, 5), "float32"), np.array([0, bad])
    for one in (
        case(take, [x, index], {"axis": 1}),
        case(scatter_add, [x, index, _numbers((2, 2), "float32")], {"axis": 1}),
    ):
        with pytest.raises(IndexError, match=r"an index is out of bounds for axis [01] with size 5"):
            list(simulated.results([one]))


@pytest.mark.parametrize("dtype", NAMES)
@pytest.mark.parametrize("fixed", [False, True])
def test_argsort_is_stable_with_nan_as_the_greatest(simulated: Any, case: Any, dtype: str, fixed: bool) -> None:
    cases, expected = [], []
    shapes: list[Any] = [((1,), 0), ((33,), 0), ((2, 5, 3), 1), ((2, 70), 1), ((5000,), 0), ((1030, 2), 0), ((0, 3), 1)]
    for shape, axis in shapes:
        x = _numbers(shape, dtype)
        if DTYPES[dtype].is_floating and x.size > 6:
            x.flat[::5] = np.nan
            x.flat[1] = -np.inf
        for descending in (False, True):
            wide = x.astype(np.float64)
            if descending:
                turned = np.argsort(np.flip(wide, axis), axis, kind="stable")
                expected.append(np.flip(shape[axis] - 1 - turned, axis))
            else:
                expected.append(np.argsort(wide, axis, kind="stable"))
            cases.append(case(argsort, [x], {"axis": axis, "descending": descending}, fixed=fixed))
    for (y,), z in zip(simulated.results(cases), expected, strict=True):
        np.testing.assert_array_equal(y, z)


@pytest.mark.parametrize("fixed", [False, True])
def test_places_that_indices_name(simulated: Any, case: Any, fixed: bool) -> None:
    def maker(call: Call) -> Recipe:
        recipe = Recipe(failure=(IndexError, "out of bounds"))
        named = places(recipe, call, Place("input"), call.inputs[0], 5)
        recipe.then(recipe_of(copying(0, int64, call.inputs[0].shape, (1,)), fixed), [named], outputs_of(1))
        return recipe

    good, bad = (case(maker, [np.array(x, "int32")], {"dtype": "int64"}, "astype", fixed) for x in ([4, -5, 0, -1], [1, 5]))
    np.testing.assert_array_equal(next(simulated.results([good]))[0], [4, 0, 0, 4])
    with pytest.raises(IndexError, match="out of bounds"):
        list(simulated.results([bad]))


def test_places_among_very_many_elements(simulated: Any, case: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("needle_cuda_backend.index.is_large", lambda *_: True)
    test_take_of_each_dtype(simulated, case, "float32", False)
    test_scatter_add_of_each_dtype(simulated, case, "float32", True)
    test_argsort_is_stable_with_nan_as_the_greatest(simulated, case, "float32", False)
