"""The entry points of installed distributions, read from their files.

importlib.metadata takes 20 ms to import, which is more than all of this, so it is asked only where metadata is not in plain
folders: in zip files, and for importers of other kinds.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from importlib.metadata import Distribution

UNNAMED: Final = "unnamed"
"""The name of a distribution that has lost its metadata, but not its entry points."""

Read: TypeAlias = Callable[[str], bytes | None]


@dataclass(frozen=True)
class Installed:
    """A distribution with entry points for Needle, as (group, name, value); `problem` says why they could not be read."""

    name: str
    version: str
    site: str
    read: Read
    """What reads its files of metadata."""
    entry_points: tuple[tuple[str, str, str], ...] = ()
    problem: Exception | None = None

    def has_files(self) -> bool:
        """Whether a file that was installed is there, besides the metadata."""
        lines = (self.read("RECORD") or b"").decode("utf-8", "replace").splitlines()
        paths = [line.split(",")[0].strip('"') for line in lines]
        return any(os.path.exists(os.path.join(self.site, path)) for path in paths if path and ".dist-info/" not in path)


def installed() -> Iterator[Installed]:
    """The distributions with entry points for Needle, in the order of sys.path; of two with one name, the first."""
    seen = set()
    for site, read in _everywhere():
        text = read("entry_points.txt") or b""
        if b"[needle_core." not in text:  # nearly all distributions
            continue
        name, version = _identity(read)
        key = canonical(name) if name != UNNAMED else (site, text)
        if key in seen:
            continue
        seen.add(key)
        try:
            yield Installed(name, version, site, read, tuple(_entries(text.decode("utf-8"))))
        except ValueError as problem:
            yield Installed(name, version, site, read, problem=problem)


def groups_of(name: str) -> dict[str, list[str]]:
    """The groups of all entry points of the distributions called `name`, or needle-NAME, or needle-NAME-backend."""
    wanted = {canonical(name), f"needle-{canonical(name)}", f"needle-{canonical(name)}-backend"}
    found: dict[str, list[str]] = {}
    for _, read in _everywhere():
        distribution = _identity(read)[0]
        if canonical(distribution) in wanted:
            text = (read("entry_points.txt") or b"").decode("utf-8", "replace")
            found.setdefault(distribution, re.findall(r"^\s*\[\s*(.+?)\s*\]", text, re.MULTILINE))
    return found


def canonical(name: str) -> str:
    """The normalised name of a distribution: lower case, with single hyphens."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _everywhere() -> Iterator[tuple[str, Read]]:
    """Where each distribution is installed, and what reads its files of metadata."""
    for place in sys.path:
        folder = place or os.curdir
        try:
            names = sorted(os.listdir(folder))
        except NotADirectoryError:
            from importlib.metadata import distributions

            yield from _foreign(distributions(path=[place]))
            continue
        except OSError:  # as for import, an entry that does not exist or cannot be read says nothing
            continue
        endings = (".dist-info", ".egg-info", "egg-info") if folder.lower().endswith(".egg") else (".dist-info", ".egg-info")
        for name in names:
            if name.lower().endswith(endings):
                yield folder, _reader(os.path.join(folder, name))
    for finder in sys.meta_path:
        if finder is not PathFinder and hasattr(finder, "find_distributions"):
            from importlib.metadata import DistributionFinder

            yield from _foreign(finder.find_distributions(DistributionFinder.Context()))


def _reader(info: str) -> Read:
    """What reads files of the folder `info`; None stands for a file that is not there or may not be read."""

    def read(name: str) -> bytes | None:
        try:
            with open(os.path.join(info, name), "rb") as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError):
            return None

    return read


def _foreign(distributions: Iterable[Distribution]) -> Iterator[tuple[str, Read]]:
    """The same for distributions that importlib.metadata knows how to read."""
    for distribution in distributions:

        def read(name: str, distribution: Distribution = distribution) -> bytes | None:
            return (distribution.read_text(name) or "").encode()

        yield str(distribution.locate_file("")), read


def _identity(read: Read) -> tuple[str, str]:
    """Name and version, as far as a half removed distribution still has them."""
    text = (read("METADATA") or read("PKG-INFO") or b"").decode("utf-8", "replace")
    head = re.split(r"\r?\n\r?\n", text, maxsplit=1)[0]
    fields = dict(re.findall(r"^(Name|Version): *(\S+)", head, re.MULTILINE))
    return fields.get("Name", UNNAMED), fields.get("Version", "?")


def _entries(text: str) -> Iterator[tuple[str, str, str]]:
    """The groups, names and values of a file entry_points.txt."""
    group = ""
    for line in map(str.strip, text.splitlines()):
        name, equals, value = line.partition("=")
        if line.startswith("[") and line.endswith("]"):
            group = line[1:-1].strip()
        elif line and not line.startswith(("#", ";")):
            if not equals:
                raise ValueError(f"{line!r} in entry_points.txt is no entry point")
            yield group, name.strip(), value.strip()
