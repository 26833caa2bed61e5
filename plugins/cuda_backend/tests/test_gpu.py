"""What only a GPU can prove: numbers at real sizes, replays beside single operations, long trainings, threads, faults.

Each test is there twice: on a GPU, marked `gpu`, and in small on the simulated device, which proves the code of the test. Those
marked `gpu` run with `pytest -m gpu` alone, because in one process `cuda:0` is either real or simulated.
"""

from __future__ import annotations

import gc
import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

import needle_core as ndl
from needle_core import nn
from needle_core.benchmark.workloads import WORKLOADS
from needle_core.errors import BoundsError, KernelError, NeedleError
from needle_core.spec import DTYPES, Device
from needle_cuda_backend import libraries
from needle_cuda_backend.backend import driver_of

Array = npt.NDArray[Any]


def _obstacle() -> str:
    """Why there is no GPU to test on, nothing if there is one. The backend is not opened, as others simulate it."""
    if libraries.simulated():
        return "NEEDLE_CUDA_SIMULATED is set"
    try:
        libraries.require_python_packages()
        libraries.require_driver()
        libraries.device_count()
    except NeedleError as error:
        return error.summary
    return ""


OBSTACLE = _obstacle()
GPU = pytest.param("gpu", marks=[pytest.mark.gpu, pytest.mark.skipif(bool(OBSTACLE), reason=f"no GPU: {OBSTACLE}")])
SIMULATED = pytest.param("simulated", marks=pytest.mark.once)


class Place(NamedTuple):
    """A device, and whether it is a GPU, for which sizes are large."""

    device: Device
    is_gpu: bool

    def pick(self, large: Any, small: Any) -> Any:
        return large if self.is_gpu else small


@pytest.fixture(params=[GPU, SIMULATED])
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "simulated":
        return Place(request.getfixturevalue("cuda"), False)
    if request.config.getoption("markexpr") != "gpu":
        pytest.skip("cuda:0 is simulated by other tests of this process: pytest -m gpu")
    return Place(ndl.device("cuda:0"), True)


def places(names: Iterable[str], simulated: Iterable[str]) -> pytest.MarkDecorator:
    """Parametrizes by names on the GPU, and by some of them on the simulated device too, where other tests have the rest."""
    pairs = [(GPU, names), (SIMULATED, simulated)]
    params = [pytest.param(*place.values, name, marks=place.marks) for place, chosen in pairs for name in chosen]
    return pytest.mark.parametrize(("place", "name"), params, indirect=["place"])


# -- ops against float64 ----------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """A function, and the shapes of its operands, large and small. `limits` are of operands that are integers, by position."""

    function: Callable[..., Any]
    large: Sequence[tuple[int, ...]]
    small: Sequence[tuple[int, ...]]
    limits: dict[int, tuple[int, int]] = {}  # noqa: RUF012  # a default that nobody changes
    scale: float = 1.0


def _attention(q: Any, k: Any, v: Any) -> Any:
    return ndl.scaled_dot_product_attention(q, k, v, causal=True)


def _normalized(x: Any, weight: Any, bias: Any) -> Any:
    mean, var = ndl.batch_statistics(x)
    return ndl.batch_norm(x, mean, var, weight, bias)


