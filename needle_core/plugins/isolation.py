"""What keeps the code of a plugin from changing the process around it while it is activated or its backend opens."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, TextIO

from needle_core.plugins.manifest import Plugin


@contextmanager
def isolated(plugin: Plugin) -> Iterator[None]:
    """Run code of `plugin`: what it prints goes to standard error under its name, and it cannot change warning filters.

    What it puts on sys.path goes behind what was there, so that it hides nobody's modules. If it fails, sys.path, the
    environment and its own modules in sys.modules are as before.
    """
    path, entries = sys.path, list(sys.path)
    modules, environment = set(sys.modules), dict(os.environ)
    out = _Attributed(str(plugin), sys.stdout)
    try:
        with warnings.catch_warnings(), redirect_stdout(out):
            yield
        entries += [entry for entry in sys.path if entry not in entries]
    except BaseException:
        for name in set(sys.modules) - modules:
            if name.partition(".")[0] == plugin.package:
                del sys.modules[name]
        for name in set(os.environ) - set(environment):
            del os.environ[name]
        os.environ.update({name: value for name, value in environment.items() if os.environ.get(name) != value})
        raise
    finally:
        out.close()
        sys.path = path
        path[:] = entries


class _Attributed:
    """Standard output for one thread: whole lines go to standard error under a name. Other threads, and all when it is closed,
    write to `out` as before.
    """

    def __init__(self, name: str, out: TextIO) -> None:
        self._name, self._out, self._line = name, out, ""
        self._thread: int | None = threading.get_ident()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._out, name)

    def write(self, text: str) -> int:
        if threading.get_ident() != self._thread:
            return self._out.write(text)
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            sys.stderr.write(f"{self._name}: {line}\n")
        return len(text)

    def close(self) -> None:
        """Write what is left of a line, and attribute nothing from now on."""
        if self._line:
            self.write("\n")
        self._thread = None
