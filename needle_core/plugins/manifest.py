"""What is installed and what it promises: the entry points of all distributions, read without importing any of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import Distribution, EntryPoint, distributions
from importlib.util import find_spec
from typing import Final, Literal, TypeAlias

from needle_core.plugins.environment import Selection

Group: TypeAlias = Literal["backends", "ops", "kernels", "optimizers"]

GROUPS: Final[tuple[Group, ...]] = ("backends", "ops", "kernels", "optimizers")
_UNNAMED: Final = "unnamed"
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
        return self.unreadable is None and find_spec(self.package) is None

    def load(self) -> object:
        """Import the module, and give it or the object in it."""
        return EntryPoint("", self.value, "").load()

    def kernels_for(self, backend: str) -> set[str]:
        """The ops for which the plugin promises kernels on `backend`; "" stands for an entry that names no op."""
        entries = (name.partition(".") for name in self.offers.get("kernels", ()))
        return {op for name, _, op in entries if name == backend}


class Manifest:
    """The installed plugins in a fixed order, and which of them NEEDLE_PLUGINS selects."""

    def __init__(self) -> None:
        self.selection = Selection()
        self.plugins = sorted(_installed(), key=lambda p: (canonical(p.distribution), p.value))
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


def _installed() -> Iterable[Plugin]:
    """The plugins of every distribution; of two with one name, the first on sys.path counts, as it does for import."""
    seen = set()
    for distribution in distributions():
        name, version, site = _UNNAMED, "?", str(distribution.locate_file(""))
        try:
            text = distribution.read_text("entry_points.txt") or ""
            if "[needle_core." not in text:  # nearly all distributions; parsing them all would take longer than this
                continue
            name, version = _identity(distribution)
            key = canonical(name) if name != _UNNAMED else f"{site}\n{text}"
            if key not in seen:
                seen.add(key)
                yield from _plugins(name, version, site, distribution.entry_points)
        except Exception as cause:  # whatever stands in that file, the other plugins work
            yield Plugin(name, version, site, "", {}, cause)


def _plugins(name: str, version: str, site: str, entries: Iterable[EntryPoint]) -> Iterable[Plugin]:
    values: dict[str, dict[str, list[str]]] = {}
    for entry in entries:
        prefix, _, group = entry.group.partition(".")
        if prefix == "needle_core" and group in GROUPS:
            values.setdefault(entry.value, {}).setdefault(group, []).append(entry.name)
    for value, offers in values.items():
        wrong = (
            None if _VALUE.fullmatch(value) else ValueError(f"an entry point's value {value!r} is not MODULE or MODULE:OBJECT")
        )
        yield Plugin(name, version, site, value, {g: sorted(set(offers[g])) for g in GROUPS if g in offers}, wrong)


def _identity(distribution: Distribution) -> tuple[str, str]:
    """Name and version, as far as a half removed distribution still has them.

    `distribution.metadata` would parse the whole file as an e-mail, 0.5 ms each.
    """
    text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    fields = dict(re.findall(r"^(Name|Version): *(\S+)", text.partition("\n\n")[0], re.MULTILINE))
    return fields.get("Name", _UNNAMED), fields.get("Version", "?")


def canonical(distribution: str) -> str:
    """The normalised name of a distribution: lower case, with single hyphens."""
    return re.sub(r"[-_.]+", "-", distribution).lower()