CASES = {
    "product": Case(lambda a, b: a @ b, [(2048, 1536), (1536, 2048)], [(33, 40), (40, 24)]),
    "products in batches": Case(lambda a, b: a @ b, [(96, 257, 64), (96, 64, 257)], [(3, 9, 8), (3, 8, 9)]),
    "linear": Case(ndl.linear, [(16384, 384), (384, 1536), (1536,)], [(17, 12), (12, 20), (20,)]),
    "convolution": Case(
        lambda x, w: ndl.conv(x, w, padding=1), [(32, 28, 28, 64), (128, 3, 3, 64)], [(2, 6, 6, 4), (8, 3, 3, 4)]
    ),
    "convolution with a stride": Case(
        lambda x, w: ndl.conv(x, w, stride=2, padding=3), [(64, 65, 63, 8), (32, 7, 7, 8)], [(2, 9, 8, 3), (4, 7, 7, 3)]
    ),
    "convolution in groups": Case(
        lambda x, w: ndl.conv(x, w, groups=8, padding=1), [(16, 28, 28, 64), (64, 3, 3, 8)], [(2, 5, 5, 8), (8, 3, 3, 1)]
    ),
    "attention": Case(_attention, [(8, 6, 256, 64)] * 3, [(2, 2, 17, 8)] * 3),
    "lstm": Case(
        lambda *x: ndl.lstm(*x)[0],
        [(35, 64, 256), (64, 256), (64, 256), (256, 1024), (256, 1024), (1024,)],
        [(4, 3, 8), (3, 8), (3, 8), (8, 32), (8, 32), (32,)],
        scale=0.1,
    ),
    "gru": Case(
        ndl.gru,
        [(20, 64, 256), (64, 256), (256, 768), (256, 768), (768,), (768,)],
        [(4, 3, 8), (3, 8), (8, 24), (8, 24), (24,), (24,)],
        scale=0.1,
    ),
    "elementwise": Case(lambda a, b: ndl.tanh(a) * b + ndl.exp(-a * a), [(8192, 1000), (1000,)], [(9, 13), (13,)]),
    "softmax": Case(lambda x: ndl.softmax(x) * x, [(8192, 1000)], [(5, 33)]),
    "softmax of long rows": Case(lambda x: ndl.log_softmax(x), [(16, 200_003)], [(2, 301)]),
    "layer norm": Case(ndl.layer_norm, [(16384, 384), (384,), (384,)], [(9, 20), (20,), (20,)]),
    "batch norm": Case(_normalized, [(128, 32, 32, 64), (64,), (64,)], [(5, 3, 3, 7), (7,), (7,)]),
    "cross entropy": Case(lambda x, y: ndl.cross_entropy(x, y), [(2240, 10_000), (2240,)], [(9, 20), (9,)], {1: (0, 10)}),
    "sum over rows": Case(lambda x: (x * x).sum(-1), [(3, 3_000_001)], [(3, 501)]),
    "sum over columns": Case(lambda x: (x * x).sum(0), [(1_000_003, 5)], [(301, 5)]),
    "mean of all": Case(lambda x: (x * x).mean(), [(4096, 4099)], [(30, 41)]),
    "greatest": Case(lambda x: ndl.max(x, axis=1), [(512, 777, 33)], [(4, 7, 3)]),
    "pooling": Case(lambda x: ndl.max_pool(x, size=3, stride=2, padding=1), [(64, 33, 31, 64)], [(2, 7, 6, 3)]),
    "take": Case(lambda x, i: ndl.take(x, i, axis=0), [(50_000, 96), (200_000,)], [(20, 6), (30,)], {1: (-20, 20)}),
    "embedding": Case(lambda w, i: ndl.embedding(i, w), [(10_000, 384), (64, 256)], [(20, 6), (3, 5)], {1: (0, 20)}),
    "scatter": Case(
        lambda x, i, u: ndl.scatter_add(x, i, u, axis=0),
        [(1000, 96), (100_000,), (100_000, 96)],
        [(20, 6), (30,), (30, 6)],
        {1: (0, 20)},
    ),
    "running sum": Case(lambda x: ndl.cumsum(x, axis=-1), [(64, 100_003)], [(3, 301)]),
    "transposed and cut": Case(lambda x: ndl.permute_dims(x, axes=(2, 0, 1))[1:, ::2] * 2, [(257, 129, 65)], [(5, 7, 3)]),
}
FEW = ("product", "convolution", "attention", "softmax", "scatter")
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2}
"""Of the norm of the difference over that of the reference."""


