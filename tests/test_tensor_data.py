"""Tensors and the memory they share: NumPy, DLPack, `data`, and copies."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import needle_core as ndl
from needle_core import Tensor
from needle_core.errors import ArgumentError, DtypeError, GradientError, NeedleError, ShapeError
from needle_core.spec import DTYPES
from tests.devices import on_the_host

HERE = ndl.default_device()

NUMPY = {name: np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name) for name in DTYPES}
KNOWN = "bool, uint8, int32, int64, float16, bfloat16, float32, float64"

every_dtype = pytest.mark.parametrize("name", DTYPES)


def holds(t: Tensor, expected: Any, dtype: str) -> bool:
    """Whether `t` has these values, of this dtype, signs of zero included."""
    array = np.asarray(expected, NUMPY[dtype])
    return t.dtype.name == dtype and t.shape == array.shape and t.numpy().tobytes() == array.tobytes()


# -- NumPy and DLPack ---------------------------------------------------------------------------------------------------


@every_dtype
@on_the_host
def test_numpy_is_a_read_only_view(name: str) -> None:
    t = Tensor([0, 1], dtype=name)
    array = t.numpy()
    assert array.dtype == NUMPY[name]
    assert np.shares_memory(array, t.numpy())
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


@on_the_host
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
@on_the_host
def test_dlpack_goes_both_ways_without_a_copy(name: str) -> None:
    t = Tensor([[0, 1, 1]], dtype=name)
    array = np.from_dlpack(t)
    assert np.shares_memory(array, t.numpy())
    back = ndl.from_dlpack(array)
    assert back.spec is t.spec
    assert np.shares_memory(back.numpy(), array)


@on_the_host
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
@on_the_host
def test_dlpack_lends_no_memory_that_other_elements_share(lent: Callable[[], Tensor]) -> None:
    t = lent()
    array = np.from_dlpack(t)
    assert array.tolist() == t.tolist()
    if array.flags.writeable:
        array.reshape(-1)[:1] = -1
        array[(0,) * array.ndim] = -1
    assert set(np.ravel(t.numpy())) == {7}
    assert (ndl.full((), 7.0).item(), (Tensor(1.0) * 7.0).item()) == (7, 7)


@on_the_host
def test_dlpack_does_not_lend_the_constant_that_a_gradient_starts_from() -> None:
    for _ in range(2):
        x = Tensor(2.0, requires_grad=True)
        x.backward()
        assert x.grad is not None
        assert x.grad.item() == 1
        assert not np.from_dlpack(x.grad).flags.writeable


@on_the_host
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


def test_data_of_the_result_of_an_op_is_refused() -> None:
    y = Tensor([1.0], requires_grad=True) * 2
    with pytest.raises(GradientError) as caught:
        y.data = [5.0]
    text = "data: the result of an op takes no new value\n  hint: x.detach() is free of the graph"
    assert (str(caught.value), y.tolist()) == (text, [2])


@pytest.mark.parametrize(
    ("value", "error", "new"),
    [
        ([1.0], ShapeError, f"float32[1] on {HERE}"),
        (Tensor(1.0), ShapeError, f"float32[] on {HERE}"),
        (Tensor([1, 2]), DtypeError, f"int64[2] on {HERE}"),
    ],
)
def test_data_refuses_another_spec(value: Any, error: type[NeedleError], new: str) -> None:
    w = Tensor([1.0, 2.0])
    with pytest.raises(error) as caught:
        w.data = value
    text = f"data: the new value does not fit in the place of the old\n  old: float32[2] on {HERE}\n  new: "
    assert str(caught.value) == text + new
    assert w.tolist() == [1, 2]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("name", DTYPES)
def test_copy_has_the_value_and_is_independent(duplicate: Callable[[Tensor], Tensor], name: str) -> None:
    t = Tensor([[0, 1]], dtype=name)
    other = duplicate(t)
    other.data = Tensor([[1, 1]], dtype=name)
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


@pytest.mark.parametrize(
    "same", [lambda x: x[:], lambda x: x[...], ndl.clip, ndl.positive, lambda x: ndl.ceil(x.astype("int64"))]
)
def test_result_that_equals_its_operand_is_a_tensor_of_its_own(same: Callable[[Tensor], Tensor]) -> None:
    x = Tensor([1.0, 2.0])
    y = same(x)
    y.data = [9, 9]
    assert x.tolist() == [1, 2]


def test_integers_do_not_take_floats() -> None:
    i = Tensor([1, 2])
    with pytest.raises(DtypeError, match="is not for int64"):
        i.data = [1.7, 2.2]
    assert i.tolist() == [1, 2]
