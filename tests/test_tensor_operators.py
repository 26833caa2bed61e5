"""Operators, indices and methods of tensors."""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

import needle_core as ndl
from needle_core import Tensor
from needle_core.errors import ArgumentError, BoundsError, DtypeError, NeedleError, ShapeError
from needle_core.spec import DTYPES

HERE = ndl.default_device()

NUMPY = {name: np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name) for name in DTYPES}
KNOWN = "bool, uint8, int32, int64, float16, bfloat16, float32, float64"

every_dtype = pytest.mark.parametrize("name", DTYPES)


def holds(t: Tensor, expected: Any, dtype: str) -> bool:
    """Whether `t` has these values, of this dtype, signs of zero included."""
    array = np.asarray(expected, NUMPY[dtype])
    return t.dtype.name == dtype and t.shape == array.shape and t.numpy().tobytes() == array.tobytes()


# -- operators --------------------------------------------------------------------------------------------------------------

ARITHMETIC = [operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod]
COMPARISON = [operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge]
A, B = np.array([[7, 2, 3], [4, 9, 6]]), np.array([2, 3, 4])


@pytest.mark.parametrize("op", [*ARITHMETIC, operator.pow, *COMPARISON], ids=lambda op: op.__name__)
@pytest.mark.parametrize("name", ["int64", "float64"])
def test_operator_agrees_with_numpy(op: Callable[..., Any], name: str) -> None:
    a, b = A.astype(name), B.astype(name)
    expected = op(a, b)
    for left, right in [
        (Tensor(a), Tensor(b)),
        (Tensor(a), b),
        (a, Tensor(b)),
        (Tensor(a), b.tolist()),
        (a.tolist(), Tensor(b)),
    ]:
        result = op(left, right)
        assert isinstance(result, Tensor)
        np.testing.assert_allclose(result.numpy(), expected, rtol=1e-6)
    for number in (2, 3):
        np.testing.assert_allclose(op(Tensor(a), number).numpy(), op(a, number), rtol=1e-6)
        np.testing.assert_allclose(op(number, Tensor(b)).numpy(), op(number, b), rtol=1e-6)


def test_matmul_takes_arrays_and_lists_on_either_side() -> None:
    a, b = np.arange(6.0).reshape(2, 3), np.arange(12.0).reshape(3, 4)
    for left, right in [(Tensor(a), Tensor(b)), (Tensor(a), b), (a, Tensor(b)), (a.tolist(), Tensor(b))]:
        np.testing.assert_array_equal((left @ right).numpy(), a @ b)


@pytest.mark.parametrize("op", [operator.neg, operator.pos, operator.abs], ids=lambda op: op.__name__)
def test_unary_operator_agrees_with_numpy(op: Callable[..., Any]) -> None:
    np.testing.assert_array_equal(op(Tensor([-1.5, 0.0, 2.0])).numpy(), op(np.array([-1.5, 0, 2])))


@pytest.mark.parametrize("op", [operator.and_, operator.or_, operator.xor], ids=lambda op: op.__name__)
def test_logical_operator_agrees_with_numpy(op: Callable[..., Any]) -> None:
    a, b = np.array([True, True, False, False]), np.array([True, False, True, False])
    np.testing.assert_array_equal(op(Tensor(a), Tensor(b)).numpy(), op(a, b))
    np.testing.assert_array_equal((~Tensor(a)).numpy(), ~a)


@pytest.mark.parametrize("other", [None, object(), "a", 1j], ids=lambda o: type(o).__name__)
def test_arithmetic_with_what_is_no_number_is_a_type_error(other: Any) -> None:
    with pytest.raises(TypeError, match=r"unsupported operand type\(s\) for \+: 'Tensor' and"):
        Tensor([1.0]) + other


def test_class_of_another_kind_may_answer_for_arithmetic_with_a_tensor() -> None:
    class Other:
        def __radd__(self, other: Any) -> Any:
            return (self, other)

    x, other = Tensor([1.0]), Other()
    assert (x + other)[1] is x


def test_result_of_an_operator_is_a_plain_tensor() -> None:
    class Weight(Tensor): ...

    w = Weight([1.0])
    assert [type(t) for t in (w + 1, 1 + w, w * w, w.data, w.detach(), w[0])] == [Tensor] * 6


@every_dtype
@pytest.mark.parametrize("number", [True, 3, 2.0])
def test_python_numbers_do_not_widen_a_tensor_of_their_kind(name: str, number: Any) -> None:
    kinds = {"bool": 0, "uint": 1, "int": 1, "float": 2}
    wider = kinds[type(number).__name__] > kinds[DTYPES[name].kind]
    expected = {int: "int64", float: "float32"}[type(number)] if wider else name
    for result in (
        Tensor([0], dtype=name) + number,
        number + Tensor([0], dtype=name),
        ndl.add(Tensor([0], dtype=name), number),
    ):
        assert holds(result, [number], expected)


