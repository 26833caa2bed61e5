"""The driver of real devices, as far as it can be looked at without one: what it asks of cuda.core is there and means that.

Its work on a device is tested by what is marked `gpu`.
"""

from __future__ import annotations

import ctypes
import gc
import inspect
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core.errors import BoundsError, KernelError
from needle_core.spec import Device
from needle_cuda_backend.backend import driver_of
from needle_cuda_backend.driver import CudaDriver


def test_integers_reach_kernels_in_64_bits() -> None:
    """Addresses and sizes are Python's integers; kernels take pointers and int64."""
    from cuda.core._kernel_arg_handler import ParamHolder

    numbers = [2**47 + 3, 0, -5, 2**40]
    holder = ParamHolder(numbers)
    places = (ctypes.c_void_p * len(numbers)).from_address(holder.ptr)
    assert [ctypes.c_longlong.from_address(place).value for place in places] == numbers


@pytest.mark.parametrize(
    ("owner", "name", "parameters"),
    [
        ("Device", "allocate", ["size", "stream"]),
        ("Device", "create_stream", []),
        ("Device", "set_current", []),
        ("Device", "create_graph_builder", []),
        ("Buffer", "from_handle", ["ptr", "size"]),
        ("Buffer", "copy_from", ["src", "stream"]),
        ("Buffer", "close", []),
        ("Stream", "sync", []),
        ("Stream", "record", ["options"]),
        ("ObjectCode", "from_cubin", ["module"]),
        ("ObjectCode", "get_kernel", ["name"]),
        ("LegacyPinnedMemoryResource", "allocate", ["size", "stream"]),
        ("graph.GraphBuilder", "begin_building", ["mode"]),
        ("graph.GraphBuilder", "end_building", []),
        ("graph.GraphBuilder", "complete", []),
        ("graph.GraphBuilder", "stream", None),
        ("graph.Graph", "launch", ["stream"]),
    ],
)
def test_what_is_asked_of_cuda_core_is_there(owner: str, name: str, parameters: list[str] | None) -> None:
    import cuda.core
    import cuda.core.graph

    found: Any = cuda.core
    for part in (*owner.split("."), name):
        found = getattr(found, part)
    if parameters:
        told = inspect.getdoc(found) or ""
        assert all(p in told for p in parameters), told


def test_a_fault_is_told_with_the_variable_that_finds_it() -> None:
    """The device's stream is one that reports the fault of an earlier kernel."""

    def fault() -> None:
        raise RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered")

    faulty = SimpleNamespace(name="H100", _stream=SimpleNamespace(sync=fault))
    faulty._faults = lambda: CudaDriver._faults(faulty)  # type: ignore[arg-type]
    with pytest.raises(KernelError, match="H100: CUDA_ERROR_ILLEGAL_ADDRESS") as caught:
        CudaDriver.synchronize(faulty)  # type: ignore[arg-type]
    assert caught.value.hint == "NEEDLE_CUDA_DEBUG=1 waits after each kernel and names the one at fault"


def test_a_refusal_is_told_once_the_host_sees_it(cuda: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real device lets the host go on: the error then comes with what next waits, and state is as it was."""
    driver: Any = driver_of(cuda)
    w = ndl.nn.Parameter(ndl.Tensor([1.0, 2.0, 3.0], device=cuda))

    @ndl.compile
    def step(i: ndl.Tensor) -> None:
        w.data = w.data + ndl.take(w.data, i, axis=0).sum()

    good, bad = ndl.Tensor([0, 2], device=cuda), ndl.Tensor([0, 3], device=cuda)
    for _ in range(3):
        step(good)
    before = w.numpy().tolist()
    take = driver.take_mark
    monkeypatch.setattr(driver, "take_mark", lambda: 0)  # not yet
    step(bad)
    step(good)
    monkeypatch.setattr(driver, "take_mark", take)
    with pytest.raises(BoundsError, match="take: an index is out of bounds for axis 0 with size 3") as caught:
        w.numpy()
    assert "test_driver.py" in str(caught.value)
    assert w.numpy().tolist() == before
    step(good)
    assert w.numpy().tolist() == [x + before[0] + before[2] for x in before]


def test_marks_are_forgotten_with_their_step(cuda: Device) -> None:
    driver: Any = driver_of(cuda)
    gc.collect()
    known = len(driver._blames)
    take = ndl.compile(lambda x, i: ndl.take(x, i, axis=0) + 1)
    x, i = ndl.Tensor(np.ones(3, np.float32), device=cuda), ndl.Tensor([0], device=cuda)
    take(x, i)
    assert len(driver._blames) == known + 1
    del take
    gc.collect()
    assert len(driver._blames) == known
