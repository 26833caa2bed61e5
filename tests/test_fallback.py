"""NEEDLE_FALLBACK: what a backend has no kernel for is an error, or is computed on the host, and then it is counted."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core import Tensor, backend as backends, fallback, op
from needle_core.errors import ArgumentError, MissingKernelError
from needle_core.op import OPS
from needle_core.plugins import registry
from tests.plugin_fixtures import HEAD, Site, site

__all__ = ["site"]

# An accelerator that can add, multiply and move axes about, and nothing else. Its buffers are no arrays.
SPARSE = (
    HEAD
    + """
import numpy as np
from needle_core.backend import Backend

class Buffer:
    def __init__(self, array): self.array = array

class Sparse(Backend):
    name = "sparse"
    def devices(self): return ["sparse:0", "sparse:1"]
    def from_numpy(self, array, device): return Buffer(np.array(array, order="C"))
    def to_numpy(self, buffer): return buffer.array.copy()
    def empty(self, shape, dtype, device): return Buffer(np.empty(shape, dtype.numpy))
    def kernel_table(self): return {"add": np.add, "multiply": np.multiply, "broadcast_to": np.broadcast_to}
    def bind(self, kernel, attrs, inputs, output):
        return lambda *buffers: Buffer(np.asarray(kernel(*(b.array for b in buffers), **attrs)))

@hookimpl
def needle_register_backends(registrar):
    registrar.backend(Sparse)
