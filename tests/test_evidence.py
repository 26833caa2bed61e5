"""What is kept of conformance runs: one file each, whole or not at all, and read strictly."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

import needle_core
from needle_core.errors import DataError
from needle_core.plugins import registry
from needle_core.testing import evidence
from needle_core.testing.report import run
from needle_core.testing.samples import Check, MismatchError
from needle_core.testing.suite import Planned, Suite

pytestmark = pytest.mark.once

NUMPY = registry.why("numpy")[0]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEEDLE_CACHE", str(tmp_path))


def bad() -> None:
    raise MismatchError("no")


def remember(*ids: str, version: str = "1.0", quick: bool = False, failing: str = "") -> None:
    """A run of checks on numpy, of which those of the op `failing` fail."""
    planned = [Planned(Check(i, bad if i.startswith(failing or "-") else lambda: None), i, "numpy", None) for i in ids]
    made = Suite("x", "needle-x", version, 5, quick, planned, Counter(forward=len(ids)))
    evidence.remember(run(made, planned))


def test_counts_by_op_come_back() -> None:
    remember("a/forward/1", "a/forward/2", "b/forward/1", failing="b/")
    (known,) = evidence.recall()
    assert known.counts == {
        "a": {"passed": 2, "failed": 0, "expected": 0},
        "b": {"passed": 0, "failed": 1, "expected": 0},
    }  # fmt: skip
    assert (known.distribution, known.version, known.core) == ("needle-x", "1.0", needle_core.__version__)
    assert (known.backend, known.device, known.mode, known.seed) == (
        f"{NUMPY.distribution} {NUMPY.version}",
        "numpy",
        "full",
        5,
    )


def test_only_the_last_run_of_a_version_and_mode_is_kept() -> None:
    remember("a/forward/1", failing="a")
    remember("a/forward/1")
    remember("a/forward/1", quick=True)
    remember("a/forward/1", version="1.1")
    known = {(e.version, e.mode): e.counts["a"]["failed"] for e in evidence.recall()}
    assert known == {("1.0", "full"): 0, ("1.0", "quick"): 0, ("1.1", "full"): 0}


def test_nothing_is_known_at_first() -> None:
    assert evidence.recall() == []


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"NEEDLE_CACHE": "/n", "XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/n/conformance"),
        ({"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/needle/conformance"),
        ({"NEEDLE_CACHE": "", "XDG_CACHE_HOME": "", "HOME": "/h"}, "/h/.cache/needle/conformance"),
    ],
)
def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str) -> None:
    for name in ("NEEDLE_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert evidence.folder() == Path(expected)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"distribution": 3}', "null", "\x00"],
    ids=["empty", "cut", "list", "bare", "few", "null", "bin"],
)
def test_a_file_that_cannot_be_read_is_a_warning_that_says_which_to_delete(text: str) -> None:
    remember("a/forward/1")
    path = evidence.folder() / "needle-y.json"
    path.write_text(text)
    with pytest.warns(RuntimeWarning, match="holds no result of a conformance run") as caught:
        known = evidence.recall()
    assert str(caught[0].message).endswith(f"hint: `rm {path}`; the next run writes it anew")
    assert [e.name for e in known] == [p.name for p in sorted(evidence.folder().glob("*.json")) if p != path]


@pytest.mark.parametrize(
    "change",
    [
        {"counts": {"a": {"passed": 1}}},
        {"counts": {"a": {"passed": "1", "failed": 0, "expected": 0}}},
        {"counts": 3},
        {"time": "yesterday"},
        {"time": 3},
    ],
    ids=str,
)
def test_fields_are_read_strictly(change: dict[str, object]) -> None:
    remember("a/forward/1")
    (known,) = evidence.recall()
    evidence._write(replace(known, **change))  # type: ignore[arg-type]
    with pytest.warns(RuntimeWarning, match="holds no result of a conformance run"):
        assert evidence.recall() == []


def test_a_write_that_fails_leaves_the_old_file_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    remember("a/forward/1")
    before = evidence.recall()

    def full(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DataError, match="the result cannot be kept: disk full"):
        remember("a/forward/1", "a/forward/2")
    assert evidence.recall() == before
    assert len(list(evidence.folder().iterdir())) == 1
