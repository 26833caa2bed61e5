"""Tensors: what they are made of, what they give back, their operators, and the rules of their data."""

from __future__ import annotations

import copy
import math
import operator
import pickle
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

import needle_core as ndl
from needle_core import Tensor
from needle_core.errors import ArgumentError, BoundsError, DtypeError, GradientError, NeedleError, ShapeError
from needle_core.spec import DTYPES

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
    assert (t.shape, t.ndim, t.size, t.dtype, t.device) == ((2, 3), 2, 6, ndl.float16, ndl.device("numpy"))


@pytest.mark.parametrize(
    ("t", "text"),
    [
        (Tensor([1, 2.5]), "Tensor([1. , 2.5], float32[2] on numpy)"),
        (Tensor(True), "Tensor(True, bool[] on numpy)"),
        (Tensor([]), "Tensor([], float32[0] on numpy)"),
        (Tensor([[1, 2], [3, 4]]), "Tensor([[1, 2],\n        [3, 4]], int64[2, 2] on numpy)"),
        (Tensor([1.0], requires_grad=True), "Tensor([1.], float32[1] on numpy, requires_grad=True)"),
        (Tensor([1.5], dtype="bfloat16"), "Tensor([1.5], bfloat16[1] on numpy)"),
        (Tensor(range(1000)), "Tensor([  0,   1,   2, ..., 997, 998, 999], int64[1000] on numpy)"),
    ],
)
def test_repr_shows_values_and_spec(t: Tensor, text: str) -> None:
    assert repr(t) == text


def test_repr_names_the_class() -> None:
    class Weight(Tensor): ...

    assert repr(Weight([1.0, 2.0])) == "Weight([1., 2.], float32[2] on numpy)"


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
        assert str(caught.value) == "a 0-d tensor has no length\n  tensor: float32[] on numpy"


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
    assert str(caught.value) == f"only a tensor of one element is a number\n  tensor: {spec} on numpy"


@pytest.mark.parametrize(("data", "dtype"), [(1.0, "float32"), (True, "bool")])
def test_index_takes_integers_only(data: Any, dtype: str) -> None:
    with pytest.raises(DtypeError) as caught:
        operator.index(Tensor(data))
    assert str(caught.value) == f"only an integer tensor is an index, not {dtype}\n  tensor: {dtype}[] on numpy"


@every_dtype
def test_tolist_gives_python_numbers(name: str) -> None:
    values = Tensor([[0, 1]], dtype=name).tolist()
    assert values == [[0, 1]]
    assert type(values[0][0]) in (bool, int, float)


# -- NumPy and DLPack ---------------------------------------------------------------------------------------------------


@every_dtype
def test_numpy_is_a_read_only_view(name: str) -> None:
    t = Tensor([0, 1], dtype=name)
    array = t.numpy()
    assert array.dtype == NUMPY[name]
    assert np.shares_memory(array, t.numpy())
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


def test_asarray_shares_and_array_copies() -> None:
    t = Tensor([1.0, 2.0])
    shared, copied = np.asarray(t), np.array(t)
    copied[0] = 9
    assert np.shares_memory(shared, t.numpy())
    assert t.tolist() == [1, 2]


def test_asarray_converts_to_another_dtype() -> None:
    array = np.asarray(Tensor([1.0, 2.0]), dtype=np.float64)
    assert (array.dtype, array.tolist()) == (np.dtype("float64"), [1, 2])


def test_array_without_a_copy_refuses_another_dtype() -> None:
    with pytest.raises(DtypeError) as caught:
        np.asarray(Tensor([1.0]), dtype=np.float64, copy=False)
    assert str(caught.value) == "the values are float32; as float64 they must be copied"


def test_numpy_functions_take_tensors() -> None:
    assert np.concatenate([Tensor([1.0]), Tensor([2.0])]).tolist() == [1, 2]
    np.testing.assert_array_equal(Tensor([1.0, 2.0]), [1, 2])


@pytest.mark.parametrize("name", sorted(DTYPES.keys() - {"bfloat16"}))
def test_dlpack_goes_both_ways_without_a_copy(name: str) -> None:
    t = Tensor([[0, 1, 1]], dtype=name)
    array = np.from_dlpack(t)
    assert np.shares_memory(array, t.numpy())
    back = ndl.from_dlpack(array)
    assert back.spec is t.spec
    assert np.shares_memory(back.numpy(), array)


def test_dlpack_names_the_host() -> None:
    assert Tensor([1.0]).__dlpack_device__() == np.zeros(1).__dlpack_device__()


@pytest.mark.parametrize(
    "lent",
    [
        lambda: ndl.full((2, 3), 7.0),
        lambda: ndl.full((), 7.0),
        lambda: ndl.broadcast_to(Tensor([7.0, 7.0]), shape=(3, 2)),
        lambda: ndl.broadcast_to(Tensor(7.0), shape=(3, 2)),
    ],
    ids=["full", "constant", "broadcast row", "broadcast number"],
)
def test_dlpack_lends_no_memory_that_other_elements_share(lent: Callable[[], Tensor]) -> None:
    t = lent()
    array = np.from_dlpack(t)
    assert array.tolist() == t.tolist()
    if array.flags.writeable:
        array.reshape(-1)[:1] = -1
        array[(0,) * array.ndim] = -1
    assert set(np.ravel(t.numpy())) == {7}
    assert (ndl.full((), 7.0).item(), (Tensor(1.0) * 7.0).item()) == (7, 7)


