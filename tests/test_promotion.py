"""The promotion of dtypes and the broadcasting of shapes, as properties and against NumPy."""

from __future__ import annotations

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

import needle_core as ndl
from needle_core.errors import DtypeError, ShapeError
from needle_core.spec import DTYPES, DType, promote

NUMPYS = ["bool", "uint8", "int32", "int64", "float16", "float32", "float64"]
dtypes = st.sampled_from(list(DTYPES.values()))
weak = st.sampled_from([bool, int, float])


@given(dtypes)
def test_a_dtype_meets_itself_in_itself(a: DType) -> None:
    assert promote(a) is promote(a, a) is a


@given(dtypes | weak, dtypes | weak)
def test_promotion_commutes(a: Any, b: Any) -> None:
    assert promote(a, b) is promote(b, a)


@given(
    st.permutations([*DTYPES.values()]).flatmap(lambda p: st.integers(1, len(p)).map(lambda n: p[:n])),
    st.lists(weak, max_size=3),
)
def test_promotion_does_not_depend_on_the_order(strong: list[DType], numbers: list[type]) -> None:
    assert len({promote(*p) for p in itertools.islice(itertools.permutations([*strong, *numbers]), 200)}) == 1


@given(dtypes, dtypes, dtypes)
def test_promotion_is_associative(a: DType, b: DType, c: DType) -> None:
    assert promote(promote(a, b), c) is promote(a, promote(b, c)) is promote(a, b, c)


@given(dtypes, dtypes)
def test_what_meets_stays_met(a: DType, b: DType) -> None:
    assert promote(a, promote(a, b)) is promote(a, b)


@pytest.mark.parametrize(("a", "b"), list(itertools.product(NUMPYS, repeat=2)), ids=str)
def test_promotion_is_numpys_within_a_kind_and_keeps_the_float_elsewhere(a: str, b: str) -> None:
    """NumPy widens a float that meets an integer (float32 with int32 is float64); here the float stays."""
    x, y = DTYPES[a], DTYPES[b]
    if x.is_floating == y.is_floating:
        assert promote(x, y).name == np.promote_types(a, b).name
    else:
        assert promote(x, y) is (x if x.is_floating else y)


def test_the_half_precisions_meet_in_float32_and_bfloat16_stays_with_the_rest() -> None:
    assert promote(ndl.float16, ndl.bfloat16) is ndl.float32
    assert promote(ndl.bfloat16, ndl.float64) is ndl.float64
    assert all(promote(ndl.bfloat16, d) is ndl.bfloat16 for d in DTYPES.values() if not d.is_floating)
    assert np.promote_types(ml_dtypes.bfloat16, np.float32).name == promote(ndl.bfloat16, ndl.float32).name


@pytest.mark.parametrize("number", [True, 3, 0.5])
@pytest.mark.parametrize("dtype", NUMPYS)
def test_python_numbers_are_weak_as_in_nep_50(dtype: str, number: float) -> None:
    """Where NumPy would go to float64 for want of another, Needle goes to its default, float32."""
    expected = np.result_type(np.dtype(dtype), number).name
    if expected == "float64" and dtype != "float64":
        expected = "float32"
    assert promote(DTYPES[dtype], type(number)).name == expected
    assert (ndl.ones(2, dtype=dtype) + number).dtype.name == expected
    assert (number + ndl.ones(2, dtype=dtype)).dtype.name == expected


@pytest.mark.parametrize(
    "f", [ndl.add, ndl.multiply, ndl.maximum, ndl.subtract, lambda a, b: ndl.where(True, a, b), ndl.concat, ndl.stack]
)
@pytest.mark.parametrize(("a", "b"), list(itertools.product(DTYPES.values(), repeat=2)), ids=str)
def test_operands_of_two_dtypes_are_cast_to_where_they_meet(f: Any, a: DType, b: DType) -> None:
    x, y = ndl.Tensor([0, 1, 3]).astype(a), ndl.Tensor([2, 0, 1]).astype(b)
    met = promote(a, b)
    expected = f(x.astype(met), y.astype(met))
    found = f(x, y)
    assert found.dtype is expected.dtype
    assert found.tolist() == expected.tolist()


def test_python_numbers_alone_take_their_defaults() -> None:
    assert (promote(bool), promote(int), promote(float), promote(int, float)) == (
        ndl.bool_,
        ndl.int64,
        ndl.float32,
        ndl.float32,
    )
    with pytest.raises(DtypeError, match="nothing to promote"):
        promote()


@settings(max_examples=200, deadline=None)
@given(st.lists(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3), min_size=2, max_size=3))
def test_broadcasting_is_numpys(shapes: list[tuple[int, ...]]) -> None:
    tensors = [ndl.zeros(s) for s in shapes]
    try:
        expected = np.broadcast_shapes(*shapes)
    except ValueError:
        with pytest.raises(ShapeError, match="do not broadcast"):
            ndl.broadcast_arrays(*tensors)
        with pytest.raises(ShapeError, match="do not broadcast"):
            ndl.where(tensors[0], tensors[1], tensors[-1])
    else:
        assert {t.shape for t in ndl.broadcast_arrays(*tensors)} == {expected}
        assert ndl.where(tensors[0], tensors[1], tensors[-1]).shape == expected


@settings(max_examples=100, deadline=None)
@given(hnp.mutually_broadcastable_shapes(num_shapes=2, min_side=0, max_side=3, max_dims=3))
def test_gradients_are_summed_over_what_was_broadcast(shapes: Any) -> None:
    """Of a product of whole numbers, so that sums are exact."""
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-4, 5, s).astype(np.float64) for s in shapes.input_shapes)
    g = rng.integers(-4, 5, shapes.result_shape).astype(np.float64)
    _, pull = ndl.vjp(ndl.multiply, ndl.Tensor(a), ndl.Tensor(b))
    for found, other, x in zip(pull(ndl.Tensor(g)), (b, a), (a, b), strict=True):
        wide = g * other
        axes = tuple(range(wide.ndim - x.ndim))
        kept = wide.sum(axes)
        expected = kept.sum(tuple(i for i, n in enumerate(x.shape) if n == 1), keepdims=True)
        assert found.tolist() == expected.tolist()
