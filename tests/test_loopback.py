"""The loopback device keeps its values to itself, like an accelerator, and notices what accelerators suffer in silence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core import Tensor
from needle_core.backend import default_device_reason
from needle_core.errors import DeviceError, KernelError, MissingKernelError
from needle_core.op import KERNELS, OPS
from needle_core.plugins import registry
from needle_core.spec import DTYPES
from needle_core.testing.loopback import Memory

pytestmark = pytest.mark.once

PLACE = ndl.device("loopback")
every_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)


def on_loopback(*values: Any) -> list[Tensor]:
    return [Tensor(v, device=PLACE) for v in values]


@pytest.mark.parametrize("use", [float, len, iter, memoryview, bytes, lambda b: np.asarray(b, float)])
def test_buffers_tell_nothing(use: Callable[[Any], Any]) -> None:
    (t,) = on_loopback([1.0])
    with pytest.raises(TypeError):
        use(t.buffer)


def test_values_are_copied_on_the_way_in_and_out() -> None:
    array = np.array([1.0, 2.0])
    t = Tensor(array, device=PLACE)
    array[0] = 9
    PLACE.backend.to_numpy(t.buffer)[1] = 9
    assert t.tolist() == [1, 2]


def test_it_has_the_primitives_and_nothing_else() -> None:
    mine = {name for name, op in OPS.items() if op.is_primitive and op.__module__.startswith("needle_core.ops.")}
    assert {op for op, backend in KERNELS if backend == "loopback" and op in OPS} == mine


def test_composites_run_by_their_bodies() -> None:
    (x,) = on_loopback([0.0, 1.0])
    np.testing.assert_allclose(ndl.softmax(x).numpy(), np.exp([0, 1]) / np.exp([0, 1]).sum(), rtol=1e-6)


def test_an_op_for_the_host_alone_is_refused() -> None:
    class Double(ndl.TensorOp):
        def compute(self, x: Any) -> Any:
            return 2 * x

    with pytest.raises(MissingKernelError, match="a TensorOp computes on host arrays, and loopback:0 does not keep"):
        Double()(*on_loopback([1.0]))


@every_dtype
def test_fresh_memory_is_poison(dtype: ndl.DType) -> None:
    fresh = PLACE.backend.to_numpy(PLACE.backend.empty((3,), dtype, PLACE))
    assert np.isnan(fresh.astype(np.float64)).all() if dtype.is_floating else (fresh.view(np.uint8) > 200).all()


def test_freed_memory_is_poison() -> None:
    memory = Memory(16, PLACE)
    array = memory.array((2,), np.dtype(np.float64))
    array[...] = 1
    del memory
    assert np.isnan(array).all()


def test_views_share_memory_and_keep_it() -> None:
    before = PLACE.backend.memory_stats(PLACE)["in_use"]
    (x,) = on_loopback(np.arange(12.0).reshape(3, 4))
    view = x.T[1:, ::2]
    assert PLACE.backend.memory_stats(PLACE)["in_use"] - before == 12 * 8
    del x
    assert view.tolist() == np.arange(12.0).reshape(3, 4).T[1:, ::2].tolist()


def test_kernels_get_operands_row_after_row(plant: Callable[[Callable[..., Any]], None]) -> None:
    seen = []

    def kernel(x: Any) -> Any:
        seen.append((x.flags.c_contiguous, x.tolist()))
        return np.exp(x)

    plant(kernel)
    (x,) = on_loopback(np.arange(6.0).reshape(2, 3))
    for view in (x, x.T, x[:, ::2], ndl.flip(x, axis=1)):
        ndl.exp(view)
    assert [values for _, values in seen] == [
        [[0, 1, 2], [3, 4, 5]],
        [[0, 3], [1, 4], [2, 5]],
        [[0, 2], [3, 5]],
        [[2, 1, 0], [5, 4, 3]],
    ]
    assert all(in_rows for in_rows, _ in seen)


def test_memory_in_use_is_counted_for_each_device() -> None:
    places = [ndl.device("loopback:0"), ndl.device("loopback:1")]
    before = [p.backend.memory_stats(p)["in_use"] for p in places]
    t = Tensor(np.zeros(100, np.float32), device="loopback:1")
    assert [p.backend.memory_stats(p)["in_use"] - n for p, n in zip(places, before, strict=True)] == [0, 400]
    del t
    assert [p.backend.memory_stats(p)["in_use"] for p in places] == before


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[..., Any]], None]]:
    """Replaces the kernel of exp."""

    def replace(kernel: Callable[..., Any]) -> None:
        monkeypatch.setitem(KERNELS, ("exp", "loopback"), kernel)
        ndl.exp.forget()

    yield replace
    ndl.exp.forget()


@pytest.mark.parametrize("place", [-1, 3])
def test_writing_outside_of_an_operand_is_noticed(plant: Callable[[Callable[..., Any]], None], place: int) -> None:
    def kernel(x: Any) -> Any:
        start = x.__array_interface__["data"][0]
        whole = x.base.view(np.float32)
        whole[(start - x.base.__array_interface__["data"][0]) // 4 + place] = 1
        return np.exp(x)

    plant(kernel)
    with pytest.raises(KernelError, match="exp: the kernel raised RuntimeError: the kernel wrote outside of an operand"):
        ndl.exp(*on_loopback(np.zeros(3, np.float32)))


def test_operands_on_two_devices_are_refused() -> None:
    with pytest.raises(DeviceError, match="add: operands are on different devices"):
        Tensor([1.0], device="loopback:0") + Tensor([1.0], device="loopback:1")


def test_a_buffer_of_another_device_is_refused_by_the_kernel() -> None:
    x, stranger = Tensor([1.0], device="loopback:0"), Tensor([1.0], device="loopback:1")
    x.buffer = stranger.buffer
    with pytest.raises(DeviceError, match="exp: a kernel on loopback:0 got <buffer of 4 bytes on loopback:1>"):
        ndl.exp(x)


def test_gradients_flow_between_devices() -> None:
    x = Tensor([1.0, 2.0], device="loopback:0", requires_grad=True)
    (x.to("loopback:1") ** 2).sum().backward()
    assert x.grad is not None
    assert (x.grad.device, x.grad.tolist()) == (PLACE, [2, 4])


def test_random_numbers_are_those_of_numpy() -> None:
    draws = [ndl.Generator(5, device=name).normal(1000).numpy() for name in ("loopback:1", "numpy")]
    np.testing.assert_array_equal(*draws)


def test_it_is_never_the_default_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NEEDLE_DEVICE", raising=False)
    ndl.set_default_device(None)
    assert "loopback" not in str(default_device_reason())
    monkeypatch.setenv("NEEDLE_DEVICE", "loopback:1")
    assert default_device_reason() == ("loopback:1", "NEEDLE_DEVICE says so")


def test_the_core_itself_offers_it() -> None:
    assert [s.distribution for s in registry.report() if s.offers == {"backends": ["loopback"]}] == ["needle-core"]
