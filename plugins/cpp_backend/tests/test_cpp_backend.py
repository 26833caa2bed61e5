"""What only this backend has: native plans, threads, and libraries that may be missing."""

from __future__ import annotations

import itertools
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError
from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core import nn
from needle_core.benchmark.workloads import WORKLOADS
from needle_core.errors import BoundsError, DeviceUnavailableError, KernelError, ShapeError
from needle_core.op import KERNELS
from needle_cpp_backend import native as libraries
from needle_cpp_backend.native import native


@pytest.fixture
def switching() -> Iterator[None]:
    """Python switches between threads all the time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def network() -> tuple[nn.Module, ndl.Tensor, ndl.Tensor]:
    """A network whose layers are large enough for several threads, and a batch."""
    ndl.manual_seed(0)
    rng = np.random.default_rng(0)
    layers = nn.Sequential(nn.Linear(300, 500), nn.BatchNorm1d(500), nn.GELU(), nn.LayerNorm(500), nn.Linear(500, 10))
    return layers, ndl.Tensor(rng.normal(size=(400, 300)).astype(np.float32)), ndl.Tensor(rng.integers(0, 10, 400))


def trainer() -> Callable[[], bytes]:
    """A network and what trains it: a function that takes five compiled steps, and gives the weights as bytes."""
    model, x, labels = network()
    optimizer = ndl.optim.Adam(model.parameters(), lr=1e-3)

    @ndl.compile
    def step() -> ndl.Tensor:
        loss = ndl.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        optimizer.reset_grad()
        return loss

    def train() -> bytes:
        for _ in range(5):
            step()
        return b"".join(p.numpy().tobytes() for p in model.parameters())

    return train


def helpers_of(f: Callable[[], Any]) -> int:
    """How many threads OpenMP starts to help a new Python thread with f."""

    def counted() -> int:
        before = set(os.listdir("/proc/self/task"))
        f()
        return len(set(os.listdir("/proc/self/task")) - before)

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(counted).result()


def layers() -> dict[str, Callable[[], ndl.Tensor]]:
    """Work for two threads, by our kernels and by oneDNN's."""
    rng = np.random.default_rng(0)
    a, x, w = (ndl.Tensor(rng.normal(size=s).astype(np.float32)) for s in ((600, 600), (16, 32, 32, 32), (32, 3, 3, 32)))
    rnn, tokens = nn.LSTM(128, 128), ndl.Tensor(rng.normal(size=(10, 32, 128)).astype(np.float32))
    return {
        "matmul": lambda: a @ a,
        "exp": lambda: ndl.exp(x),
        "conv": lambda: ndl.conv(x, w, padding=1),
        "lstm": lambda: rnn(tokens)[0],
        "compiled": ndl.compile(lambda: ndl.conv(ndl.relu(x), w, padding=1) + 1),
    }


@pytest.mark.parametrize("name", ["matmul", "exp", "conv", "lstm", "compiled"])
def test_the_number_of_threads_holds_for_every_python_thread_and_for_kernels_made_before(name: str) -> None:
    f = layers()[name]
    for threads in (2, 1, 3):
        ndl.set_num_threads(threads)
        assert helpers_of(f) == threads - 1


without_avx512 = pytest.mark.skipif(
    not native.__name__.endswith("v4"), reason="without AVX-512, oneDNN cuts the sums of products by threads"
)


def with_threads(f: Callable[[], Any]) -> list[Any]:
    """What f gives with one thread, with two, with three."""
    results = []
    for threads in (1, 2, 3):
        ndl.set_num_threads(threads)
        assert native.num_threads() == threads
        results.append(f())
    return results


@without_avx512
@pytest.mark.parametrize("name", [name for name in WORKLOADS if name != "resnet9"])  # whose weights are a convolution's
def test_steps_do_not_depend_on_the_number_of_threads(name: str) -> None:
    def losses() -> list[bytes]:
        ndl.manual_seed(0)
        step = ndl.compile(WORKLOADS[name]())
        return [step().numpy().tobytes() for _ in range(2)]

    one, two, three = with_threads(losses)
    assert one == two == three


@pytest.mark.parametrize(
    "f",
    [
        lambda x, w, g: ndl.conv(x, w, padding=1),
        lambda x, w, g: ndl.conv_transpose(g, w, padding=1),
        lambda x, w, g: ndl.max_pool(x, size=3),
        lambda x, w, g: ndl.layer_norm(x, ndl.ones(32), ndl.zeros(32)),
        lambda x, w, g: x.sum(axis=(0, 1, 2)),
        lambda x, w, g: x.mean(),
        lambda x, w, g: ndl.cumsum(x, axis=0),
    ],
    ids=["conv", "conv_transpose", "max_pool", "layer_norm", "sum by column", "mean", "cumsum"],
)
def test_ops_do_not_depend_on_the_number_of_threads(f: Callable[..., ndl.Tensor]) -> None:
    rng = np.random.default_rng(0)
    operands = [ndl.Tensor(rng.normal(size=s).astype(np.float32)) for s in ((16, 24, 24, 32), (32, 3, 3, 32), (16, 24, 24, 32))]
    one, two, three = with_threads(lambda: f(*operands).numpy().tobytes())
    assert one == two == three


