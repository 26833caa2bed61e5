"""The native module for this machine, with the libraries that it needs.

oneDNN comes as the Python package onednn-cpu-gomp. It is loaded from where that package was installed, so that no path has to
be set; the module then finds it among what the process has loaded.
"""

from __future__ import annotations

import ctypes
import platform
from importlib import import_module
from importlib.metadata import PackageNotFoundError, files
from typing import Any

from needle_core.errors import DeviceUnavailableError

LIBRARY = "onednn-cpu-gomp"


def _load_onednn() -> ctypes.CDLL:
    try:
        found = [f for f in files(LIBRARY) or () if f.name.startswith("libdnnl.so.")]
    except PackageNotFoundError:
        raise DeviceUnavailableError("oneDNN is not installed", hint=f"pip install {LIBRARY}") from None
    if not found:
        raise DeviceUnavailableError(f"{LIBRARY} has no libdnnl", hint=f"pip install --force-reinstall {LIBRARY}")
    path = str(min(found, key=lambda f: len(f.name)).locate())
    try:
        return ctypes.CDLL(path, ctypes.RTLD_GLOBAL)
    except OSError as cause:
        raise DeviceUnavailableError(
            f"oneDNN cannot be loaded: {cause}", hint="it needs OpenMP's library: apt-get install libgomp1"
        ) from cause


def _module() -> Any:
    library = _load_onednn()
    level = "native"
    if platform.machine().lower() in ("x86_64", "amd64"):
        library.dnnl_get_effective_cpu_isa.restype = ctypes.c_int
        isa = library.dnnl_get_effective_cpu_isa()
        if isa & _AVX2 != _AVX2:
            raise DeviceUnavailableError("this processor has no AVX2, which the C++ backend is compiled for")
        level = "x86_64_v4" if isa & _AVX512_CORE == _AVX512_CORE else "x86_64_v3"
    try:
        return import_module(f"needle_cpp_backend._{level}")
    except ImportError as cause:
        raise DeviceUnavailableError(
            f"the native module of the C++ backend cannot be loaded: {cause}",
            hint="it is built when the package is installed, with a C++20 compiler: apt-get install g++",
        ) from cause


_AVX2, _AVX512_CORE = 0x7, 0x27  # sets of features, as oneDNN's dnnl_cpu_isa_t counts them

native: Any = _module()
