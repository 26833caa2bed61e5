"""The C++ backend of Needle: native kernels, and whole plans as one native call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from needle_core.plugins import hookimpl

if TYPE_CHECKING:
    from needle_core.plugins.registrar import Registrar

needle_api = 1


@hookimpl
def needle_register_backends(registrar: Registrar) -> None:
    from needle_cpp_backend.backend import CppBackend

    registrar.backend(CppBackend)
