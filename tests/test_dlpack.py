"""Memory lent by DLPack: what NumPy's own lending lacks, and what must not be lent; with PyTorch, in test_pytorch_installed."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import needle_core as ndl
from needle_core import Tensor, dlpack
from needle_core.errors import DeviceError
from tests.devices import on_the_host

pytestmark = on_the_host

UNSIGNED, BFLOAT = 1, 4  # https://dmlc.github.io/dlpack/latest/c_api.html


class Lender:
    """A library that lends an array, which takes the options of DLPack 1.0, or none."""

    def __init__(self, source: Any, old: bool = False) -> None:
        self.source, self.old = source, old

    def __dlpack_device__(self) -> Any:
        return self.source.__dlpack_device__()

    def __dlpack__(self, **options: Any) -> Any:
        if self.old and options:
            raise TypeError("__dlpack__ takes no keyword arguments")
        return self.source.__dlpack__(**options)


@pytest.mark.parametrize("shape", [(), (0, 2), (3,), (2, 3)])
def test_bfloat16_comes_back_with_its_bits(shape: tuple[int, ...]) -> None:
    t = Tensor(np.arange(int(np.prod(shape))).reshape(shape) + 0.5, dtype="bfloat16")
    back = ndl.from_dlpack(t)
    assert (back.spec is t.spec, back.tolist()) == (True, t.tolist())
    assert back.numpy().dtype == ml_dtypes.bfloat16


def test_bfloat16_is_shared_without_a_copy() -> None:
    t = Tensor([1, 2.5], dtype="bfloat16")
    assert np.shares_memory(ndl.from_dlpack(t).numpy().view(np.uint16), t.numpy().view(np.uint16))


@pytest.mark.parametrize("max_version", [None, (0, 8), (1, 0), (2, 0)])
def test_bfloat16_is_called_so_in_capsules_old_and_new(max_version: tuple[int, int] | None) -> None:
    capsule = Tensor([1, 2], dtype="bfloat16").__dlpack__(max_version=max_version)
    new = max_version is not None and max_version >= (1, 0)
    assert ("dltensor_versioned" in repr(capsule)) == new
    kind = dlpack._kind(capsule)
    assert (kind.code, kind.bits, kind.lanes) == (BFLOAT, 16, 1)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("dtype", ["bool", "int64", "bfloat16", "float32"])
def test_lenders_old_and_new_are_taken(old: bool, dtype: str) -> None:
    t = Tensor([[0, 1], [1, 0]], dtype=dtype)
    back = ndl.from_dlpack(Lender(t, old))
    assert (back.spec is t.spec, back.tolist()) == (True, t.tolist())


def test_unsigned_integers_stay_what_they_are() -> None:
    array = np.array([1, 255], np.uint8)
    capsule = array.__dlpack__()
    assert dlpack._kind(capsule).code == UNSIGNED
    assert ndl.from_dlpack(array).tolist() == [1, 255]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_strides_are_kept(dtype: str) -> None:
    t = Tensor(np.arange(12).reshape(3, 4), dtype=dtype)
    for view in (t.mT, t[::2, 1:], t[:, 1]):
        back = ndl.from_dlpack(view)
        assert back.tolist() == view.tolist()
        assert back.numpy().strides == view.numpy().strides


def test_negative_strides_are_not_lent() -> None:
    """PyTorch aborts the process at them."""
    array = np.from_dlpack(ndl.flip(Tensor([[1.0, 2.0], [3.0, 4.0]])))
    assert array.tolist() == [[4, 3], [2, 1]]
    assert min(array.strides) > 0


@pytest.mark.parametrize("lent", [ndl.full((2, 3), 7.0), ndl.broadcast_to(Tensor([7.0, 7.0]), shape=(3, 2)), ndl.full((), 7.0)])
def test_memory_of_several_owners_is_not_lent(lent: Tensor) -> None:
    """PyTorch writes into memory that is read-only."""
    array = np.from_dlpack(lent)
    assert array.tolist() == lent.tolist()
    assert not np.shares_memory(array, lent.numpy())


def test_what_cannot_be_lent_is_refused_to_readers_that_want_no_copy() -> None:
    with pytest.raises(BufferError, match="only as a copy"):
        np.from_dlpack(ndl.flip(Tensor([1.0, 2.0])), copy=False)
    assert np.from_dlpack(Tensor([1.0, 2.0]), copy=False).tolist() == [1, 2]


def test_what_is_lent_is_read_only_and_a_copy_for_readers_that_cannot_know() -> None:
    t = Tensor([1.0, 2.0])
    assert not np.from_dlpack(t).flags.writeable
    copied = np.from_dlpack(t, copy=True)
    copied[0] = 9
    old = np.from_dlpack(Lender(t, old=True))
    assert not np.shares_memory(old, t.numpy())
    assert t.tolist() == [1, 2]


def test_a_tensor_elsewhere_is_not_lent() -> None:
    t = Tensor([1.0], device="loopback")
    for ask in (t.__dlpack__, t.__dlpack_device__, lambda: np.from_dlpack(t), lambda: ndl.from_dlpack(t)):
        with pytest.raises(DeviceError) as caught:
            ask()
        assert str(caught.value) == "no DLPack view of a tensor on loopback:0\n  tensor: float32[1] on loopback:0"


def test_what_is_lent_by_the_host_can_go_elsewhere() -> None:
    t = ndl.from_dlpack(np.array([1.0, 2.0]), device="loopback")
    assert (str(t.spec), t.tolist()) == ("float64[2] on loopback:0", [1, 2])


def test_a_lender_may_be_gone() -> None:
    t = ndl.from_dlpack(np.arange(1000.0))
    assert t.sum().item() == 499500
