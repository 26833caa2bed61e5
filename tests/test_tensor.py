"""Tensors: what they are made of, what they are, and the numbers they give."""

from __future__ import annotations

import math
import operator
import weakref
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import needle_core as ndl
from needle_core import Tensor
from needle_core.errors import ArgumentError, DtypeError, GradientError, NeedleError, ShapeError
from needle_core.spec import DTYPES

HERE = ndl.default_device()

NUMPY = {name: np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name) for name in DTYPES}
KNOWN = "bool, uint8, int32, int64, float16, bfloat16, float32, float64"

every_dtype = pytest.mark.parametrize("name", DTYPES)


def holds(t: Tensor, expected: Any, dtype: str) -> bool:
    """Whether `t` has these values, of this dtype, signs of zero included."""
    array = np.asarray(expected, NUMPY[dtype])
    return t.dtype.name == dtype and t.shape == array.shape and t.numpy().tobytes() == array.tobytes()


# -- construction -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "expected", "dtype"),
    [
        (True, True, "bool"),
        (3, 3, "int64"),
        (1.5, 1.5, "float32"),
        ([True, False], [True, False], "bool"),
        ([1, 2], [1, 2], "int64"),
        ([1, 2.5], [1, 2.5], "float32"),
        ([True, 2], [1, 2], "int64"),
        (((1, 2), [3, 4]), [[1, 2], [3, 4]], "int64"),
        (range(3), [0, 1, 2], "int64"),
        ([], [], "float32"),
        ([[], []], [[], []], "float32"),
        (np.float64(2), 2, "float64"),
        (np.int32(2), 2, "int32"),
        (np.bool_(True), True, "bool"),
        ([np.float64(2), 1.5], [2, 1.5], "float64"),
        ([np.float16(2), np.float16(1.5)], [2, 1.5], "float16"),
        (np.zeros((0, 3)), np.zeros((0, 3)), "float64"),
        (np.array(5, np.uint8), 5, "uint8"),
        (np.arange(3, dtype=">i4"), [0, 1, 2], "int32"),
        (np.array([1, 2], ml_dtypes.bfloat16), [1, 2], "bfloat16"),
        (np.arange(6).reshape(2, 3)[:, ::-2], [[2, 0], [5, 3]], "int64"),
        (np.arange(6).reshape(2, 3).T, [[0, 3], [1, 4], [2, 5]], "int64"),
        ([Tensor(1.0), Tensor(2.0)], [1, 2], "float32"),
        ([Tensor([1.0, 2.0]), [3, 4]], [[1, 2], [3, 4]], "float32"),
        ([Tensor(1), 2.5], [1, 2.5], "float32"),
        ([[Tensor(1)], [Tensor(2)]], [[1], [2]], "int64"),
    ],
)
def test_tensor_keeps_numpy_dtypes_and_gives_python_numbers_the_defaults(data: Any, expected: Any, dtype: str) -> None:
    assert holds(Tensor(data), expected, dtype)


@every_dtype
@pytest.mark.parametrize("data", [[0, 1, 1], [False, True, True], np.array([0, 1, 1], np.int16), Tensor([0.0, 1.0, 1.0])])
def test_tensor_takes_the_dtype_asked_for(data: Any, name: str) -> None:
    assert holds(Tensor(data, dtype=name), [0, 1, 1], name)
    assert holds(Tensor(data, dtype=DTYPES[name].numpy), [0, 1, 1], name)


def test_tensor_copies_an_array() -> None:
    array = np.zeros(3)
    t = Tensor(array)
    array[0] = 1
    assert t.tolist() == [0, 0, 0]


def test_tensor_of_a_tensor_shares_its_buffer_and_leaves_its_graph() -> None:
    x = Tensor([1.0], requires_grad=True)
    t = Tensor(x * 2)
    assert (t.tolist(), t.requires_grad, t.is_leaf) == ([2], False, True)
    assert Tensor(x).buffer is x.buffer


