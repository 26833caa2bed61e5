"""What is known without importing a plugin: Python and versions, NEEDLE_ variables, metadata that is there twice."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from importlib.metadata import distributions, version
from typing import Final

from needle_core.diagnosis.examination import Finding
from needle_core.errors import NeedleError
from needle_core.fallback import POLICIES
from needle_core.plugins.environment import choice, flag
from needle_core.plugins.metadata import canonical

VARIABLES: Final = {
    "NEEDLE_CACHE": "the folder where results of conformance runs and compiled kernels are kept",
    "NEEDLE_CUDA_DEBUG": "1: wait after each kernel of a step on cuda, and name the one at fault",
    "NEEDLE_CUDA_DUMP": "the folder where sources, machine code and plans of steps on cuda are written",
    "NEEDLE_CUDA_SIMULATED": "1: cuda:0 is a device that the host simulates",
    "NEEDLE_DATA": "the folder of the files of Fashion-MNIST and CIFAR-10",
    "NEEDLE_DEVICE": "the default device",
    "NEEDLE_FALLBACK": "what happens where a backend lacks a kernel: error, warn or allow",
    "NEEDLE_PLUGINS": "which plugins may be loaded",
    "NEEDLE_STRICT": "1: load all plugins at once, and raise what is wrong",
    "NEEDLE_TRACEBACK": "1: errors of the command line with their tracebacks",
}

_CHECKED: Final[dict[str, Callable[[str], object]]] = {
    "NEEDLE_CUDA_DEBUG": flag,
    "NEEDLE_CUDA_SIMULATED": flag,
    "NEEDLE_FALLBACK": lambda name: choice(name, POLICIES),
    "NEEDLE_STRICT": flag,
    "NEEDLE_TRACEBACK": flag,
}
"""Those with a value that may be invalid on its own, and how they are read."""


def facts() -> dict[str, str]:
    """Versions and places."""
    return {
        "needle-core": version("needle-core"),
        "python": f"{platform.python_version()} at {sys.executable}",
        "numpy": version("numpy"),
        "platform": platform.platform(),
    }


def variables() -> dict[str, str]:
    """The variables of Needle that are set."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith("NEEDLE_")}


def wrong_variables() -> Iterator[Finding]:
    """Variables that nobody reads, and values that nobody understands."""
    for name in variables():
        if name not in VARIABLES:
            near = get_close_matches(name, VARIABLES, n=1, cutoff=0.0)[0]
            yield Finding(
                "warning", "environment", f"nobody reads {name}; did you mean {near} ({VARIABLES[near]})?", f"unset {name}"
            )
    for name, read in _CHECKED.items():
        try:
            read(name)
        except NeedleError as error:
            yield Finding("error", "environment", error.summary, f"unset {name}")


def duplicates() -> Iterator[Finding]:
    """Plugins whose metadata is installed more than once."""
    found: dict[str, dict[str, None]] = {}
    for distribution in distributions():
        is_plugin = "[needle_core." in (distribution.read_text("entry_points.txt") or "")
        if is_plugin and distribution.read_text("METADATA"):  # without it, it has no name
            place = f"{distribution.version} in {distribution.locate_file('')}"
            found.setdefault(canonical(distribution.name), {})[place] = None
    for name, places in found.items():
        if len(places) > 1:
            text = f"{name} is installed more than once: {', '.join(sorted(places))}"
            yield Finding("warning", "metadata", text, f"pip uninstall {name}")
