"""What the environment says about plugins, read strictly: a value that is not understood is an error, never a default.

    NEEDLE_PLUGINS=auto          every installed plugin (the default)
    NEEDLE_PLUGINS=none          no plugin
    NEEDLE_PLUGINS=numpy,Adam    only the plugins that offer these names
    NEEDLE_PLUGINS=-cuda         every plugin but this
    NEEDLE_STRICT=1              load all of them at the first need, and raise what is wrong with any

A name is that of an entry point or of a distribution; it always selects a plugin as a whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from needle_core.errors import ArgumentError, PluginError

if TYPE_CHECKING:
    from needle_core.plugins.manifest import Plugin

_TRUTH = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def flag(name: str) -> bool:
    """The boolean environment variable `name`; False if it is unset or empty."""
    text = os.environ.get(name, "").strip()
    if not text:
        return False
    try:
        return _TRUTH[text.lower()]
    except KeyError:
        raise ArgumentError(f"{name}={text} is neither true nor false", hint=f"{name}=1 or {name}=0") from None


def choice(name: str, values: Sequence[str]) -> str:
    """The environment variable `name`, which is one of `values`; the first of them if it is unset or empty."""
    text = os.environ.get(name, "").strip() or values[0]
    if text not in values:
        raise ArgumentError(f"{name}={text} is none of {', '.join(values)}", hint=f"{name}={values[0]} is the default")
    return text


def cache_folder(purpose: str) -> Path:
    """The folder for what can be made again: in $NEEDLE_CACHE, else in $XDG_CACHE_HOME/needle, else in ~/.cache/needle."""
    if own := os.environ.get("NEEDLE_CACHE"):
        return Path(own).expanduser() / purpose
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "needle" / purpose


class Selection:
    """What NEEDLE_PLUGINS selects; `setting` is its text."""

    def __init__(self) -> None:
        self.setting = os.environ.get("NEEDLE_PLUGINS", "").strip() or "auto"
        items = [] if self.setting in ("auto", "none") else [item.strip() for item in self.setting.split(",")]
        self._without = [item[1:].strip() for item in items if item.startswith("-")]
        self._only = [item for item in items if not item.startswith("-")]

    def check(self, plugins: Iterable[Plugin]) -> None:
        """Raise PluginError if a listed name is that of none of the installed `plugins`."""
        plugins = list(plugins)
        for item in self._only + self._without:
            if not any(plugin.answers_to(item) for plugin in plugins):
                known = {p.distribution for p in plugins} | {name for p in plugins for name in p.names}
                raise PluginError(
                    f"NEEDLE_PLUGINS={self.setting}: no installed plugin is called {item!r}",
                    details={"known": ", ".join(sorted(known)) or "none"},
                    hint=f"commas separate names: NEEDLE_PLUGINS={','.join(item.split())}" if len(item.split()) > 1 else None,
                )

    def takes(self, plugin: Plugin) -> bool:
        """Whether `plugin` may be loaded."""
        wanted = not self._only or any(map(plugin.answers_to, self._only))
        return self.setting != "none" and wanted and not any(map(plugin.answers_to, self._without))