@pytest.mark.parametrize(
    ("data", "dtype", "error", "text"),
    [
        (np.arange(3, dtype="i2"), None, DtypeError, f"no dtype int16\n  dtypes: {KNOWN}\n  hint: convert it, or give dtype="),
        (np.array(["a"]), None, DtypeError, f"no dtype <U1\n  dtypes: {KNOWN}\n  hint: convert it, or give dtype="),
        ([1, 2], "int16", DtypeError, f"no dtype 'int16'\n  dtypes: {KNOWN}"),
        (300, "uint8", DtypeError, "a value is out of the range of uint8"),
        ([-1], "uint8", DtypeError, "a value is out of the range of uint8"),
        ("x", "float32", ArgumentError, "no tensor can be made of 'x': could not convert string to float: 'x'"),
        ("abc", None, ArgumentError, "no tensor can be made of 'abc'"),
        (1j, None, ArgumentError, "no tensor can be made of 1j"),
        (None, None, ArgumentError, "no tensor can be made of None"),
        ([1, [None]], None, ArgumentError, "no tensor can be made of None"),
        ({1: 2}, None, ArgumentError, "no tensor can be made of dict {1: 2}"),
        ({1, 2}, None, ArgumentError, "no tensor can be made of set {1, 2}"),
    ],
)
def test_tensor_refuses_what_is_no_array_of_numbers(data: Any, dtype: Any, error: type[NeedleError], text: str) -> None:
    with pytest.raises(error) as caught:
        Tensor(data, dtype=dtype)
    assert str(caught.value) == text


@pytest.mark.parametrize("data", [[[1, 2], [3]], [[1.0], 2.0]])
def test_tensor_refuses_ragged_lists(data: Any) -> None:
    for dtype in (None, "float32"):
        with pytest.raises(ArgumentError) as caught:
            Tensor(data, dtype=dtype)
        assert str(caught.value).startswith(f"no tensor can be made of list {data}: setting an array element with a sequence")


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 2**64, 2**1024], ids=["2^63", "-2^63 - 1", "2^64", "2^1024"])
def test_tensor_refuses_integers_beyond_64_bits(number: int) -> None:
    for data in (number, [number, 1]):
        with pytest.raises(DtypeError, match="out of the range of int64"):
            Tensor(data)


def test_numpy_numbers_that_do_not_fit_are_cast_without_a_warning() -> None:
    assert Tensor(np.array([1e300]), dtype="float32").item() == math.inf
    assert Tensor(np.array([math.nan]), dtype="int32").shape == (1,)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_float_beyond_the_dtype_is_infinite(dtype: str) -> None:
    assert Tensor([1e300, -1e300], dtype=dtype).tolist() == [math.inf, -math.inf]


# -- what it is -----------------------------------------------------------------------------------------------------------


def test_tensor_tells_shape_dtype_device_and_sizes() -> None:
    t = Tensor(np.zeros((2, 3), np.float16))
    assert (t.shape, t.ndim, t.size, t.dtype, t.device) == ((2, 3), 2, 6, ndl.float16, HERE)


@pytest.mark.parametrize(
    ("t", "text"),
    [
        (Tensor([1, 2.5]), f"Tensor([1. , 2.5], float32[2] on {HERE})"),
        (Tensor(True), f"Tensor(True, bool[] on {HERE})"),
        (Tensor([]), f"Tensor([], float32[0] on {HERE})"),
        (Tensor([[1, 2], [3, 4]]), f"Tensor([[1, 2],\n        [3, 4]], int64[2, 2] on {HERE})"),
        (Tensor([1.0], requires_grad=True), f"Tensor([1.], float32[1] on {HERE}, requires_grad=True)"),
        (Tensor([1.5], dtype="bfloat16"), f"Tensor([1.5], bfloat16[1] on {HERE})"),
        (Tensor(range(1000)), f"Tensor([  0,   1,   2, ..., 997, 998, 999], int64[1000] on {HERE})"),
    ],
)
def test_repr_shows_values_and_spec(t: Tensor, text: str) -> None:
    assert repr(t) == text


def test_repr_names_the_class() -> None:
    class Weight(Tensor): ...

    assert repr(Weight([1.0, 2.0])) == f"Weight([1., 2.], float32[2] on {HERE})"


def test_format_formats_the_number() -> None:
    loss = Tensor(1.23456)
    assert (f"{loss:.2f}", f"{loss}") == ("1.23", str(loss))
    with pytest.raises(ShapeError, match="only a tensor of one element is a number"):
        f"{Tensor([1.0, 2.0]):.2f}"


def test_length_is_the_first_size() -> None:
    assert [len(Tensor(np.zeros(shape))) for shape in [(3,), (0, 2), (2, 5)]] == [3, 0, 2]