def _operands(case: Case, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    rng = np.random.default_rng(0)
    made: list[Array] = []
    for i, shape in enumerate(shapes):
        if i in case.limits:
            made.append(rng.integers(*case.limits[i], shape))
        else:
            made.append((rng.standard_normal(shape) * case.scale).astype(np.float32))
    return made


def _results(function: Callable[..., Any], operands: Sequence[ndl.Tensor], g: ndl.Tensor, compiled: bool) -> list[Array]:
    """The value of a function, and its gradients for the gradient g of the value."""

    def both(g: ndl.Tensor, *operands: ndl.Tensor) -> Any:
        y, pullback = ndl.vjp(function, *operands)
        return [y, *(x for x in pullback(g) if x is not None)]

    found = (ndl.compile(both) if compiled else both)(g, *operands)
    return [x.numpy().astype(np.float64) for x in found]


def _agree(case: Case, place: Place, dtype: str, tolerance: float, ways: Sequence[bool] = (False, True)) -> None:
    """Value and gradients are those of float64, of the operands as they are in the dtype; eager, and compiled."""
    given = [ndl.Tensor(a, device=place.device) for a in _operands(case, place.pick(case.large, case.small))]
    given = [x.astype(DTYPES[dtype]) if x.dtype.is_floating else x for x in given]
    wide = [ndl.Tensor(x.numpy().astype(np.float64) if x.dtype.is_floating else x.numpy(), device="numpy") for x in given]
    shape = case.function(*wide).shape
    g = ndl.Tensor(np.random.default_rng(1).standard_normal(shape), device=place.device).astype(DTYPES[dtype])
    expected = _results(case.function, wide, ndl.Tensor(g.numpy().astype(np.float64), device="numpy"), compiled=False)
    for compiled in ways:
        _compare(_results(case.function, given, g, compiled), expected, tolerance)


def _compare(found: Sequence[Array], expected: Sequence[Array], tolerance: float) -> None:
    assert len(found) == len(expected)
    for i, (x, y) in enumerate(zip(found, expected, strict=True)):
        off = np.linalg.norm(x - y) / max(float(np.linalg.norm(y)), 1e-30)
        assert off < tolerance, f"result {i} is off by {off:.2g}"


@pytest.mark.parametrize("dtype", TOLERANCE)
@places(CASES, simulated=FEW)
def test_an_op_and_its_gradients_are_those_of_float64(place: Place, name: str, dtype: str) -> None:
    _agree(CASES[name], place, dtype, TOLERANCE[dtype])


@places(["product", "linear", "convolution", "lstm"], simulated=["product"])
def test_products_in_tf32_are_near_those_of_float64(place: Place, name: str) -> None:
    ndl.set_matmul_precision("tf32")
    try:
        _agree(CASES[name], place, "float32", 2e-3)
    finally:
        ndl.set_matmul_precision("float32")


# -- steps ------------------------------------------------------------------------------------------------------------------


def _trained(
    name: str, device: Device | str, steps: int, mode: Callable[[Any], Any] = lambda step: step
) -> tuple[list[float], list[Array]]:
    """The losses of a workload's steps on a device, and the weights after them. `mode` is a decorator of the step."""
    ndl.set_default_device(device)
    try:
        ndl.manual_seed(0)
        step = WORKLOADS[name]()
        run = ndl.compile(mode(step))
        losses = [run().item() for _ in range(steps)]
        return losses, [p.numpy() for p in inspect.getclosurevars(step).nonlocals["model"].parameters()]
    finally:
        ndl.set_default_device(None)


@places(WORKLOADS, simulated=["scaleadd", "mlp"])
def test_fifty_steps_go_as_on_numpy(place: Place, name: str) -> None:
    """At first to roundoff; later as far as Adam, which divides by what is near 0, lets roundoff grow."""
    steps = place.pick(50, 4)
    losses, _ = _trained(name, place.device, steps)
    expected, _ = _trained(name, "numpy", steps)
    np.testing.assert_allclose(losses[:2], expected[:2], rtol=1e-5)
    np.testing.assert_allclose(losses[:10], expected[:10], rtol=1e-3)
    np.testing.assert_allclose(losses, expected, rtol=5e-2, atol=1e-3)
    assert losses[-1] < losses[0]


@places(["mlp", "mlpresnet", "resnet9", "gpt"], simulated=["mlp"])
def test_steps_in_bfloat16_go_nearly_as_in_float32(place: Place, name: str) -> None:
    losses, _ = _trained(name, place.device, 4, ndl.autocast("bfloat16"))
    expected, _ = _trained(name, "numpy", 4)
    np.testing.assert_allclose(losses, expected, rtol=5e-2)
    np.testing.assert_allclose(losses[0], expected[0], rtol=1e-2)


@places(WORKLOADS, simulated=["mlp"])
def test_a_replay_gives_the_bits_of_single_operations(place: Place, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    replayed, weights = _trained(name, place.device, 5)
    monkeypatch.setenv("NEEDLE_CUDA_DEBUG", "1")
    one_by_one, others = _trained(name, place.device, 5)
    assert replayed == one_by_one
    assert [w.tobytes() for w in weights] == [w.tobytes() for w in others]


@places(WORKLOADS, simulated=["mlp"])
def test_the_same_training_gives_the_same_bits(place: Place, name: str) -> None:
    steps = place.pick(20, 4)
    (losses, weights), (again, others) = (_trained(name, place.device, steps) for _ in range(2))
    assert losses == again
    assert [w.tobytes() for w in weights] == [w.tobytes() for w in others]


def test_sums_that_meet_in_one_place_give_the_same_bits(place: Place) -> None:
    count, width = place.pick((1_000_000, 64), (300, 4))
    rng = np.random.default_rng(0)
    updates = ndl.Tensor(rng.standard_normal((count, width)).astype(np.float32), device=place.device)
    indices = ndl.Tensor(rng.integers(0, 3, count), device=place.device)
    empty = ndl.zeros((7, width), device=place.device)
    bits = {ndl.scatter_add(empty, indices, updates, axis=0).numpy().tobytes() for _ in range(5)}
    assert len(bits) == 1


# -- threads ----------------------------------------------------------------------------------------------------------------


def _wave(seed: int, device: Device, calls: int, size: int) -> bytes:
    """The bits of eager and compiled calls one after the other, each of what the one before gave."""
    rng = np.random.default_rng(seed)
    weight = ndl.Tensor((rng.standard_normal((size, size)) / math.sqrt(size)).astype(np.float32), device=device)
    x = ndl.Tensor(rng.standard_normal((size, size)).astype(np.float32), device=device)
    turn = ndl.compile(lambda x: ndl.tanh(x @ weight))
    for _ in range(calls):
        x = turn(x) + ndl.softmax(x)
    return bytes(x.numpy().tobytes())


def test_threads_do_not_disturb_each_other(place: Place) -> None:
    calls, size = place.pick((200, 512), (4, 16))
    alone = [_wave(seed, place.device, calls, size) for seed in (1, 2)]
    for _ in range(place.pick(3, 1)):
        with ThreadPoolExecutor(2) as pool:
            together = list(pool.map(lambda seed: _wave(seed, place.device, calls, size), (1, 2)))
        assert together == alone


# -- faults -----------------------------------------------------------------------------------------------------------------


def _classifier(device: Device, classes: int = 5) -> tuple[nn.Module, ndl.optim.Optimizer, Any]:
    """A model, its optimizer, and a compiled step of both on x and labels."""
    ndl.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, classes)).to(device)
    opt = ndl.optim.Adam(model.parameters(), lr=1e-2)

    @ndl.compile
    def step(x: ndl.Tensor, labels: ndl.Tensor) -> ndl.Tensor:
        opt.reset_grad()
        loss: ndl.Tensor = nn.SoftmaxLoss()(model(x), labels)
        loss.backward()
        opt.step()
        return loss

    return model, opt, step


