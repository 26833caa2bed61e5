"""Running checks: what counts as passed, failed and expected, and that nothing is lost on the way."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta

import pytest

import needle_core as ndl
from needle_core.errors import ArgumentError
from needle_core.plugins.declarations import ExpectedFailure
from needle_core.testing.report import Report, run, selected
from needle_core.testing.samples import Check, MismatchError
from needle_core.testing.suite import Planned, Suite

DEVICE = ndl.default_device().name
TODAY = date.today()


def good() -> None:
    pass


def bad() -> None:
    raise MismatchError("0.5 for 0.25 at [1]")


def raising(error: BaseException) -> Callable[[], None]:
    def body() -> None:
        raise error

    return body


def planned(id: str, body: Callable[[], None], *, size: int = 0, reason: str = "", until: date = TODAY) -> Planned:
    known = ExpectedFailure("*", reason, until) if reason else None
    return Planned(Check(id, body, size), id, DEVICE, known)


def suite(*checks: Planned, promised: int | None = None) -> Suite:
    return Suite("x", "needle-x", "1.0", 3, False, list(checks), Counter(forward=len(checks) if promised is None else promised))


def outcomes(*checks: Planned) -> list[tuple[str, str]]:
    made = suite(*checks)
    return [(r.outcome, r.text) for r in run(made, made.checks).results]


def whole(made: Suite) -> Report:
    return run(made, made.checks)


@pytest.mark.parametrize(
    ("check", "expected"),
    [
        (planned("a/forward/1", good), ("passed", "")),
        (planned("a/forward/1", bad), ("failed", "0.5 for 0.25 at [1]")),
        (planned("a/forward/1", raising(ZeroDivisionError("oh"))), ("failed", "ZeroDivisionError: oh")),
        (planned("a/forward/1", raising(SystemExit(3))), ("failed", "SystemExit: 3")),
        (planned("a/forward/1", raising(MemoryError())), ("failed", "MemoryError: ")),
        (planned("a/forward/1", lambda: warnings.warn("overflow", RuntimeWarning, 1)), ("failed", "RuntimeWarning: overflow")),
        (planned("a/forward/1", bad, reason="slow path"), ("expected", "slow path")),
        (planned("a/forward/1", good, reason="slow path"), ("failed", "passes, and is expected to fail: slow path")),
        (
            planned("a/forward/1", bad, reason="slow path", until=TODAY - timedelta(1)),
            ("failed", f"still fails after {TODAY - timedelta(1)}, until when it may: slow path"),
        ),
    ],
)
def test_outcome_of_a_check(check: Planned, expected: tuple[str, str]) -> None:
    assert [(outcome, text.partition(" (in ")[0]) for outcome, text in outcomes(check)] == [expected]


def test_what_a_check_raises_does_not_keep_the_others_from_running() -> None:
    checks = [planned(f"a/forward/{i}", body) for i, body in enumerate([good, raising(SystemExit()), bad, good])]
    assert [outcome for outcome, _ in outcomes(*checks)] == ["passed", "failed", "failed", "passed"]


def test_a_run_is_well_only_if_all_that_was_promised_held() -> None:
    check = planned("a/forward/1", good)
    assert whole(suite(check)).ok
    assert whole(suite(check, planned("a/forward/2", bad, reason="known"))).ok
    assert not whole(suite(check, planned("a/forward/2", bad))).ok
    assert not whole(suite(check, promised=2)).ok
    assert not run(suite(check), []).ok


def test_ctrl_c_ends_the_run_with_what_is_known() -> None:
    made = suite(
        planned("a/forward/1", good), planned("a/forward/2", raising(KeyboardInterrupt())), planned("a/forward/3", bad)
    )
    report = whole(made)
    assert [r.outcome for r in report.results] == ["passed"]
    assert report.interrupted
    assert not report.ok
    assert not report.is_complete


def test_a_part_of_a_suite_is_no_complete_run() -> None:
    made = suite(planned("a/forward/1", good), planned("b/forward/1", good))
    report = run(made, selected(made, "a/*"))
    assert report.ok
    assert report.promised == 1
    assert not report.is_complete


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(ArgumentError, match="no check of x matches 'c/\\*'"):
        selected(suite(planned("a/forward/1", good)), "c/*")


def test_the_smallest_failure_stands_for_those_like_it() -> None:
    checks = [
        planned("add/forward/(9)", bad, size=9),
        planned("add/forward/(2,3)", bad, size=6),
        planned("add/forward/()", good, size=1),
        planned("add/gradient/(8)", bad, size=8),
        planned("exp/forward/(7)", bad, size=7),
    ]
    found = [(f.first.planned.id, len(f.repeats)) for f in whole(suite(*checks)).failures()]
    assert found == [("add/forward/(2,3)", 2), ("add/gradient/(8)", 1), ("exp/forward/(7)", 1)]


def test_every_failure_tells_the_line_that_repeats_it() -> None:
    (failure,) = whole(suite(planned("cast/forward/(2) dtype='float16'/int32", bad))).failures()
    assert failure.repeats == ["needle conform x --case 'cast/forward/(2) dtype='\"'\"'float16'\"'\"'/int32' --seed 3"]
    (failure,) = whole(replace(suite(planned("a/forward/1", bad)), quick=True)).failures()
    assert failure.repeats == ["needle conform x --case a/forward/1 --seed 3 --quick"]


def test_counts_by_kind_and_reasons_of_expected_failures() -> None:
    checks = [
        planned("a/forward/1", good),
        planned("a/gradient/1", bad),
        planned("a/gradient/2", bad, reason="slow path"),
        planned("b/gradient/1", bad, reason="slow path"),
    ]
    report = whole(suite(*checks))
    assert report.by(lambda p: p.kind) == {"forward": {"passed": 1}, "gradient": {"failed": 1, "expected": 2}}
    assert report.by(lambda p: p.subject, "elsewhere") == {}
    assert report.expected() == {"slow path": 2}


def test_a_check_runs_on_its_device_and_the_default_comes_back() -> None:
    seen: list[str] = []
    check = planned("a/forward/1", lambda: seen.append(ndl.default_device().name))
    before = ndl.default_device()
    outcomes(replace(check, device="loopback:1"), replace(check, device="loopback:0", check=Check("a/forward/2", bad)))
    assert seen == ["loopback:1"]
    assert ndl.default_device() is before


def test_a_device_that_does_not_open_is_a_failure() -> None:
    ((outcome, text),) = outcomes(replace(planned("a/forward/1", good), device="nowhere"))
    assert outcome == "failed"
    assert text.startswith("DeviceError: no backend is called 'nowhere'")
