"""What of CUDA is installed: found, loaded, and, where it is missing, told with what to do."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from typing import Any, Final

from needle_core.errors import DeviceUnavailableError
from needle_core.plugins.environment import flag

EXTRA: Final = "pip install 'needle-cuda-backend[cuda13]'"
OLDEST: Final = (8, 0)
"""Compute capability: Ampere, the first with bfloat16."""


def simulated() -> bool:
    """Whether the device is to be simulated on the host."""
    return flag("NEEDLE_CUDA_SIMULATED")


def require_python_packages() -> None:
    """Raise if a Python package is missing that devices need."""
    for module, package in (("cuda.bindings", "cuda-bindings"), ("cuda.core", "cuda-core"), ("cudnn", "nvidia-cudnn-frontend")):
        try:
            import_module(module)
        except ImportError as cause:
            raise DeviceUnavailableError(f"the package {package} is missing: {cause}", hint=EXTRA) from cause


def require_driver() -> None:
    """Raise if NVIDIA's driver is missing. It is looked for by itself, as the errors of CUDA do not tell it from an old one."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError as cause:
        raise DeviceUnavailableError(
            "NVIDIA's driver is not installed: there is no libcuda.so.1",
            hint="install the driver of the GPU; without one, NEEDLE_CUDA_SIMULATED=1 simulates a device",
        ) from cause


def device_count() -> int:
    """The number of devices that this process sees. Raises if there is none, or the driver is too old."""
    from cuda.core import Device

    try:
        devices = Device.get_all_devices()
    except Exception as cause:
        raise DeviceUnavailableError(
            f"the driver cannot be used: {cause}",
            hint=f"it must be that of CUDA {version('cuda-bindings').split('.')[0]} or newer",
        ) from cause
    if not devices:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        why = "there is no GPU" if hidden is None else f"CUDA_VISIBLE_DEVICES is {hidden!r}, which hides all"
        raise DeviceUnavailableError(f"no device: {why}", hint="nvidia-smi lists the devices of this machine")
    for device in devices:
        if tuple(device.compute_capability) < OLDEST:
            major, minor = device.compute_capability
            raise DeviceUnavailableError(
                f"{device.name} has compute capability {major}.{minor}, and {OLDEST[0]}.{OLDEST[1]} is the least"
            )
    return len(devices)


def cublaslt() -> Any:
    """cuBLASLt."""
    from needle_cuda_backend.cublaslt import CublasLt

    return CublasLt(_library("cublasLt", "nvidia-cublas"))


def cudnn() -> Any:
    """cuDNN, through its frontend."""
    from needle_cuda_backend.cudnn import Cudnn

    _library("cudnn", "nvidia-cudnn-cu13")
    return Cudnn(import_module("cudnn"))


def require_compiler() -> None:
    """Raise if NVRTC is missing, which compiles the kernels."""
    _library("nvrtc", "nvidia-cuda-nvrtc")


def _library(name: str, package: str) -> ctypes.CDLL:
    from cuda.pathfinder import load_nvidia_dynamic_lib

    try:
        found = load_nvidia_dynamic_lib(name)
    except Exception as cause:
        why = str(cause).partition("\n")[0]
        raise DeviceUnavailableError(
            f"the library {name} of CUDA cannot be loaded: {why}", hint=f"{EXTRA}, or pip install {package}"
        ) from cause
    if found.abs_path is None:
        raise DeviceUnavailableError(f"the library {name} of CUDA has no path", hint=EXTRA)
    return ctypes.CDLL(found.abs_path)


def probes() -> dict[str, Callable[[], str]]:
    """What `needle doctor` asks, in the order in which it is needed; each gives a line, or raises."""

    def packages() -> str:
        require_python_packages()
        return f"cuda-core {version('cuda-core')}, nvidia-cudnn-frontend {version('nvidia-cudnn-frontend')}"

    def driver() -> str:
        require_driver()
        return "there is a driver"

    def devices() -> str:
        require_driver()
        return f"{device_count()} devices"

    def library(name: str, package: str) -> Callable[[], str]:
        def probe() -> str:
            _library(name, package)
            return f"{name} is found"

        return probe

    return {
        "packages": packages,
        "driver": driver,
        "devices": devices,
        "nvrtc": library("nvrtc", "nvidia-cuda-nvrtc"),
        "cublaslt": library("cublasLt", "nvidia-cublas"),
        "cudnn": library("cudnn", "nvidia-cudnn-cu13"),
    }
