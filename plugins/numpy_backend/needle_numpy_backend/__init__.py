"""NumPy as a backend of Needle: the reference, the embedded default, and an example of how little a backend needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from needle_core.plugins import hookimpl

if TYPE_CHECKING:
    from needle_core.plugins.registrar import Registrar

needle_api = 1


@hookimpl
def needle_register_backends(registrar: Registrar) -> None:
    from needle_numpy_backend.backend import NumpyBackend

    registrar.backend(NumpyBackend)