def test_python_threads_run_one_plan_and_eager_ops_at_the_same_time(switching: None) -> None:
    model, x, _ = network()
    model.eval()
    step = ndl.compile(lambda x: model(x))

    def eager(x: ndl.Tensor) -> ndl.Tensor:
        y: ndl.Tensor = ndl.softmax(model(x) @ ndl.ones((10, 30)), axis=-1)
        return y

    inputs = [ndl.Tensor(x.numpy() * k) for k in range(8)]
    for f in (step, eager):
        expected = [f(x).numpy() for x in inputs]
        with ThreadPoolExecutor(4) as pool:
            found = [y.numpy() for y in pool.map(f, inputs * 4)]
        for y, z in zip(found, expected * 4, strict=True):
            np.testing.assert_array_equal(y, z)


def test_python_threads_train_networks_of_their_own_at_the_same_time(switching: None) -> None:
    expected, *others = trainer()(), *(trainer() for _ in range(4))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda train: train(), others)) == [expected] * 4


@pytest.mark.parametrize("name", ["matmul", "exp", "conv", "lstm", "compiled"])
def test_a_forked_process_computes_with_threads_of_its_own(name: str) -> None:
    ndl.set_num_threads(2)
    f = layers()[name]
    expected = f().numpy().tobytes()  # the threads are there
    child = os.fork()
    if not child:
        signal.alarm(60)  # ends a child that waits for threads of its parent
        same = f().numpy().tobytes() == expected
        os._exit(0 if same and helpers_of(f) == 1 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert f().numpy().tobytes() == expected


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


def wide(x: ndl.Tensor, n: int) -> ndl.Tensor:
    """More numbers than there is memory for."""
    y: ndl.Tensor = ndl.broadcast_to(x, shape=(2**31, n)) + 1
    return y


TOO_LARGE: dict[str, Callable[[ndl.Tensor], Any]] = {
    "a result": lambda x: wide(x, 2**20),
    "what lies between": lambda x: ndl.cumsum(wide(x, 2**20), axis=0).sum(),
    "more than can be counted": lambda x: ndl.concat([ndl.cumsum(wide(x * i, 2**22), axis=0).sum(axis=0) for i in range(300)]),
    "a product": lambda x: ndl.broadcast_to(x, shape=(2**26, 1)) @ ndl.broadcast_to(x, shape=(1, 2**26)),
    "a padded image": lambda x: ndl.conv(x.reshape(1, 1, 1, 1), x.reshape(1, 1, 1, 1), padding=2**25),
}


@pytest.mark.parametrize("what", TOO_LARGE)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_too_large_is_an_error(what: str, compiled: bool) -> None:
    f = TOO_LARGE[what]
    with pytest.raises(KernelError, match="out of memory"):
        (ndl.compile(f) if compiled else f)(ndl.Tensor(np.ones((1, 1), np.float32)))


@pytest.mark.parametrize(
    "f",
    [
        lambda x: ndl.conv(x, x, padding=2**40),
        lambda x: ndl.max_pool(x, size=2**39 + 1, stride=1, padding=2**39),
        lambda x: ndl.pad(x, width=((2**62, 2**62), (0, 0), (0, 0), (0, 0))),
    ],
)
def test_padding_that_no_machine_has_memory_for_is_refused_at_once(f: Callable[[ndl.Tensor], Any]) -> None:
    with pytest.raises(ShapeError, match="too large for the memory of any machine"):
        f(ndl.ones((1, 1, 1, 1)))


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


AVX2 = """
import numpy as np
import needle_core as ndl
from needle_cpp_backend.native import native

ndl.set_default_device("cpp")
rng = np.random.default_rng(0)
x, w, k = (ndl.Tensor(rng.integers(-3, 4, s).astype("float32")) for s in ((8, 12, 12, 16), (16, 3, 3, 16), (2304, 700)))
step = ndl.compile(lambda x, w, k: (ndl.relu(ndl.conv(x, w, padding=1)) + 1).reshape(8, -1) @ k)
print(native.__name__, float(step(x, w, k).sum()))
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="other processors have one module")
def test_processors_with_avx2_alone_have_a_module_of_their_own() -> None:
    told = []
    for most in ("AVX2", "ALL"):
        done = subprocess.run(
            [sys.executable, "-c", AVX2],
            env={**os.environ, "ONEDNN_MAX_CPU_ISA": most},
            capture_output=True,
            text=True,
            check=True,
        )
        told.append(done.stdout.split())
    assert told[0] == ["needle_cpp_backend._x86_64_v3", told[1][1]]
    assert told[1][0] == native.__name__
