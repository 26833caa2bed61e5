"""What all modules of a process share and a plugin must leave as it was: looked at before and after, and compared."""

from __future__ import annotations

import gc
import locale
import os
import pickle
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any, Final, TypeAlias

import numpy as np

Look: TypeAlias = dict[str, dict[str, object]]
"""What -> (name of a part -> value). A text may be shown; of others only whether it is the same is known."""

_LOOKS: Final[Mapping[str, Callable[[], dict[str, object]]]] = {
    "sys.path": lambda: dict.fromkeys(sys.path),
    "sys.meta_path": lambda: {getattr(finder, "__name__", type(finder).__name__): None for finder in sys.meta_path},
    "warnings.filters": lambda: dict.fromkeys(map(str, warnings.filters)),
    "the environment variables": lambda: {name: hash(value) for name, value in os.environ.items()},  # they may be secret
    "NumPy's error settings": lambda: dict(np.geterr()),
    "NumPy's print options": lambda: {name: str(value) for name, value in np.get_printoptions().items()},
    "NumPy's random state": lambda: {"it": hash(pickle.dumps(np.random.get_state()))},
    "Python's random state": lambda: {"it": hash(random.getstate())},
    "the signal handlers": lambda: {n.name: signal.getsignal(n) for n in signal.Signals},
    "the locale": lambda: {"it": locale.setlocale(locale.LC_ALL)},
    "the working folder": lambda: {"it": os.getcwd()},
    "the threads": lambda: dict.fromkeys(thread.name for thread in threading.enumerate()),
    "the interpreter": lambda: {
        "sys.excepthook": sys.excepthook,
        "sys.stdout": sys.stdout,
        "sys.stderr": sys.stderr,
        "the recursion limit": sys.getrecursionlimit(),
        "garbage collection": str(gc.isenabled()),
    },
}

_FUNCTIONS: Final = "functions of other packages"


class SharedState:
    """What is shared by the modules that are loaded when this is made: they belong to others than the plugin."""

    def __init__(self) -> None:
        self._modules: dict[str, ModuleType] = dict(sys.modules)

    def look(self) -> Look:
        """What there is to see now."""
        shared = {what: look() for what, look in _LOOKS.items()}
        shared["the loaded modules"] = {name: sys.modules.get(name) for name in self._modules}
        shared[_FUNCTIONS] = {
            f"{module}.{name}": value
            for module, content in self._modules.items()
            for name, value in list(getattr(content, "__dict__", {}).items())
            if callable(value)
        }
        return shared


def changes(before: Look, after: Look) -> Iterator[str]:
    """What differs, a line each."""
    for what, old in before.items():
        new = after[what]
        names = list(old) if what == _FUNCTIONS else list(old | new)  # modules get new names when parts of them are imported
        for name in names:
            if change := _change(name, old, new):
                yield f"{what}: {change}" if name != "it" else f"{what} {change.removeprefix('it ')}"


def _change(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    if name not in old:
        return f"{name} was added"
    if name not in new:
        return f"{name} was removed"
    was, now = old[name], new[name]
    if was is now or (isinstance(was, str | int) and was == now):
        return None
    if isinstance(was, str) and isinstance(now, str):
        return f"{name} was changed from {was} to {now}"
    return f"{name} was replaced" if not isinstance(was, int) else f"{name} was changed"
