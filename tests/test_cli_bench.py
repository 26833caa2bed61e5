"""`needle bench`: that it compares only what is the same, tells what it measured, and writes files that others read."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import needle_core as ndl
from needle_core.backend import device
from needle_core.benchmark import measure
from needle_core.benchmark.measure import Row, Verdict, measure_ops, measure_step
from needle_core.cli.bench import bench
from needle_core.op import KERNELS

pytestmark = pytest.mark.once

QUICK = ("--rounds", "6", "--slot", "0.001")


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "PAUSE", 0.0)


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(bench, arguments)


# -- what is concluded ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratios", "speed", "interval", "word"),
    [
        ([2.0, 2.1, 1.9, 2.0, 2.2, 1.8], 2.0, (1.8, 2.2), "faster"),
        ([0.5, 0.6, 0.4, 0.5, 0.5, 0.5], 0.5, (0.4, 0.6), "slower"),
        ([2.0, 2.0, 2.0, 2.0, 2.0, 0.9], 2.0, (0.9, 2.0), "inconclusive"),
        ([1.01] * 6, 1.01, (1.01, 1.01), "inconclusive"),
        ([9.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 0.1], 2.0, (2.0, 2.0), "faster"),
        ([2.0] * 5, 2.0, (0.0, math.inf), "inconclusive"),
    ],
)
def test_a_verdict_is_that_of_the_sign_test(
    ratios: list[float], speed: float, interval: tuple[float, float], word: str
) -> None:
    verdict = Verdict.of(ratios)
    assert verdict.speed == pytest.approx(speed)
    assert (verdict.low, verdict.high) == interval
    assert str(verdict) == word


def test_the_interval_holds_the_median_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(1000):
        found = Verdict.of(rng.exponential(size=9))
        hits += found.low <= math.log(2) <= found.high
    assert hits >= 940


# -- what is measured -------------------------------------------------------------------------------------------------------


def test_steps_are_timed_on_all_devices_turn_by_turn() -> None:
    row = measure_step("scaleadd", ["numpy", "loopback:0"], compiled=True, rounds=6, slot=0.001)
    assert not row.trouble
    assert {d: len(s) for d, s in row.seconds.items()} == {"numpy": 6, "loopback:0": 6}
    assert all(s > 0 for times in row.seconds.values() for s in times)
    assert set(row.first) == {"numpy", "loopback:0"}


def test_a_step_with_other_losses_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measure.Worker._answer

    def wrong(self: Any) -> list[str]:
        told = whole(self)
        return [*told[:-1], "7.5"] if told[0] == "ready" and "loopback:0" in self._process.args else told

    monkeypatch.setattr(measure.Worker, "_answer", wrong)
    row = measure_step("scaleadd", ["numpy", "loopback:0"], compiled=False, rounds=6, slot=0.001)
    assert [*row.seconds] == ["numpy"]
    assert row.trouble["loopback:0"].startswith("computes something else: its losses are [")


def test_a_device_that_cannot_run_a_step_says_why_and_the_others_are_timed() -> None:
    row = measure_step("scaleadd", ["numpy", "nothing"], compiled=True, rounds=6, slot=0.001)
    assert [*row.seconds] == ["numpy"]
    assert "nothing" in row.trouble["nothing"]


def test_ops_are_timed_with_the_operands_that_a_step_gives_them() -> None:
    rows = measure_ops("scaleadd", [device("numpy"), device("loopback:0")], rounds=6, slot=1e-5)
    names = [row.name for row in rows]
    assert "multiply(float32[1], float32[1])" in names
    assert len(names) == len(set(names))
    assert all(not row.trouble and len(row.seconds["numpy"]) == len(row.seconds["loopback:0"]) == 6 for row in rows)


def test_an_op_that_computes_something_else_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device("loopback:0")
    right = KERNELS["subtract", "loopback"]
    monkeypatch.setitem(KERNELS, ("subtract", "loopback"), lambda a, b: right(a, b) + 1)
    rows = measure_ops("scaleadd", [device("numpy"), device("loopback:0")], rounds=6, slot=1e-5)
    assert {row.name.partition("(")[0] for row in rows if row.trouble} == {"subtract"}
    assert all(("loopback:0" in row.seconds) != bool(row.trouble) for row in rows)


def test_the_first_run_is_not_measured() -> None:
    spent = iter([0.5])  # what is made at the first run takes long

    def timer(runs: int) -> float:
        return next(spent, 0.0) + runs * 1e-4

    row = Row("ops", "op")
    measure.in_turn([{"numpy": timer}], [row], rounds=6, slot=0.01)
    assert row.runs["numpy"] == 100


@pytest.mark.parametrize(("load", "told"), [(0.4, ""), (2.9, ""), (9.0, "this machine was busy: 9.0 programs at a time")])
def test_a_busy_machine_is_told(monkeypatch: pytest.MonkeyPatch, load: float, told: str) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    assert measure.busyness().startswith(told)
    assert bool(measure.busyness()) == bool(told)


def test_the_default_device_is_what_it_was() -> None:
    before = ndl.default_device()
    measure_ops("scaleadd", [device("numpy"), device("loopback:1")], rounds=6, slot=1e-5)
    assert ndl.default_device() is before


# -- the command ------------------------------------------------------------------------------------------------------------


class _Tags(HTMLParser):
    """Counts what is opened, and refuses what is not closed in order, or comes from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not {"src", "href"} & {name for name, _ in attrs}
        self.seen.append(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_table_json_and_a_page(tmp_path: Path) -> None:
    written, page = tmp_path / "times.json", tmp_path / "times.html"
    shown = _run(
        "--devices", "numpy,loopback:0", "--workloads", "scaleadd", *QUICK, "--json", str(written), "--html", str(page)
    )
    assert shown.exit_code == 0, shown.output
    assert "compiled steps" in shown.stdout
    assert "speed of loopback:0" in shown.stdout
    assert "slower" in shown.stdout
    told = json.loads(written.read_text())
    ours = {b["param"]: b for b in told["benchmarks"]}
    assert ours["loopback:0"]["extra_info"]["verdict"] == "slower"
    stats = ours["numpy"]["stats"]
    assert stats["rounds"] == len(stats["data"]) == 6
    assert stats["min"] <= stats["q1"] <= stats["median"] <= stats["q3"] <= stats["max"]
    tags = _Tags()
    tags.feed(page.read_text())
    assert tags.open == []
    assert tags.seen.count("circle") == 12


def test_the_json_is_read_by_pytest_benchmark(tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    assert _run("--devices", "numpy,loopback:0", "--workloads", "scaleadd", "--ops", *QUICK, "--json", str(path)).exit_code == 0
    tool = shutil.which("pytest-benchmark", path=str(Path(sys.executable).parent))
    assert tool
    shown = subprocess.run([tool, "compare", str(path)], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "multiply(float32[1], float32[1])[numpy]" in shown.stdout


def test_what_was_not_measured_makes_it_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(workload: str, devices: list[str], **_: Any) -> Row:
        return Row("compiled steps", workload, trouble={devices[1]: "it is too warm"})

    monkeypatch.setattr(measure, "measure_step", broken)
    shown = _run("--devices", "numpy,loopback:0", "--workloads", "mlp", *QUICK)
    assert shown.exit_code == 1
    assert "mlp on loopback:0: it is too warm" in shown.stdout


def test_steps_are_listed() -> None:
    assert "gpt        Four blocks" in _run("--list").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--devices", "numpy"), "nothing to compare numpy with"),
        (("--devices", "numpy,nothing"), "nothing"),
        (("--workloads", "mpl"), "there is no workload 'mpl'"),
        (("--json", "no/such/folder/x.json"), "there is no folder"),
        (("--rounds", "5"), "5"),
    ],
)
def test_wrong_commands_are_refused_before_anything_is_measured(arguments: tuple[str, ...], said: str) -> None:
    shown = _run(*arguments)
    assert shown.exit_code == 2
    assert said in shown.output
