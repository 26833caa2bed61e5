"""The CUDA backend of Needle: kernels for NVIDIA's GPUs, and whole training steps as one graph.

Importing it needs neither a GPU nor CUDA; opening a device says what is missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from needle_core.plugins import hookimpl

if TYPE_CHECKING:
    from needle_core.plugins.registrar import Registrar

needle_api = 1


@hookimpl
def needle_register_backends(registrar: Registrar) -> None:
    from needle_cuda_backend.backend import CudaBackend

    registrar.backend(CudaBackend)


@hookimpl
def needle_doctor(registrar: Registrar) -> None:
    from needle_cuda_backend import libraries

    for name, probe in libraries.probes().items():
        registrar.probe(name, probe)