"""
)


@pytest.fixture
def sparse(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[ndl.Device]:
    """The first device of the backend. Beside it NumPy is the only host; tables and counts are as before after the test."""
    numpy = ndl.device("numpy")
    monkeypatch.setattr(backends, "_backends", {"numpy": numpy.backend})
    monkeypatch.setattr(backends, "_devices", {"numpy": numpy})
    monkeypatch.setattr(op, "KERNELS", {key: kernel for key, kernel in op.KERNELS.items() if key[1] == "numpy"})
    monkeypatch.setattr(fallback, "_counts", {})
    monkeypatch.setattr(fallback, "_warned", set())
    monkeypatch.delenv("NEEDLE_FALLBACK", raising=False)
    site.install("needle-sparse-backend", {"backends": {"sparse": "needle_sparse_backend"}}, SPARSE)
    monkeypatch.setenv("NEEDLE_PLUGINS", "numpy,loopback,sparse")
    registry.forget()
    yield ndl.device("sparse")
    for known in OPS.values():
        known.forget()


X = [0.25, 1.0, 4.0]


def test_missing_kernel_is_an_error_that_names_the_host_and_the_way_out(sparse: ndl.Device) -> None:
    x = Tensor(X, device=sparse)
    with pytest.raises(MissingKernelError) as caught:
        ndl.sqrt(x)
    assert str(caught.value) == (
        "sqrt: backend 'sparse' has no kernel for this primitive\n  x: float32[3] on sparse:0\n  kernels: numpy\n"
        "  hint: NEEDLE_FALLBACK=warn lets numpy compute it"
    )
    assert ndl.fallbacks() == {}


@pytest.mark.parametrize("setting", ["", "error", " error "])
def test_error_is_the_default(sparse: ndl.Device, monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    monkeypatch.setenv("NEEDLE_FALLBACK", setting)
    with pytest.raises(MissingKernelError):
        ndl.sqrt(Tensor(X, device=sparse))


@pytest.mark.parametrize("setting", ["1", "Allow", "yes", "warn,allow"])
def test_unknown_setting_is_an_error(sparse: ndl.Device, monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    monkeypatch.setenv("NEEDLE_FALLBACK", setting)
    with pytest.raises(ArgumentError, match=f"NEEDLE_FALLBACK={setting} is none of error, warn, allow"):
        ndl.sqrt(Tensor(X, device=sparse))


def test_host_computes_and_the_result_comes_back(sparse: ndl.Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEEDLE_FALLBACK", "allow")
    x = Tensor(X, device="sparse:1")
    y = ndl.sqrt(x)
    assert (y.device.name, y.dtype, y.numpy().tolist()) == ("sparse:1", ndl.float32, [0.5, 1.0, 2.0])
    assert type(y.buffer).__name__ == "Buffer"
    assert x.numpy().tolist() == X


def test_gradients_flow_through_what_the_host_computed(sparse: ndl.Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEEDLE_FALLBACK", "allow")
    x = Tensor(X, device=sparse, requires_grad=True)
    ndl.sum(ndl.sqrt(x) * 3.0).backward()
    assert x.grad is not None
    assert x.grad.device is sparse
    np.testing.assert_allclose(x.grad.numpy(), 3 / (2 * np.sqrt(X)), rtol=1e-6)


def test_op_without_operands_is_made_on_the_host(sparse: ndl.Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEEDLE_FALLBACK", "allow")
    y = ndl.iota(n=3, device=sparse)
    assert (y.device, y.numpy().tolist()) == (sparse, [0, 1, 2])


def test_op_with_several_results_comes_back_whole(sparse: ndl.Device, monkeypatch: pytest.MonkeyPatch) -> None:
    @ndl.primitive(lambda x: ((x, x.like(dtype=ndl.int64)), {}))
    def split_number(x: Tensor) -> tuple[Tensor, Tensor]:
        """Fraction and integer."""
        raise NotImplementedError

    monkeypatch.setitem(op.KERNELS, ("split_number", "numpy"), lambda x: (x % 1, np.floor(x).astype(np.int64)))
    monkeypatch.setenv("NEEDLE_FALLBACK", "allow")
    fraction, whole = split_number(Tensor([1.5, 2.25], device=sparse))
    assert (fraction.device, fraction.numpy().tolist()) == (sparse, [0.5, 0.25])
    assert (whole.device, whole.numpy().tolist()) == (sparse, [1, 2])


def test_bits_of_random_numbers_are_those_of_the_host(sparse: ndl.Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEEDLE_FALLBACK", "allow")
    there, here = (ndl.Generator(7, device=device).uniform(100) for device in (sparse, "numpy"))
    assert there.device is sparse
    assert there.numpy().tobytes() == here.numpy().tobytes()


def test_every_round_trip_is_counted_by_op_and_backend(sparse: ndl.Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEEDLE_FALLBACK", "allow")
    x = Tensor(X, device=sparse)
    for _ in range(3):
        ndl.sqrt(x)
    ndl.sum(x)
    x + x  # has a kernel there
    assert ndl.fallbacks() == {("sqrt", "sparse"): (3, 3 * 2 * 12), ("sum", "sparse"): (1, 12 + 4)}


def test_setting_holds_for_what_was_allowed_before(sparse: ndl.Device, monkeypatch: pytest.MonkeyPatch) -> None:
    x = Tensor(X, device=sparse)
    monkeypatch.setenv("NEEDLE_FALLBACK", "allow")
    ndl.sqrt(x)
    monkeypatch.delenv("NEEDLE_FALLBACK")
    with pytest.raises(MissingKernelError, match=r"^sqrt: backend 'sparse' has no kernel"):
        ndl.sqrt(x)
    assert ndl.fallbacks()["sqrt", "sparse"].calls == 1


def test_warn_warns_once_for_each_op_at_the_line_that_called_it(sparse: ndl.Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEEDLE_FALLBACK", "warn")
    x = Tensor(X, device=sparse)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for shape in (3, 3, 1):
            ndl.sqrt(x if shape == 3 else ndl.broadcast_to(Tensor(1.0, device=sparse), shape=(shape,)))
        ndl.sum(x)
    assert [(w.category, w.filename, str(w.message).partition(":")[0]) for w in caught] == [
        (RuntimeWarning, __file__, "sqrt"),
        (RuntimeWarning, __file__, "sum"),
    ]
    assert str(caught[0].message) == (
        "sqrt: backend 'sparse' has no kernel for it, so the operands go to the host and the result comes back"
    )


def test_kernel_that_comes_later_is_used(sparse: ndl.Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEEDLE_FALLBACK", "allow")
    x = Tensor(X, device=sparse)
    ndl.sqrt(x)
    op.register_kernels("sparse", {"sqrt": lambda array: array * 0})
    assert ndl.sqrt(x).numpy().tolist() == [0, 0, 0]
    assert ndl.fallbacks()["sqrt", "sparse"].calls == 1


def test_what_no_host_can_compute_stays_an_error(sparse: ndl.Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(op.KERNELS, ("sqrt", "numpy"))
    monkeypatch.setenv("NEEDLE_FALLBACK", "allow")
    with pytest.raises(MissingKernelError) as caught:
        ndl.sqrt(Tensor(X, device=sparse))
    assert str(caught.value).endswith("\n  kernels: none")


def test_tensor_op_computes_on_the_host_if_allowed(sparse: ndl.Device, monkeypatch: pytest.MonkeyPatch) -> None:
    class Double(ndl.TensorOp):
        def compute(self, x: Any) -> Any:
            return x * 2

    monkeypatch.setenv("NEEDLE_FALLBACK", "allow")
    y = Double()(Tensor(X, device=sparse))
    assert (y.device, y.numpy().tolist()) == (sparse, [0.5, 2.0, 8.0])
    assert ndl.fallbacks() == {("Double", "sparse"): (1, 24)}


def test_kernel_that_the_loopback_device_lacks(sparse: ndl.Device, monkeypatch: pytest.MonkeyPatch) -> None:
    x = Tensor([[1.0, 2.0], [3.0, 4.0]], device="loopback:1", requires_grad=True)
    monkeypatch.delitem(op.KERNELS, ("matmul", "loopback"))
    ndl.matmul.forget()
    with pytest.raises(MissingKernelError, match="hint: NEEDLE_FALLBACK=warn lets numpy compute it"):
        x @ x
    monkeypatch.setenv("NEEDLE_FALLBACK", "allow")
    y = x @ x
    ndl.sum(y).backward()
    assert (str(y.device), y.tolist()) == ("loopback:1", [[7, 10], [15, 22]])
    assert x.grad is not None
    assert (str(x.grad.device), x.grad.tolist()) == ("loopback:1", [[7, 11], [9, 13]])
    assert ndl.fallbacks() == {("matmul", "loopback"): (3, 3 * 3 * 16)}


def test_model_trains_as_on_the_host(sparse: ndl.Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEEDLE_FALLBACK", "allow")
    losses = {}
    for device in ("sparse", "numpy"):
        x, w = (Tensor(rows, device=device) for rows in ([[1.0, 2.0], [3.0, -1.0]], [[0.5], [0.25]]))
        w.requires_grad = True
        losses[device] = []
        for _ in range(3):
            loss = ndl.mean((ndl.tanh(x @ w) - 1.0) ** 2)
            loss.backward()
            assert w.grad is not None
            w.data = w.data - w.grad * 0.1
            w.grad = None
            losses[device].append(float(loss.numpy()))
    assert losses["sparse"] == losses["numpy"]


def test_summary_is_shown_when_the_process_ends(sparse: ndl.Device, site: Site) -> None:
    done = site.python(
        """
        import needle_core as ndl
        x = ndl.Tensor([0.25] * 500_000, device="sparse")
        ndl.sqrt(x), ndl.sqrt(x), ndl.sum(x), x + x
        """,
        NEEDLE_FALLBACK="allow",
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == (
        "needle: 2 ops ran on the host:\n"
        "  sqrt of sparse, 2 times, 8,000,000 bytes there and back\n"
        "  sum of sparse, once, 2,000,004 bytes there and back\n"
    )


def test_nothing_is_shown_if_nothing_ran_on_the_host(sparse: ndl.Device, site: Site) -> None:
    done = site.python(
        "import needle_core as ndl; x = ndl.Tensor([1.0], device='sparse'); x + x; ndl.sqrt(ndl.Tensor(1.0))",
        NEEDLE_FALLBACK="allow",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