@pytest.mark.parametrize(
    ("name", "number"),
    [("uint8", 256), ("uint8", -1), ("int32", 2**31), ("int32", -(2**31) - 1), ("int64", 2**63), ("bool", 2**63)],
)
def test_integer_out_of_range_is_refused(name: str, number: int) -> None:
    dtype = "int64" if name == "bool" else name
    for combine in (lambda t: t + number, lambda t: number * t, lambda t: ndl.maximum(t, number), lambda t: t < number):
        with pytest.raises(DtypeError, match=f"{number} is out of the range of {dtype}"):
            combine(Tensor([1], dtype=name))


def test_huge_integer_is_refused_in_few_words() -> None:
    for number in (10**400, 10**5000):
        with pytest.raises(DtypeError, match="is out of the range of float32") as caught:
            Tensor([1.0]) + number
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("number", [2**20, 10**40, 1e300, -math.inf], ids=["2^20", "10^40", "1e300", "-inf"])
def test_number_in_a_formula_is_rounded_without_a_warning(name: str, number: float) -> None:
    with np.errstate(over="ignore"):
        expected = np.array(float(number)).astype(NUMPY[name])
    with warnings.catch_warnings(action="error"):
        assert holds(Tensor([0], dtype=name) + number, [expected], name)


def test_zeros_of_either_sign_are_different_constants() -> None:
    one = Tensor([1.0])
    signs = [math.copysign(1, (one * zero).item()) for zero in (0.0, -0.0, 0, 0.0, -0.0)]
    assert signs == [1, -1, 1, 1, -1]


@pytest.mark.parametrize(("number", "dtype"), [(1, "int64"), (1.0, "float32"), (True, "int64")])
def test_equal_numbers_of_other_types_are_different_constants(number: Any, dtype: str) -> None:
    assert (Tensor([2]) * number).dtype.name == dtype


def test_constants_that_never_repeat_do_not_pile_up() -> None:
    x = Tensor([1.0])
    for i in range(3000):
        x + (i + 0.5)
    assert len(x.device.constants) <= 1024


# -- indexing -------------------------------------------------------------------------------------------------------------


@st.composite
def indexed(draw: st.DrawFn) -> tuple[np.ndarray[Any, Any], Any]:
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    array = np.arange(math.prod(shape)).reshape(shape)
    return array, draw(hnp.basic_indices(shape, allow_newaxis=True))


@given(indexed())
def test_basic_index_agrees_with_numpy(case: tuple[np.ndarray[Any, Any], Any]) -> None:
    array, key = case
    np.testing.assert_array_equal(Tensor(array)[key].numpy(), array[key])


@pytest.mark.parametrize(
    ("key", "error", "text"),
    [
        (5, BoundsError, "index 5 is out of range for axis 0 with size 2"),
        (-3, BoundsError, "index -3 is out of range for axis 0 with size 2"),
        ((0, 4), BoundsError, "index 4 is out of range for axis 1 with size 4"),
        ((..., -5), BoundsError, "index -5 is out of range for axis 1 with size 4"),
        ((0, 0, 0), BoundsError, "3 indices for 2 axes"),
        ((..., ...), ArgumentError, "an index has at most one ellipsis"),
        (1.0, ArgumentError, "1.0 is not an index"),
        ("a", ArgumentError, "'a' is not an index"),
        (True, ArgumentError, "True is not an index"),
    ],
)
def test_index_that_does_not_fit_is_refused(key: Any, error: type[NeedleError], text: str) -> None:
    with pytest.raises(error) as caught:
        Tensor(np.zeros((2, 4), int))[key]
    assert str(caught.value) == f"{text}\n  x: int64[2, 4] on {HERE}"


def test_integer_tensors_serve_as_bounds() -> None:
    t = Tensor([1, 2, 3, 4])
    assert (t[Tensor(1)].item(), t[Tensor(1) : Tensor(3)].tolist(), list(range(Tensor(2)))) == (2, [2, 3], [0, 1])


def test_elements_cannot_be_assigned() -> None:
    with pytest.raises(TypeError, match="does not support item assignment"):
        Tensor([1.0, 2.0])[0] = 5.0


# -- methods ----------------------------------------------------------------------------------------------------------------

X = np.array([[3.0, 1.0, 2.0], [6.0, 5.0, 4.0]])


@pytest.mark.parametrize("name", ["sum", "mean", "var", "std", "max", "min", "prod", "argmax", "argmin"])
@pytest.mark.parametrize("axis", [None, 0, -1])
def test_reduction_method_agrees_with_numpy(name: str, axis: int | None) -> None:
    np.testing.assert_allclose(getattr(Tensor(X), name)(axis).numpy(), getattr(X, name)(axis), rtol=1e-12)
    kept = getattr(Tensor(X), name)(axis, keepdims=True)
    np.testing.assert_allclose(kept.numpy(), getattr(X, name)(axis, keepdims=True), rtol=1e-12)


