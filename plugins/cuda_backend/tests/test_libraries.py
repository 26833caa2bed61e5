"""What is missing on a machine is one clear error, when a device is asked for and not before."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from needle_core.errors import DeviceUnavailableError
from needle_cuda_backend import libraries


def run(program: str, **environment: str) -> str:
    """What a Python program prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", **environment},
    )
    return done.stdout + done.stderr


def test_importing_it_imports_nothing_of_cuda() -> None:
    program = """
import sys, needle_cuda_backend
from needle_cuda_backend.backend import CudaBackend
print([name for name in sys.modules if name.partition(".")[0] in ("cuda", "cudnn")])
"""
    assert run(program) == "[]\n"


def without(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # importing it is an ImportError


@pytest.mark.parametrize(
    ("module", "package"), [("cuda.core", "cuda-core"), ("cuda.bindings", "cuda-bindings"), ("cudnn", "nvidia-cudnn-frontend")]
)
def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    module: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, module)
    with pytest.raises(DeviceUnavailableError, match=f"the package {package} is missing") as caught:
        libraries.require_python_packages()
    assert caught.value.hint == "pip install 'needle-cuda-backend[cuda13]'"


def refuse(*_: Any, **__: Any) -> None:
    raise OSError("libcuda.so.1: cannot open shared object file")


def test_a_missing_driver_is_told_from_all_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", refuse)
    with pytest.raises(DeviceUnavailableError, match=r"NVIDIA's driver is not installed: there is no libcuda\.so\.1") as caught:
        libraries.require_driver()
    assert "NEEDLE_CUDA_SIMULATED=1" in (caught.value.hint or "")


def with_devices(monkeypatch: pytest.MonkeyPatch, devices: Any) -> None:
    import cuda.core

    monkeypatch.setattr(cuda.core, "Device", SimpleNamespace(get_all_devices=devices))


def test_an_old_driver_is_told_with_what_cuda_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def old() -> None:
        raise RuntimeError("CUDA_ERROR_SYSTEM_DRIVER_MISMATCH: the driver is older than the library")

    with_devices(monkeypatch, old)
    with pytest.raises(DeviceUnavailableError, match="the driver cannot be used: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH") as caught:
        libraries.device_count()
    assert "CUDA 13" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("visible", "why"), [(None, "no device: there is no GPU"), ("", "no device: CUDA_VISIBLE_DEVICES is '', which hides all")]
)
def test_no_device_and_hidden_devices_are_told_apart(visible: str | None, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_devices(monkeypatch, list)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(DeviceUnavailableError, match=why):
        libraries.device_count()


def test_an_old_architecture_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with_devices(monkeypatch, lambda: [SimpleNamespace(name="Tesla V100", compute_capability=(7, 0))])
    with pytest.raises(DeviceUnavailableError, match=r"Tesla V100 has compute capability 7\.0, and 8\.0 is the least"):
        libraries.device_count()


def test_devices_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    with_devices(monkeypatch, lambda: [SimpleNamespace(name="H100", compute_capability=(9, 0))] * 2)
    assert libraries.device_count() == 2


@pytest.mark.parametrize(("find", "package"), [(libraries.cublaslt, "nvidia-cublas"), (libraries.cudnn, "nvidia-cudnn-cu13")])
def test_a_missing_library_is_named_with_its_package(find: Any, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import cuda.pathfinder

    def nothing(name: str) -> None:
        raise RuntimeError(f"Failure finding {name}\nlong lists of folders")

    monkeypatch.setattr(cuda.pathfinder, "load_nvidia_dynamic_lib", nothing)
    with pytest.raises(DeviceUnavailableError, match="cannot be loaded: Failure finding") as caught:
        find()
    assert "long lists" not in str(caught.value)
    assert (caught.value.hint or "").endswith(f"pip install {package}")


PROGRAM = "import needle_core as ndl; print(ndl.ones(2, device='cuda:0') + 1)"


def has_driver() -> bool:
    try:
        libraries.require_driver()
    except DeviceUnavailableError:
        return False
    return True


@pytest.mark.skipif(has_driver(), reason="this machine has a driver")
def test_a_device_without_a_driver_is_one_error_that_says_what_to_do() -> None:
    said = run(PROGRAM)
    assert "backend 'cuda' is installed but cannot be opened: NVIDIA's driver is not installed" in said
    assert "hint: install the driver of the GPU; without one, NEEDLE_CUDA_SIMULATED=1 simulates a device" in said


def test_a_simulated_device_needs_no_driver() -> None:
    assert run(PROGRAM, NEEDLE_CUDA_SIMULATED="1") == "Tensor([2., 2.], float32[2] on cuda:0)\n"


def test_a_simulated_device_without_a_compiler_says_so(tmp_path: Any) -> None:
    said = run(PROGRAM, NEEDLE_CUDA_SIMULATED="1", NEEDLE_CACHE=str(tmp_path), PATH=str(tmp_path))
    assert "the simulated device needs a C++ compiler" in said
    assert "apt-get install g++" in said


def test_the_doctor_asks_for_each_part() -> None:
    assert list(libraries.probes()) == ["packages", "driver", "devices", "nvrtc", "cublaslt", "cudnn"]
    assert libraries.probes()["packages"]().startswith("cuda-core ")
