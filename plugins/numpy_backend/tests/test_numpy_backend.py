"""How the NumPy backend calls its kernels: without warnings, from any thread, and with arrays as results."""

from __future__ import annotations

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import needle_core as ndl
from needle_core.errors import KernelError
from needle_core.op import KERNELS


def test_floating_point_exceptions_are_silent_and_leave_numpys_settings_alone() -> None:
    before = np.geterr()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zero = ndl.Tensor([0.0])
        assert (1 / zero).item() == float("inf")
        assert ndl.isnan(zero / zero).item() is True
    assert np.geterr() == before


def test_threads_run_kernels_at_the_same_time() -> None:
    x = ndl.Tensor(np.random.default_rng(0).random((300, 300), np.float32))
    expected = (x @ x).numpy()
    start = threading.Barrier(4)

    def work(_: int) -> bool:
        start.wait()
        return all(np.array_equal((x @ x).numpy(), expected) for _ in range(10))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


def test_runtime_error_of_a_kernel_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(x: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setitem(KERNELS, ("exp", "numpy"), broken)
    ndl.exp.forget()
    try:
        with pytest.raises(KernelError, match="exp: the kernel raised RuntimeError: no"):
            ndl.exp(ndl.Tensor([1.0]))
    finally:
        ndl.exp.forget()


@pytest.mark.parametrize("result", [lambda x: x.sum(), lambda x: x.sum() * 2, lambda x: x.max(), lambda x: ndl.exp(x[0])])
def test_results_without_axes_are_arrays(result: object) -> None:
    y = result(ndl.Tensor([1.0, 2.0]))  # type: ignore[operator]
    assert type(y.buffer) is np.ndarray
    assert y.shape == ()
