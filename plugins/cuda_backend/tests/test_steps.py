"""Whole training steps on the simulated device: fused, planned, captured and replayed, they are those of NumPy."""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core import nn
from needle_core.benchmark.workloads import WORKLOADS
from needle_core.errors import BoundsError, KernelError
from needle_core.spec import Device
from needle_cuda_backend.backend import driver_of

STEPS = {"scaleadd": 10, "mlp": 5, "mlpresnet": 5, "resnet9": 3, "lstm": 3, "gpt": 3}


def trained(name: str, device: Device | str) -> tuple[list[float], list[Any]]:
    """The losses of a workload's steps on a device, and the weights after them."""
    ndl.set_default_device(device)
    try:
        ndl.manual_seed(0)
        step = WORKLOADS[name]()
        run = ndl.compile(step)
        losses = [run().item() for _ in range(STEPS[name])]
        model = inspect.getclosurevars(step).nonlocals["model"]
        return losses, [p.numpy() for p in model.parameters()]
    finally:
        ndl.set_default_device(None)


@pytest.mark.parametrize("name", STEPS)
def test_a_workload_trains_as_on_numpy(name: str, cuda: Device) -> None:
    losses, weights = trained(name, cuda)
    expected, others = trained(name, "numpy")
    np.testing.assert_allclose(losses[:2], expected[:2], rtol=1e-5)
    # Adam divides gradients near 0 by deviations near 0, so that roundoff grows: NumPy's own losses differ by 2e-4 with another
    # number of threads.
    np.testing.assert_allclose(losses, expected, rtol=1e-3)
    found, wanted = (np.concatenate([w.ravel() for w in x]) for x in (weights, others))
    assert np.linalg.norm(found - wanted) <= 5e-3 * np.linalg.norm(wanted)


def model_on(device: Device) -> tuple[nn.Module, ndl.optim.Optimizer, Any]:
    """A small model, its optimizer, and the compiled step of both on x and labels."""
    ndl.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 5)).to(device)
    opt = ndl.optim.Adam(model.parameters(), lr=1e-2)

    @ndl.compile
    def step(x: ndl.Tensor, labels: ndl.Tensor) -> ndl.Tensor:
        opt.reset_grad()
        loss = nn.SoftmaxLoss()(model(x), labels)
        loss.backward()
        opt.step()
        return loss

    return model, opt, step


def batch_on(device: Device, seed: int = 0) -> tuple[ndl.Tensor, ndl.Tensor]:
    rng = np.random.default_rng(seed)
    x, labels = rng.normal(size=(8, 6)).astype(np.float32), rng.integers(0, 5, 8)
    return ndl.Tensor(x, device=device), ndl.Tensor(labels, device=device)


def left(device: Device, calls: int, *, new_batches: bool) -> list[bytes]:
    """The bits that training leaves: losses and state."""
    model, _, step = model_on(device)
    batch = batch_on(device)
    bits = []
    for i in range(calls):
        x, labels = batch_on(device, i) if new_batches else batch
        bits.append(step(x, labels).numpy().tobytes())
    return bits + [t.numpy().tobytes() for t in ndl.tree.flatten(model.state_dict())[0]]