def test_dlpack_does_not_lend_the_constant_that_a_gradient_starts_from() -> None:
    for _ in range(2):
        x = Tensor(2.0, requires_grad=True)
        x.backward()
        assert x.grad is not None
        assert x.grad.item() == 1
        np.from_dlpack(x.grad)[...] = 9


def test_from_dlpack_shares_read_only_memory() -> None:
    array = np.arange(3.0)
    array.flags.writeable = False
    assert np.shares_memory(ndl.from_dlpack(array).numpy(), array)


def test_from_dlpack_keeps_strides() -> None:
    array = np.arange(12.0).reshape(3, 4)[:, ::2].T
    assert ndl.from_dlpack(array).tolist() == array.tolist()


def test_from_dlpack_refuses_dtypes_it_does_not_have() -> None:
    with pytest.raises(DtypeError) as caught:
        ndl.from_dlpack(np.arange(3, dtype=np.int16))
    assert str(caught.value) == f"no dtype int16\n  dtypes: {KNOWN}\n  hint: convert it, or give dtype="


@pytest.mark.parametrize("source", [3, [1, 2], None])
def test_from_dlpack_refuses_what_has_no_dlpack(source: Any) -> None:
    with pytest.raises(ArgumentError, match="__dlpack__"):
        ndl.from_dlpack(source)


# -- data, detach, copies -----------------------------------------------------------------------------------------------


def test_data_reads_as_a_detached_tensor_of_the_same_buffer() -> None:
    x = Tensor([1.0], requires_grad=True)
    for free in (x.data, x.detach(), (x * 1).data):
        assert (free.requires_grad, free.is_leaf) == (False, True)
    assert x.data.buffer is x.buffer
    assert x.detach().buffer is x.buffer


@pytest.mark.parametrize("value", [Tensor([3.0, 4.0]), [3, 4], np.array([3.0, 4.0])])
def test_data_takes_a_value_in_place_of_the_old(value: Any) -> None:
    w = Tensor([1.0, 2.0], requires_grad=True)
    before = w.data
    w.data = value
    assert holds(w, [3, 4], "float32")
    assert w.requires_grad
    assert before.tolist() == [1, 2]


def test_data_brings_no_graph() -> None:
    w = Tensor([1.0], requires_grad=True)
    w.data = w * 2
    assert (w.is_leaf, w.tolist()) == (True, [2])


def test_assigned_result_of_an_op_becomes_a_leaf() -> None:
    x = Tensor([1.0], requires_grad=True)
    y = x * 2
    y.data = [5.0]
    y.sum().backward()
    assert x.grad is None
    assert y.grad is not None


@pytest.mark.parametrize(
    ("value", "error", "new"),
    [
        ([1.0], ShapeError, "float32[1] on numpy"),
        (Tensor(1.0), ShapeError, "float32[] on numpy"),
        (Tensor([1, 2]), DtypeError, "int64[2] on numpy"),
    ],
)
def test_data_refuses_another_spec(value: Any, error: type[NeedleError], new: str) -> None:
    w = Tensor([1.0, 2.0])
    with pytest.raises(error) as caught:
        w.data = value
    text = "data: the new value does not fit in the place of the old\n  old: float32[2] on numpy\n  new: "
    assert str(caught.value) == text + new
    assert w.tolist() == [1, 2]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("name", DTYPES)
def test_copy_has_the_value_and_is_independent(duplicate: Callable[[Tensor], Tensor], name: str) -> None:
    t = Tensor([[0, 1]], dtype=name)
    other = duplicate(t)
    other.data = [[1, 1]]
    assert holds(t, [[0, 1]], name)
    assert other.spec is t.spec


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))], ids=["deepcopy", "pickle"])
def test_copy_of_a_leaf_requires_a_gradient_as_it_does(duplicate: Callable[[Tensor], Tensor]) -> None:
    x = Tensor([1.0], requires_grad=True)
    (x * x).sum().backward()
    assert [duplicate(t).requires_grad for t in (x, x.detach(), x * 1)] == [True, False, False]
    assert duplicate(x).grad is None
    assert duplicate(x * 1).is_leaf


def test_deepcopy_keeps_shared_tensors_shared() -> None:
    t = Tensor([1.0])
    a, b = copy.deepcopy([t, t])
    assert a is b


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
        assert str(caught.value) == f"only floating tensors have gradients, not {name}\n  tensor: {name}[1] on numpy"


def test_result_of_an_op_cannot_stop_requiring_a_gradient() -> None:
    y = Tensor([1.0], requires_grad=True) * 2
    with pytest.raises(GradientError) as caught:
        y.requires_grad = False
    assert str(caught.value) == "the result of an op cannot stop requiring gradients\n  hint: x.detach() is free of the graph"


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
def test_arithmetic_with_what_is_no_number_names_the_op_and_operands(other: Any) -> None:
    with pytest.raises((ArgumentError, DtypeError), match=r"^add: .*\n  a: float32\[1\] on numpy\n  b: "):
        Tensor([1.0]) + other


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
    assert str(caught.value) == f"{text}\n  x: int64[2, 4] on numpy"


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
        (lambda t: t.to("numpy"), X),
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
    matmul = (
        "matmul: a 0-d tensor has no matrix product\n  a: float64[2, 3] on numpy\n  b: 2\n  hint: a * b multiplies by a number"
    )
    assert str(caught.value) == (f"{text}\n  x: float64[2, 3] on numpy" if text else matmul)


def test_to_the_same_device_is_the_tensor_itself() -> None:
    t = Tensor([1.0])
    assert t.to("numpy") is t
