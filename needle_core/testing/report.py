"""Running a suite, and what came of it."""

from __future__ import annotations

import shlex
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np

import needle_core
from needle_core.errors import ArgumentError
from needle_core.plugins.declarations import matches
from needle_core.testing.samples import MismatchError
from needle_core.testing.suite import Planned, Suite

Outcome: TypeAlias = Literal["passed", "failed", "expected"]
OUTCOMES: Final[tuple[Outcome, ...]] = ("passed", "failed", "expected")
OURS: Final = tuple(str(Path(str(package.__file__)).parent) for package in (needle_core, np))


@dataclass(frozen=True)
class Result:
    """What came of one check: `text` says what failed, or why a failure was expected."""

    planned: Planned
    outcome: Outcome
    text: str = ""


@dataclass(frozen=True)
class Failures:
    """The failed checks of one kind of one subject on one device, told by the smallest."""

    first: Result
    repeats: Sequence[str]
    """The commands that run them again, one for each, the smallest first."""


@dataclass
class Report:
    """What came of the `chosen` checks of a suite."""

    suite: Suite
    chosen: Sequence[Planned]
    results: list[Result] = field(default_factory=list)
    seconds: float = 0.0
    interrupted: bool = False

    @property
    def counts(self) -> Counter[Outcome]:
        return Counter(r.outcome for r in self.results)

    @property
    def is_complete(self) -> bool:
        """Whether the whole suite ran to its end."""
        return len(self.chosen) == len(self.suite.checks) and not self.interrupted

    @property
    def promised(self) -> int:
        """How many checks there must be."""
        return self.suite.promised.total() if len(self.chosen) == len(self.suite.checks) else len(self.chosen)

    @property
    def ok(self) -> bool:
        """Whether all that was promised ran, and nothing failed that was not expected to."""
        return bool(self.results) and len(self.results) == self.promised and not self.counts["failed"] and not self.interrupted

    def by(self, what: Callable[[Planned], str], device: str | None = None) -> dict[str, Counter[Outcome]]:
        """The counts by a property of the checks, in the order of the suite; with `device`, of those that ran there."""
        found: dict[str, Counter[Outcome]] = {}
        for r in self.results:
            if device in (None, r.planned.device):
                found.setdefault(what(r.planned), Counter())[r.outcome] += 1
        return found

    def failures(self) -> list[Failures]:
        """What failed, each kind of each subject once."""

        def group(r: Result) -> tuple[str, str, str]:
            return r.planned.device, r.planned.subject, r.planned.kind

        failed = sorted((r for r in self.results if r.outcome == "failed"), key=lambda r: (group(r), _size(r)))
        groups = [list(members) for _, members in groupby(failed, group)]
        return [Failures(members[0], [repeating(self.suite, r.planned) for r in members]) for members in groups]

    def expected(self) -> dict[str, int]:
        """How many checks failed as expected, by reason."""
        return dict(Counter(r.text for r in self.results if r.outcome == "expected"))

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON has it."""
        return {
            "name": self.suite.name,
            "distribution": self.suite.distribution,
            "version": self.suite.version,
            "needle_core": needle_core.__version__,
            "mode": self.suite.mode,
            "seed": self.suite.seed,
            "complete": self.is_complete,
            "devices": self.suite.devices,
            "ok": self.ok,
            "seconds": round(self.seconds, 2),
            "promised": self.promised,
            "run": len(self.results),
            **told(self.counts),
            "kinds": {kind: told(counts) for kind, counts in self.by(lambda p: p.kind).items()},
            "failures": [
                {"id": r.planned.id, "device": r.planned.device, "text": r.text, "repeat": repeating(self.suite, r.planned)}
                for r in self.results
                if r.outcome == "failed"
            ],
            "expected failures": self.expected(),
            "limits": [str(limit) for limit in self.suite.limits],
            "absent": self.suite.absent,
        }


def repeating(suite: Suite, planned: Planned) -> str:
    """The command that runs one check again."""
    options = (
        " --quick" * suite.quick + " --simulated" * suite.simulated + (f" --device {suite.device}" if suite.device else "")
    )
    return f"needle conform {suite.name} --case {shlex.quote(planned.id)} --seed {suite.seed}{options}"


def told(counts: Counter[Outcome]) -> dict[str, int]:
    """The number of each outcome, also where it is 0."""
    return {outcome: counts[outcome] for outcome in OUTCOMES}


def selected(suite: Suite, pattern: str | None) -> list[Planned]:
    """The checks whose ids match `pattern`; all for None. Raises ArgumentError if there is none."""
    chosen = [p for p in suite.checks if pattern is None or matches(pattern, p.id)]
    if not chosen:
        raise ArgumentError(f"no check of {suite.name} matches {pattern!r}", hint=f"`needle conform {suite.name} --list`")
    return chosen


def run(suite: Suite, chosen: Sequence[Planned], watch: Callable[[Planned], None] = lambda _: None) -> Report:
    """Run the `chosen` checks of `suite`, one by one; `watch` is called before each.

    Whatever a check raises is its failure. Ctrl-C ends the run with what is known so far.
    """
    report = Report(suite, chosen)
    start = time.perf_counter()
    try:
        for planned in chosen:
            watch(planned)
            report.results.append(_result(planned))
    except KeyboardInterrupt:
        report.interrupted = True
    report.seconds = time.perf_counter() - start
    return report


def _result(planned: Planned) -> Result:
    try:
        reason = planned()
    except KeyboardInterrupt:
        raise
    except MismatchError as mismatch:
        return Result(planned, "failed", str(mismatch).removeprefix(f"{planned.check.id}: "))
    except BaseException as error:
        return Result(planned, "failed", f"{type(error).__name__}: {error}{_place(error)}")
    return Result(planned, "passed") if reason is None else Result(planned, "expected", reason)


def _place(error: BaseException) -> str:
    """Where in a plugin's code it was raised: the innermost place that is neither in needle_core nor in NumPy."""
    raised = error.__cause__ or error
    places = [f for f in traceback.extract_tb(raised.__traceback__) if not f.filename.startswith(OURS)]
    return f" (in {places[-1].filename}:{places[-1].lineno})" if places else ""


def _size(result: Result) -> tuple[int, int, str]:
    return result.planned.check.size, len(result.planned.id), result.planned.id
