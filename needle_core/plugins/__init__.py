"""Plugins: how they are found, selected, activated and kept from harming each other.

    hookspecs     what a plugin may implement, and when it is called: the page for plugin authors
    registrar     the object that a plugin talks to in its hooks
    declarations  what a plugin says of itself to those who check it
    metadata      the entry points of installed distributions, read from their files
    manifest      what is installed and promised, known from entry points without importing anything
    environment   what NEEDLE_PLUGINS and NEEDLE_STRICT say
    activation    from an entry point to a staged plugin, phase by phase
    registry      find a backend, op or optimizer by name; report on all plugins

Importing this package imports none of them, because pluggy takes 10 milliseconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from needle_core.plugins.hookspecs import hookimpl
    from needle_core.plugins.registrar import Registrar

__all__ = ["Registrar", "hookimpl"]

_HOMES = {"hookimpl": "hookspecs", "Registrar": "registrar"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