@pytest.mark.parametrize("new_batches", [False, True])
def test_a_replay_gives_the_bits_of_operations_one_by_one(
    new_batches: bool, cuda: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    replayed = left(cuda, 6, new_batches=new_batches)
    monkeypatch.setenv("NEEDLE_CUDA_DEBUG", "1")
    assert left(cuda, 6, new_batches=new_batches) == replayed


def test_steps_are_captured_once_and_allocate_only_their_results(cuda: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = driver_of(cuda)
    captures: list[object] = []
    original = driver.captured
    monkeypatch.setattr(driver, "captured", lambda issue: captures.append(issue) or original(issue))
    _, _, step = model_on(cuda)
    batch = batch_on(cuda)
    kept = []
    for _ in range(6):
        kept.append(step(*batch))
        kept = kept[-1:]
    before = driver.in_use
    kept = [step(*batch)]
    assert driver.in_use == before
    assert len(captures) == 1


def test_what_is_captured_may_not_allocate(cuda: Device) -> None:
    driver = driver_of(cuda)
    with pytest.raises(KernelError, match="allocated while work is captured"):
        driver.captured(lambda: driver.allocate(4))
    driver.allocate(4)


def test_arguments_at_new_addresses_are_read_there(cuda: Device) -> None:
    double = ndl.compile(lambda x: x * 2 + 1)
    for i in range(6):
        x = np.full((3, 5), float(i), np.float32)
        np.testing.assert_array_equal(double(ndl.Tensor(x, device=cuda)).numpy(), x * 2 + 1)


def test_results_of_earlier_calls_stay(cuda: Device) -> None:
    double = ndl.compile(lambda x: x * 2 + 1)
    x = ndl.Tensor([1.0, 2.0], device=cuda)
    results = [double(x) for _ in range(4)]
    assert [y.numpy().tolist() for y in results] == [[3.0, 5.0]] * 4


def test_a_parameter_that_is_replaced_is_read_and_written_in_its_new_place(cuda: Device) -> None:
    w = nn.Parameter(ndl.Tensor([1.0, 2.0], device=cuda))

    @ndl.compile
    def step() -> None:
        w.data = w.data * 2

    for _ in range(3):
        step()
    old = w.data
    w.data = ndl.Tensor([10.0, 20.0], device=cuda)
    for _ in range(3):
        step()
    assert w.numpy().tolist() == [80.0, 160.0]
    assert old.numpy().tolist() == [8.0, 16.0]


def test_state_that_somebody_holds_is_left_to_them(cuda: Device) -> None:
    w = nn.Parameter(ndl.Tensor([1.0, 2.0], device=cuda))

    @ndl.compile
    def step() -> None:
        w.data = w.data + 1

    seen = []
    for _ in range(4):
        step()
        seen.append(w.data)
    assert [t.numpy().tolist() for t in seen] == [[2.0, 3.0], [3.0, 4.0], [4.0, 5.0], [5.0, 6.0]]


@pytest.mark.parametrize("calls", [0, 1, 3])
def test_a_label_out_of_range_is_an_error_and_changes_nothing(calls: int, cuda: Device) -> None:
    """In a step that is issued for the first time, for the second, and replayed."""
    model, opt, step = model_on(cuda)
    batch = batch_on(cuda)
    for _ in range(calls):
        step(*batch)
    before = [t.numpy() for t in ndl.tree.flatten((model.state_dict(), opt.state_dict()))[0] if isinstance(t, ndl.Tensor)]
    with pytest.raises(BoundsError, match=r"cross_entropy.*: a label is out of bounds for 5 classes") as caught:
        step(batch[0], ndl.Tensor([7] * 8, device=cuda))
    assert "test_steps.py" in str(caught.value)
    after = [t.numpy() for t in ndl.tree.flatten((model.state_dict(), opt.state_dict()))[0] if isinstance(t, ndl.Tensor)]
    assert len(before) == len(after)
    if calls:  # the optimizer has made its moments
        for x, y in zip(before, after, strict=True):
            np.testing.assert_array_equal(x, y)
    assert math.isfinite(step(*batch).item())


def test_an_index_out_of_range_is_an_error_in_eager_calls(cuda: Device) -> None:
    x = ndl.Tensor([1.0, 2.0, 3.0], device=cuda)
    with pytest.raises(BoundsError, match="take: an index is out of bounds for axis 0 with size 3"):
        ndl.take(x, ndl.Tensor([5], device=cuda), axis=0)
    assert ndl.take(x, ndl.Tensor([-1], device=cuda), axis=0).numpy().tolist() == [3.0]


def test_a_step_that_needs_too_much_memory_names_its_largest_values(cuda: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = driver_of(cuda)
    original = driver.allocate

    def scarce(nbytes: int) -> Any:
        if nbytes > 2**20:
            raise KernelError("out of memory on a small device")
        return original(nbytes)

    monkeypatch.setattr(driver, "allocate", scarce)
    x = ndl.Tensor(np.ones((600, 600), np.float32), device="numpy")
    monkeypatch.undo()
    x = x.to(cuda)
    monkeypatch.setattr(driver, "allocate", scarce)
    with pytest.raises(KernelError) as caught:
        ndl.compile(lambda x: (x @ x).sum())(x)
    text = str(caught.value)
    assert "out of memory on a small device: a step needs 1.4 MiB" in text
    assert "1.4 MiB: float32[600, 600] on cuda:0, of matmul" in text


def test_a_profile_has_the_time_of_every_node(cuda: Device) -> None:
    step = ndl.compile(lambda x: (ndl.exp(x) @ x).sum())
    step(ndl.Tensor(np.ones((4, 4), np.float32), device=cuda))
    lines = step.report(profile=True)
    assert all(name in lines for name in ("exp", "matmul", "sum"))
