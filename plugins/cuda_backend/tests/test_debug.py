"""Looking into steps: the kernel at fault is named, with its source; all that was made of a step is written down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import needle_core as ndl
from needle_core.errors import ArgumentError, KernelError
from needle_core.spec import Device
from needle_cuda_backend import debug
from needle_cuda_backend.backend import driver_of


@pytest.fixture
def program(cuda: Device) -> Any:
    """A compiled function of a vector, and an argument."""
    return ndl.compile(lambda x: (ndl.exp(x) + 1).sum()), ndl.Tensor([1.0, 2.0, 3.0], device=cuda)


def test_a_fault_names_node_kernel_and_source(program: Any, cuda: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEEDLE_CUDA_DEBUG", "1")
    function, x = program
    function(x)
    driver = driver_of(cuda)

    def faulty(*_: Any) -> None:
        raise RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS")

    monkeypatch.setattr(driver, "synchronize", faulty)
    with pytest.raises(KernelError) as caught:
        function(x)
    text = str(caught.value)
    assert "fused: CUDA_ERROR_ILLEGAL_ADDRESS" in text
    assert "rows_exp_add_sum_" in text
    assert "do_exp(r" in text
    assert "test_debug.py" in text


def test_a_write_beside_memory_is_found_at_its_kernel(program: Any, cuda: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the simulated device, whose memory lies between guards."""
    monkeypatch.setenv("NEEDLE_CUDA_DEBUG", "1")
    function, x = program
    driver = driver_of(cuda)
    launch = driver.launch

    def beyond(*arguments: Any) -> None:
        launch(*arguments)
        driver.copy(x.buffer.address + x.buffer.nbytes, x.buffer.address, 4)

    monkeypatch.setattr(driver, "launch", beyond)
    with pytest.raises(KernelError, match="fused: a kernel wrote beside the 12 bytes"):
        function(x)
    guard = next(g for g in driver._live if g.address == x.buffer.address)
    guard.words[guard.address - guard.words.ctypes.data + 12 :] = 0xF5


def test_everything_that_was_made_of_a_step_is_written_down(
    program: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEEDLE_CUDA_DUMP", str(tmp_path / "dump"))
    function, x = program
    function(x)
    (folder,) = (tmp_path / "dump").iterdir()
    assert sorted(f.name for f in folder.iterdir()) == [
        "graph.dot", "graph.txt", "kernels.cu", "kernels.cubin", "operations.txt", "plan.txt",
    ]  # fmt: skip
    assert "do_exp" in (folder / "kernels.cu").read_text()
    assert (folder / "kernels.cubin").read_bytes()[:4] == b"\x7fELF"
    assert "fused: float32[] on cuda:0 at output 0" in (folder / "plan.txt").read_text()
    assert "rows_exp_add_sum_" in (folder / "operations.txt").read_text()


def test_a_setting_that_is_not_understood_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEEDLE_CUDA_DEBUG", "perhaps")
    with pytest.raises(ArgumentError, match="NEEDLE_CUDA_DEBUG=perhaps"):
        debug.is_on()
