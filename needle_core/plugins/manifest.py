"""What is installed and what it promises: the entry points of all distributions, read without importing any of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from itertools import chain
from operator import attrgetter
from typing import Final, Literal, TypeAlias

from needle_core.errors import PluginError
from needle_core.plugins.environment import Selection
from needle_core.plugins.metadata import Installed, canonical, installed

Group: TypeAlias = Literal["backends", "ops", "kernels", "optimizers"]

GROUPS: Final[tuple[Group, ...]] = ("backends", "ops", "kernels", "optimizers")
_VALUE: Final = re.compile(r"\w+(\.\w+)*(\s*:\s*\w+(\.\w+)*)?")


@dataclass(frozen=True, eq=False)
class Plugin:
    """One module or object that entry points of one distribution name; `offers` are the names that they promise, by group."""

    distribution: str
    version: str
    site: str
    """Where the distribution is installed."""
    value: str
    """`MODULE` or `MODULE:OBJECT`, as the entry points have it."""
    offers: dict[str, list[str]]
    unreadable: Exception | None = None
    """What is wrong with the entry points."""
    has_files: Callable[[], bool] = lambda: False
    """Whether anything of the distribution is there but its metadata."""

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"

    @cached_property
    def names(self) -> frozenset[str]:
        """All names that are promised, of whatever group."""
        return frozenset(name for names in self.offers.values() for name in names)

    def answers_to(self, name: str) -> bool:
        """Whether `name` is that of an entry point or of the distribution, which may go without `needle-` and `-backend`.

        As for pip, upper and lower case are the same, and so are - and _.
        """
        full = canonical(self.distribution)
        short = full.removeprefix("needle-")
        known = {full, short, *map(canonical, self.names)}
        if "backends" in self.offers:
            known.add(short.removesuffix("-backend"))
        return canonical(name) in known

    @property
    def package(self) -> str:
        """The top-level package of the module."""
        return self.value.partition(":")[0].partition(".")[0].strip()

    @property
    def is_left_over(self) -> bool:
        """Whether the package is gone although the metadata is there; looked up without importing it."""
        return self.unreadable is None and find_spec(self.package) is None and not self.has_files()

    @property
    def place(self) -> str:
        """The value, and the file of its package, or where the distribution is installed if there is no such file."""
        spec = find_spec(self.package) if self.unreadable is None else None
        return f"{self.value} in {spec.origin if spec and spec.has_location else self.site}"

    @property
    def may_have_kernels(self) -> bool:
        """Whether the plugin is one to bring kernels for the backends of others."""
        return not self.offers.keys().isdisjoint(("ops", "kernels"))

    def is_named_by(self, cause: BaseException) -> bool:
        """Whether `cause` says that the module of the entry point is missing, and not one that it imports."""
        missing = cause.name if isinstance(cause, ModuleNotFoundError) else None
        return missing is not None and f"{self.value.partition(':')[0].strip()}.".startswith(f"{missing}.")

    def load(self) -> object:
        """Import the module, and give it or the object in it. Raises PluginError if the entry point names the wrong one."""
        name, _, path = map(str.strip, self.value.partition(":"))
        try:
            module = import_module(name)
        except ModuleNotFoundError as cause:
            if not self.is_named_by(cause) or not self.has_files():
                raise
            raise PluginError(f"the entry point names the module {cause.name}, which does not exist") from cause
        target: object = attrgetter(path)(module) if path else module
        if path and hasattr(module, "needle_api") and not hasattr(target, "needle_api"):
            hint = f"the entry point names what has needle_api and the hooks: {name}"
            raise PluginError(f"the entry point names {path} in {name}, which has no needle_api", hint=hint)
        return target

    def kernels_for(self, backend: str) -> set[str]:
        """The ops for which the plugin promises kernels on `backend`; "" stands for an entry that names no op."""
        entries = (name.partition(".") for name in self.offers.get("kernels", ()))
        return {op for name, _, op in entries if name == backend}


class Manifest:
    """The installed plugins in a fixed order, and which of them NEEDLE_PLUGINS selects."""

    def __init__(self) -> None:
        self.selection = Selection()
        found = chain.from_iterable(map(_plugins, installed()))
        self.plugins = sorted(found, key=lambda p: (canonical(p.distribution), p.value))
        self.selection.check(self.plugins)
        self.selected = [p for p in self.plugins if self.selection.takes(p)]

    def claimants(self, group: Group, name: str) -> list[Plugin]:
        """The selected plugins that promise `name`; more than one is a conflict."""
        return [p for p in self.selected if name in p.offers.get(group, ())]

    def names(self, group: Group) -> list[str]:
        """All names that selected plugins promise, sorted."""
        return sorted({name for p in self.selected for name in p.offers.get(group, ())})

    def conflicts(self) -> Iterator[tuple[Group, str]]:
        """The names that more than one selected plugin promises."""
        return ((group, name) for group in GROUPS for name in self.names(group) if len(self.claimants(group, name)) > 1)


def _plugins(installed: Installed) -> Iterator[Plugin]:
    """The plugins of a distribution, one for each module or object that its entry points name."""
    known = (installed.name, installed.version, installed.site)
    if installed.problem is not None:
        yield Plugin(*known, "", {}, installed.problem)
    values: dict[str, dict[str, set[str]]] = {}
    for section, name, value in installed.entry_points:
        prefix, _, group = section.partition(".")
        if prefix == "needle_core" and group in GROUPS:
            values.setdefault(value, {}).setdefault(group, set()).add(name)
    for value, offers in values.items():
        wrong = None
        if not _VALUE.fullmatch(value):
            wrong = ValueError(f"an entry point's value {value!r} is not MODULE or MODULE:OBJECT")
        yield Plugin(
            *known, value, {group: sorted(offers[group]) for group in GROUPS if group in offers}, wrong, installed.has_files
        )