@pytest.mark.parametrize("name", ["all", "any"])
@pytest.mark.parametrize("axis", [None, 0, (0, 1)])
def test_logical_reduction_method_agrees_with_numpy(name: str, axis: Any) -> None:
    mask = X > 2
    np.testing.assert_array_equal(getattr(Tensor(mask), name)(axis).numpy(), getattr(mask, name)(axis))


@pytest.mark.parametrize("name", ["var", "std"])
def test_correction_is_subtracted_from_the_count(name: str) -> None:
    np.testing.assert_allclose(getattr(Tensor(X), name)(1, correction=1).numpy(), getattr(X, name)(1, ddof=1), rtol=1e-12)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda t: t.T, X.T),
        (lambda t: t.mT, X.T),
        (lambda t: t.reshape(3, 2), X.reshape(3, 2)),
        (lambda t: t.reshape((3, -1)), X.reshape(3, 2)),
        (lambda t: t.reshape([6]), X.reshape(6)),
        (lambda t: t.reshape(-1), X.reshape(6)),
        (lambda t: t.reshape(1, 6).reshape(6, 1), X.reshape(6, 1)),
        (lambda t: t.transpose(), X.T),
        (lambda t: t.transpose(1, 0), X.T),
        (lambda t: t.transpose((1, 0)), X.T),
        (lambda t: t.broadcast_to(2, 2, 3), np.broadcast_to(X, (2, 2, 3))),
        (lambda t: t.broadcast_to((4, 2, 3)), np.broadcast_to(X, (4, 2, 3))),
        (lambda t: t.flatten(), X.reshape(6)),
        (lambda t: t.sum(axis=(0, 1)), X.sum()),
        (lambda t: t.cumsum(1), X.cumsum(1)),
        (lambda t: t.to(HERE), X),
        (lambda t: t.astype("int32").astype(float), X.astype(np.float32)),
    ],
)
def test_method_agrees_with_numpy(change: Callable[[Tensor], Tensor], expected: Any) -> None:
    result = change(Tensor(X))
    assert result.dtype.name == np.asarray(expected).dtype.name
    np.testing.assert_array_equal(result.numpy(), expected)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (lambda t: t.reshape(2, 2), ShapeError, "reshape: cannot put 6 elements into shape [2, 2]"),
        (lambda t: t.reshape(-1, -1), ShapeError, "reshape: shape [-1, -1] has a negative size other than one -1"),
        (lambda t: t.reshape("ab"), ArgumentError, "reshape: a shape is an integer or a sequence of integers, not 'ab'"),
        (lambda t: t.transpose(0, 2), ShapeError, "permute_dims: axis 2 is out of range for a tensor with 2 axes"),
        (lambda t: t.transpose(0, 0), ShapeError, "permute_dims: axes (0, 0) are not a permutation of 2 axes"),
        (lambda t: t.broadcast_to(2, 4), ShapeError, "broadcast_to: shape [2, 3] does not broadcast to [2, 4]"),
        (lambda t: t.sum("a"), ArgumentError, "sum: an axis is an integer, not str 'a'"),
        (lambda t: t @ 2, ShapeError, None),
    ],
)
def test_method_that_does_not_fit_is_refused(
    change: Callable[[Tensor], Any], error: type[NeedleError], text: str | None
) -> None:
    with pytest.raises(error) as caught:
        change(Tensor(X))
    operands = f"a: float64[2, 3] on {HERE}\n  b: float64[] on {HERE}"
    matmul = f"matmul: a 0-d tensor has no matrix product\n  {operands}\n  hint: a * b multiplies by a number"
    assert str(caught.value) == (f"{text}\n  x: float64[2, 3] on {HERE}" if text else matmul)


def test_to_the_same_device_is_the_tensor_itself() -> None:
    t = Tensor([1.0])
    assert t.to(HERE) is t


@pytest.mark.parametrize("sign", [operator.and_, operator.or_, operator.xor])
def test_bitwise_operators_are_for_bools(sign: Any) -> None:
    assert sign(Tensor([True, False]), Tensor([True, True])).tolist() == sign(np.array([True, False]), True).tolist()
    with pytest.raises(DtypeError, match="is for bools"):
        sign(Tensor([6]), 3)
    with pytest.raises(DtypeError, match="~ is for bools"):
        ~Tensor([1])


def test_square_has_the_dtype_of_any_power() -> None:
    assert (Tensor([3]) ** 2.0).dtype is (Tensor([3]) ** 3.0).dtype is ndl.float32
    assert (Tensor([3]) ** 2).dtype is ndl.int64