def test_number_has_no_length() -> None:
    for ask in (len, list):
        with pytest.raises(ShapeError) as caught:
            ask(Tensor(1.0))
        assert str(caught.value) == f"a 0-d tensor has no length\n  tensor: float32[] on {HERE}"


def test_iteration_gives_the_rows_and_keeps_the_graph() -> None:
    x = Tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    rows = list(x)
    assert [row.tolist() for row in rows] == [[1, 2], [3, 4]]
    rows[1].sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[0, 0], [1, 1]]


def test_membership_compares_values() -> None:
    assert (2.0 in Tensor([1.0, 2.0]), 5.0 in Tensor([1.0, 2.0])) == (True, False)


def test_tensors_are_keys_by_identity() -> None:
    a, b = Tensor([1.0]), Tensor([1.0])
    assert {a: 1, b: 2} == {a: 1, b: 2}
    assert len({a, b, a}) == 2


def test_tensors_can_be_referred_to_weakly() -> None:
    t = Tensor(1.0)
    assert weakref.ref(t)() is t


# -- numbers ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("convert", "data", "expected"),
    [
        (Tensor.item, 1, 1),
        (Tensor.item, [[1.5]], 1.5),
        (Tensor.item, [True], True),
        (Tensor.item, np.float16(0.5), 0.5),
        (float, 2, 2.0),
        (float, [1.5], 1.5),
        (int, 1.75, 1),
        (int, True, 1),
        (bool, [0.0], False),
        (bool, -1, True),
        (operator.index, 3, 3),
        (operator.index, np.uint8(3), 3),
        (complex, 1.5, 1.5 + 0j),
    ],
)
def test_single_element_is_a_python_number(convert: Callable[[Tensor], Any], data: Any, expected: Any) -> None:
    value = convert(Tensor(data))
    assert (type(value), value) == (type(expected), expected)


@pytest.mark.parametrize("convert", [Tensor.item, float, int, bool])
@pytest.mark.parametrize(("data", "spec"), [([1.0, 2.0], "float32[2]"), ([], "float32[0]")])
def test_several_elements_are_no_number(convert: Callable[[Tensor], Any], data: Any, spec: str) -> None:
    with pytest.raises(ShapeError) as caught:
        convert(Tensor(data))
    assert str(caught.value) == f"only a tensor of one element is a number\n  tensor: {spec} on {HERE}"


@pytest.mark.parametrize(("data", "dtype"), [(1.0, "float32"), (True, "bool")])
def test_index_takes_integers_only(data: Any, dtype: str) -> None:
    with pytest.raises(DtypeError) as caught:
        operator.index(Tensor(data))
    assert str(caught.value) == f"only an integer tensor is an index, not {dtype}\n  tensor: {dtype}[] on {HERE}"


@every_dtype
def test_tolist_gives_python_numbers(name: str) -> None:
    values = Tensor([[0, 1]], dtype=name).tolist()
    assert values == [[0, 1]]
    assert type(values[0][0]) in (bool, int, float)


# -- requires_grad --------------------------------------------------------------------------------------------------------


def test_requires_grad_is_off_by_default_and_can_be_set() -> None:
    x = Tensor([1.0])
    assert (x.requires_grad, (x * 2).requires_grad) == (False, False)
    x.requires_grad = True
    assert (x.requires_grad, (x * 2).requires_grad, (x * 2).is_leaf) == (True, True, False)
    x.requires_grad = False
    assert (x * 2).is_leaf


@every_dtype
def test_requires_grad_takes_floating_dtypes_only(name: str) -> None:
    if DTYPES[name].is_floating:
        assert Tensor([1], dtype=name, requires_grad=True).requires_grad
        return
    t = Tensor([1], dtype=name)
    for require in (lambda: Tensor([1], dtype=name, requires_grad=True), lambda: setattr(t, "requires_grad", True)):
        with pytest.raises(DtypeError) as caught:
            require()
        assert str(caught.value) == f"only floating tensors have gradients, not {name}\n  tensor: {name}[1] on {HERE}"


def test_result_of_an_op_cannot_stop_requiring_a_gradient() -> None:
    y = Tensor([1.0], requires_grad=True) * 2
    with pytest.raises(GradientError) as caught:
        y.requires_grad = False
    assert str(caught.value) == "the result of an op cannot stop requiring gradients\n  hint: x.detach() is free of the graph"
