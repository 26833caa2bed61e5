"""What former runs of the kit showed: the last result for each plugin, version, core, device and mode, one JSON file each.

The files are in the folder `conformance` of $NEEDLE_CACHE, else of $XDG_CACHE_HOME/needle, else of ~/.cache/needle.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import needle_core
from needle_core.backend import device as find_device
from needle_core.errors import DataError, warn
from needle_core.plugins import registry
from needle_core.plugins.environment import cache_folder
from needle_core.testing.report import OUTCOMES, Report, told


@dataclass(frozen=True)
class Evidence:
    """One complete run on one device: for each op, or whatever else was checked, the number of checks by outcome."""

    distribution: str
    version: str
    core: str
    backend: str
    """The distribution and version that the device is of."""
    device: str
    mode: str
    seed: int
    time: str
    """When it began, as in 2026-11-23T18:20:00+00:00: what was changed after that is not proved by it."""
    counts: Mapping[str, Mapping[str, int]]

    @property
    def name(self) -> str:
        """The name of its file."""
        parts = (self.distribution, self.version, self.core, self.device.replace(":", "-"), self.mode)
        return "-".join(parts) + ".json"


def folder() -> Path:
    """Where the files are."""
    return cache_folder("conformance")


def remember(report: Report) -> None:
    """Keep the result of a complete run, one file for each device; parts of a suite, and runs that were stopped, are none."""
    if not report.is_complete:
        return
    suite = report.suite
    began = (datetime.now(UTC) - timedelta(seconds=report.seconds)).isoformat(timespec="seconds")
    for device in suite.devices:
        counts = {subject: told(found) for subject, found in report.by(lambda p: p.subject, device).items()}
        name = find_device(device).backend.name
        backend = next(status for status in registry.report() if name in status.offers.get("backends", ()))
        versions = (suite.version, needle_core.__version__, f"{backend.distribution} {backend.version}")
        _write(Evidence(suite.distribution, *versions, device, suite.mode, suite.seed, began, counts))


def recall() -> list[Evidence]:
    """All that is known, the latest last. A file that cannot be read is warned of, and proves nothing."""
    known = []
    for path in sorted(folder().glob("*.json")):
        try:
            known.append(_read(path))
        except DataError as damaged:
            warn(str(damaged))
    return sorted(known, key=lambda e: e.time)


def _write(evidence: Evidence) -> None:
    """Write a file whole or not at all, whatever happens meanwhile. Raises DataError if that is impossible."""
    place = folder()
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=place, suffix=".part", encoding="utf-8", delete=False) as file:
            try:
                json.dump(asdict(evidence), file, indent=1)
                file.close()
                os.replace(file.name, place / evidence.name)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as cause:
        raise DataError(
            f"{place}: the result cannot be kept: {cause}", hint="NEEDLE_CACHE=FOLDER names another folder"
        ) from cause


def _read(path: Path) -> Evidence:
    try:
        evidence = Evidence(**json.loads(path.read_text(encoding="utf-8")))
        datetime.fromisoformat(evidence.time)
        if not all(type(text) is str for text in (evidence.distribution, evidence.version, evidence.device, evidence.mode)):
            raise ValueError("its names are none")
        if not all(
            set(found) == set(OUTCOMES) and all(type(n) is int for n in found.values()) for found in evidence.counts.values()
        ):
            raise ValueError("its counts are none")
    except (OSError, ValueError, TypeError, AttributeError) as cause:
        raise DataError(
            f"{path} holds no result of a conformance run: {cause}", hint=f"`rm {path}`; the next run writes it anew"
        ) from cause
    return evidence