def _bits(*parts: Any) -> list[bytes]:
    return [t.numpy().tobytes() for t in ndl.tree.flatten([p.state_dict() for p in parts])[0] if isinstance(t, ndl.Tensor)]


def test_a_label_out_of_range_in_a_replay_leaves_the_state(place: Place) -> None:
    model, opt, step = _classifier(place.device)
    x = ndl.Tensor(np.random.default_rng(0).standard_normal((8, 6)).astype(np.float32), device=place.device)
    labels = ndl.Tensor([0, 1, 2, 3, 4, 0, 1, 2], device=place.device)
    for _ in range(4):
        step(x, labels)
    before = _bits(model, opt)
    with pytest.raises(BoundsError, match="a label is out of bounds for 5 classes"):
        step(x, ndl.Tensor([7] * 8, device=place.device)).numpy()
    assert _bits(model, opt) == before
    assert math.isfinite(step(x, labels).item())
    assert _bits(model, opt) != before


def test_an_index_out_of_range_is_an_error_and_the_device_goes_on(place: Place) -> None:
    count = place.pick(100_000, 50)
    table = ndl.ones((count, 4), device=place.device)
    with pytest.raises(BoundsError, match=f"out of bounds for axis 0 with size {count}"):
        ndl.take(table, ndl.Tensor([0, count], device=place.device), axis=0).numpy()
    assert ndl.take(table, ndl.Tensor([-1], device=place.device), axis=0).numpy().tolist() == [[1.0] * 4]


def test_too_much_memory_is_told_with_how_much(place: Place) -> None:
    """2^50 bytes, which no machine has: for an array, and for what a step computes on the way."""
    with pytest.raises(KernelError, match=r"out of memory on .*: 1073741824\.0 MiB"):
        place.device.backend.empty((2**48,), ndl.float32, place.device)
    row = ndl.ones((1, 2**24), device=place.device)
    with pytest.raises(KernelError, match=r"out of memory on .*: a step needs 10737\d{5}\.\d MiB") as caught:
        ndl.compile(lambda x: (ndl.permute_dims(x, axes=(1, 0)) @ x).sum())(row)
    assert "float32[16777216, 16777216]" in str(caught.value)
    assert ndl.ones((3,), device=place.device).sum().item() == 3


def test_memory_is_given_back(place: Place) -> None:
    driver = driver_of(place.device)
    x = ndl.ones((place.pick(4096, 16),) * 2, device=place.device)

    def work() -> float:
        return float(ndl.compile(lambda x: ndl.softmax(x @ x).sum())(x).item())

    work()
    gc.collect()
    before = driver.in_use
    for _ in range(3):
        work()
    gc.collect()
    assert driver.in_use <= before
