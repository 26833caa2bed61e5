"""What a plugin says of itself to those who check it: cases, limits, expected failures for the kit, and probes for the doctor.

They are taken by the registrar in the hooks `needle_conformance` and `needle_doctor`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, timedelta
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final, TypeAlias

from needle_core.errors import ArgumentError

if TYPE_CHECKING:
    from needle_core.testing.optimizers import OptimizerCase
    from needle_core.testing.samples import Case

Probe: TypeAlias = Callable[[], str]

GREATEST: Final = 0.25
"""The unit roundoff that no declared one reaches: bfloat16 has 1/256."""
LONGEST: Final = timedelta(days=2 * 366)
"""How far ahead a failure may be expected."""


@dataclass(frozen=True)
class Limit:
    """On the plugin's devices the op rounds with unit roundoff `u`, more than `dtype` has by itself."""

    op: str
    dtype: str
    u: float
    reason: str

    def __post_init__(self) -> None:
        if not self.u < GREATEST:
            raise ArgumentError(
                f"u is {self.u!r}, and must be less than {GREATEST}: with more, almost any result would pass",
                hint="registrar.expect_failure declares checks that fail",
            )

    def __str__(self) -> str:
        return f"{self.op} in {self.dtype}: u = {self.u:.2g}, {self.reason}"


@dataclass(frozen=True)
class ExpectedFailure:
    """Checks whose id matches `pattern` (see `matches`) fail, for `reason`, until a date, and not longer."""

    pattern: str
    reason: str
    until: date

    def __post_init__(self) -> None:
        if self.until > (latest := date.today() + LONGEST):
            raise ArgumentError(f"until is {self.until}, and must not be later than {latest}: what fails is looked at again")

    def covers(self, check: str) -> bool:
        return matches(self.pattern, check)


@dataclass
class Declarations:
    """All that a plugin declares in `needle_conformance`; cases by the names of their ops and optimizers."""

    cases: dict[str, Case] = field(default_factory=dict)
    optimizers: dict[str, OptimizerCase] = field(default_factory=dict)
    limits: list[Limit] = field(default_factory=list)
    expected: list[ExpectedFailure] = field(default_factory=list)


def matches(pattern: str, check: str) -> bool:
    """Whether the id `check` is `pattern`, or fits it as a file name fits one of a shell: *, ?, [seq]."""
    return check == pattern or fnmatchcase(check, pattern)
