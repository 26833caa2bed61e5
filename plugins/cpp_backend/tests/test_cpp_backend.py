"""What only this backend has: native plans, threads, and libraries that may be missing."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import needle_core as ndl
from needle_core import backend, nn
from needle_core.errors import BoundsError, DeviceUnavailableError, KernelError
from needle_core.op import KERNELS
from needle_core.testing.programs import random_program
from needle_cpp_backend import native as libraries
from needle_cpp_backend.native import native


@pytest.fixture(autouse=True)
def cpp() -> Iterator[None]:
    """Tensors are on cpp."""
    chosen, threads = backend.chosen_device(), native.num_threads()
    ndl.set_default_device("cpp")
    yield
    ndl.set_default_device(chosen)
    ndl.set_num_threads(threads)


def network() -> tuple[nn.Module, ndl.Tensor, ndl.Tensor]:
    """A network whose layers are large enough for several threads, and a batch."""
    ndl.manual_seed(0)
    rng = np.random.default_rng(0)
    layers = nn.Sequential(nn.Linear(300, 500), nn.BatchNorm1d(500), nn.GELU(), nn.LayerNorm(500), nn.Linear(500, 10))
    return layers, ndl.Tensor(rng.normal(size=(400, 300)).astype(np.float32)), ndl.Tensor(rng.integers(0, 10, 400))


def trained(steps: int) -> bytes:
    """The weights of a network after so many compiled steps, as bytes."""
    model, x, labels = network()
    optimizer = ndl.optim.Adam(model.parameters(), lr=1e-3)

    @ndl.compile
    def step() -> ndl.Tensor:
        loss = ndl.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        optimizer.reset_grad()
        return loss

    for _ in range(steps):
        step()
    return b"".join(p.numpy().tobytes() for p in model.parameters())


@pytest.mark.skipif(not native.__name__.endswith("v4"), reason="without AVX-512, oneDNN cuts the sums of products by threads")
def test_results_do_not_depend_on_the_number_of_threads() -> None:
    results = []
    for threads in (1, 2, 3):
        ndl.set_num_threads(threads)
        assert native.num_threads() == threads
        results.append(trained(5))
    assert results[0] == results[1] == results[2]


def test_python_threads_run_one_plan_at_the_same_time() -> None:
    model, x, _ = network()
    model.eval()
    step = ndl.compile(lambda x: model(x))
    inputs = [ndl.Tensor(x.numpy() * k) for k in range(8)]
    expected = [step(x).numpy() for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        found = [y.numpy() for y in pool.map(step, inputs * 4)]
    for y, z in zip(found, expected * 4, strict=True):
        np.testing.assert_array_equal(y, z)


def test_a_forked_process_computes_alone() -> None:
    a = ndl.Tensor(np.ones((400, 400), np.float32))
    (a @ a).numpy()  # the threads are there
    child = os.fork()
    if not child:
        right = bool(((a @ a + ndl.exp(a)).numpy() > 400).all())
        os._exit(0 if right else 1)
    assert os.waitpid(child, 0)[1] == 0


@settings(deadline=None, max_examples=10_000 if os.environ.get("NEEDLE_FULL") else 100)
@given(st.integers(0, 2**32))
def test_random_plans_give_what_numpy_gives(seed: int) -> None:
    program = random_program(seed, whole=True)
    native_tensors = [ndl.Tensor(x) for x in program.inputs]
    reference = [ndl.Tensor(x, device="numpy") for x in program.inputs]
    ndl.set_default_device("numpy")
    expected = [y.numpy() for y in program(*reference)]
    ndl.set_default_device("cpp")
    for y, z in zip(ndl.compile(program)(*native_tensors), expected, strict=True):
        if z.dtype.kind == "f" and not (np.abs(z.astype(np.float64)) < 2**22).all():
            return  # beyond, float32 rounds sums, and their order shows
        np.testing.assert_array_equal(y.numpy(), z)


SPACES = [(7,), (64,), (5, 3), (40, 100), (3, 1, 1000), (2, 3, 4, 5), (1000, 7), (130, 64), (1, 6), (0, 4), (4, 0)]
SPACES += [(70000,), (300, 100), (200, 3, 50)]  # in several chunks


@pytest.mark.parametrize("shape", SPACES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_fused_nodes_of_all_shapes(shape: tuple[int, ...], dtype: str) -> None:
    rng = np.random.default_rng(0)
    array = rng.integers(-3, 4, shape)
    row = rng.integers(-3, 4, shape[-1:])
    column = rng.integers(-3, 4, (*shape[:-1], 1))
    x, r, c = (ndl.Tensor(a).astype(dtype) for a in (array, row, column))

    @ndl.compile
    def step(x: ndl.Tensor, r: ndl.Tensor, c: ndl.Tensor) -> Any:
        y = (x + r) * c - 1
        return y, y.sum(axis=-1), y.sum(axis=0), y.sum(), abs(y).max() if y.size else y

    y = (array + row) * column - 1
    got = step(x, r, c)
    expected = [y, y.sum(-1), y.sum(0), y.sum(), abs(y).max() if y.size else y]
    for a, b in zip(got, expected, strict=True):
        wide = a.numpy().astype(np.float64)
        if np.abs(b).max(initial=0) <= (128 if dtype == "bfloat16" else 2048):  # whole numbers that the dtype has
            np.testing.assert_array_equal(wide, b)


@pytest.mark.parametrize("window", [1, 3, 5])
@pytest.mark.parametrize("image", [1, 2, 3])
@pytest.mark.parametrize("attrs", [{}, {"stride": 2}, {"dilation": 2}, {"groups": 2}], ids=str)
def test_windows_that_are_larger_than_the_image(image: int, window: int, attrs: dict[str, int]) -> None:
    padding = (window - 1) * attrs.get("dilation", 1) // 2
    found = []
    for device in ("cpp", "numpy"):
        rng = np.random.default_rng(0)
        shapes = (3, image, image, 4), (6, window, window, 4 // attrs.get("groups", 1))
        x, w = (ndl.Tensor(rng.integers(-3, 4, s).astype(np.float32), device=device, requires_grad=True) for s in shapes)
        y = ndl.conv(x, w, padding=padding, **attrs)
        y.backward(ndl.Tensor(rng.integers(-3, 4, y.shape).astype(np.float32), device=device))
        found.append([t.numpy() for t in (y, x.grad, w.grad)])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_what_fails_in_a_plan_names_the_op_and_leaves_state_alone() -> None:
    weight = ndl.Tensor(np.ones((3, 2), np.float32))

    @ndl.compile
    def step(i: ndl.Tensor) -> ndl.Tensor:
        y = ndl.take(weight, i, axis=0).sum()
        weight.data = weight * 2
        return y

    assert step(ndl.Tensor([0, 2])).item() == 4
    before = weight.numpy().copy()
    with pytest.raises(BoundsError, match=r"^take: index 3 is out of bounds for axis 0 with size 3\n(.*\n)*  line: .*compiled"):
        step(ndl.Tensor([0, 3]))
    np.testing.assert_array_equal(weight.numpy(), before)
    assert step(ndl.Tensor([0, 2])).item() == 8


def test_kernels_of_other_packages_are_functions_of_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    op = ndl.sinh  # a composite, without a native kernel
    monkeypatch.setitem(KERNELS, ("sinh", "cpp"), lambda x: np.sinh(x))
    op.forget()
    x = ndl.Tensor([[0.0, 1.0], [2.0, 3.0]])
    expected = np.sinh(x.numpy()) + 1
    np.testing.assert_allclose((op(x) + 1).numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(ndl.compile(lambda x: op(x) + 1)(x).numpy(), expected, rtol=1e-6)
    op.forget()


def test_views_are_read_where_they_lie() -> None:
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    t = ndl.Tensor(x)
    for axes in itertools.permutations(range(3)):
        np.testing.assert_array_equal((ndl.permute_dims(t, axes=axes) * 2).numpy(), x.transpose(axes) * 2)
    np.testing.assert_array_equal(
        (t[:, ::-1, 1:3] @ t[:, ::-1, 1:3].mT).numpy(), x[:, ::-1, 1:3] @ x[:, ::-1, 1:3].swapaxes(1, 2)
    )


def test_too_large_is_an_error() -> None:
    x = ndl.Tensor(np.ones((1, 1), np.float32))
    with pytest.raises(KernelError, match="out of memory"):
        (ndl.broadcast_to(x, shape=(2**31, 2**20)) + 1).numpy()


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (PackageNotFoundError("onednn-cpu-gomp"), "oneDNN is not installed\n  hint: pip install onednn-cpu-gomp"),
        (None, "onednn-cpu-gomp has no libdnnl\n  hint: pip install --force-reinstall onednn-cpu-gomp"),
    ],
)
def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, missing: Exception | None, message: str) -> None:
    def files(name: str) -> list[Any]:
        if missing:
            raise missing
        return []

    monkeypatch.setattr(libraries, "files", files)
    with pytest.raises(DeviceUnavailableError) as caught:
        libraries._load_onednn()
    assert str(caught.value) == message
