"""`needle matrix`: which backend has which op, and never a tick without evidence."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from needle_core import __version__
from needle_core.cli import needle
from needle_core.op import OPS
from needle_core.plugins import registry
from needle_core.testing import evidence
from needle_core.testing.evidence import Evidence
from tests.plugin_fixtures import HEAD, OP, Site, site

__all__ = ["site"]

pytestmark = pytest.mark.once

NUMPY = registry.why("numpy")[0]
KNOWN = Evidence(
    NUMPY.distribution, NUMPY.version, __version__, f"{NUMPY.distribution} {NUMPY.version}", "numpy", "full", 0,
    "2099-11-23T18:00:00+00:00",
    {"exp": {"passed": 9, "failed": 0, "expected": 0}, "log": {"passed": 7, "failed": 2, "expected": 1}},
)  # fmt: skip
PARTS = """
@hookimpl
def needle_conformance(registrar):
    registrar.roundoff("matmul", "float32", 2.0**-11, "tensor cores")
"""


@pytest.fixture
def matrix(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """A function that runs `needle matrix` where nothing is known but the evidence it is given."""
    monkeypatch.setenv("NEEDLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*args: str, known: tuple[Evidence, ...] = ()) -> Result:
        for one in known:
            evidence._write(one)
        return CliRunner().invoke(needle, ["matrix", *args], catch_exceptions=False)

    return run


def cell(result: Result, op: str, device: str = "numpy") -> dict[str, Any]:
    (row,) = [row for row in json.loads(result.stdout)["ops"] if row["op"] == op]
    found: dict[str, Any] = row["devices"][device]
    return found


def test_every_op_has_a_row_and_every_backend_a_column(matrix: Callable[..., Result]) -> None:
    told = json.loads(matrix("--json").stdout)
    names = [row["op"] for row in told["ops"]]
    assert set(names) == set(OPS)
    assert len(set(names)) == len(names)
    assert all(set(row["devices"]) >= {"numpy", "loopback:0"} for row in told["ops"])
    assert {row["kind"] for row in told["ops"]} == {"primitive", "composite"}


def test_native_composite_and_missing(matrix: Callable[..., Result], site: Site) -> None:
    site.backend("spare")
    result = matrix("--json")
    supports = {op: [cell(result, op, d)["support"] for d in ("numpy", "loopback:0", "spare")] for op in ("exp", "softmax")}
    assert supports == {"exp": ["native", "native", "missing"], "softmax": ["native", "composite", "composite"]}


def test_without_evidence_there_is_no_tick(matrix: Callable[..., Result]) -> None:
    result = matrix()
    assert result.exit_code == 0
    table, _, _ = result.stdout.partition("\n\n")
    assert "✓" not in table
    assert "✗" not in table


def test_evidence_is_told_op_by_op(matrix: Callable[..., Result]) -> None:
    result = matrix("--json", known=(KNOWN,))
    assert cell(result, "exp") == {
        "support": "native",
        "state": "held",
        "checks": {"passed": 9, "failed": 0, "expected": 0},
        "run": {"mode": "full", "seed": 0, "time": KNOWN.time, "version": NUMPY.version, "core": __version__},
    }
    assert cell(result, "log")["state"] == "failed"
    assert cell(result, "sin") == {"support": "native", "state": "unchecked", "checks": {}, "run": None}
    rows = {line.split()[0]: line for line in matrix("--device", "numpy").stdout.splitlines() if line}
    assert "native ✓" in rows["exp"]
    assert "native ✗ 2 of 10, 1 expected failures" in rows["log"]
    assert "native ?" in rows["sin"]
    assert rows["numpy:"].endswith("; last run 2099-11-23 18:00 UTC")


@pytest.mark.parametrize(
    "change",
    [{"version": "0.0.1"}, {"core": "0.0.1"}, {"backend": f"{NUMPY.distribution} 0.0.1"}],
    ids=["plugin", "core", "backend"],
)
def test_evidence_of_other_versions_is_outdated(matrix: Callable[..., Result], change: dict[str, str]) -> None:
    result = matrix("--json", known=(replace(KNOWN, **change),))  # type: ignore[arg-type]
    assert cell(result, "exp")["state"] == "outdated"
    assert "native outdated" in next(line for line in matrix().stdout.splitlines() if line.startswith("exp "))


def test_evidence_from_before_the_source_was_changed_is_outdated(matrix: Callable[..., Result]) -> None:
    assert cell(matrix("--json", known=(replace(KNOWN, time="2020-01-01T00:00:00+00:00"),)), "exp")["state"] == "outdated"


def test_a_change_of_the_plugin_puts_its_evidence_out_of_date(matrix: Callable[..., Result], site: Site) -> None:
    module = site.install("needle-same", {"ops": {"same": "needle_same"}}, HEAD + OP.format(name="same"), version="1.5")
    counts = {"same": {"passed": 3, "failed": 0, "expected": 0}}
    of_plugin = replace(KNOWN, distribution="needle-same", version="1.5", counts=counts)
    os.utime(site.folder / f"{module}.py", (2**33, 2**33))  # in the year 2242
    assert cell(matrix("--json", known=(of_plugin,)), "same")["state"] == "outdated"


def test_evidence_of_this_version_counts_before_later_evidence_of_another(matrix: Callable[..., Result]) -> None:
    later = replace(KNOWN, version="0.0.1", time="2100-01-01T00:00:00+00:00")
    assert cell(matrix("--json", known=(KNOWN, later)), "exp")["state"] == "held"


def test_the_last_run_counts(matrix: Callable[..., Result]) -> None:
    later = replace(
        KNOWN, mode="quick", time="2100-01-01T00:00:00+00:00", counts={"exp": {"passed": 0, "failed": 1, "expected": 0}}
    )
    assert cell(matrix("--json", known=(KNOWN, later)), "exp")["state"] == "failed"


def test_a_quick_run_that_held_does_not_outdo_a_full_one_that_did_not(matrix: Callable[..., Result]) -> None:
    failed = replace(KNOWN, mode="full", counts={"exp": {"passed": 9, "failed": 1, "expected": 0}})
    quick = replace(KNOWN, mode="quick", time="2100-01-01T00:00:00+00:00")
    assert cell(matrix("--json", known=(failed, quick)), "exp")["state"] == "failed"
    assert cell(matrix("--json", known=(replace(quick, mode="full"),)), "exp")["state"] == "held"


def test_evidence_of_another_device_or_plugin_does_not_count(matrix: Callable[..., Result]) -> None:
    others = (replace(KNOWN, device="loopback:1"), replace(KNOWN, distribution="needle-other"))
    assert cell(matrix("--json", known=others), "exp")["state"] == "unchecked"


def test_an_op_of_a_plugin_is_known_by_the_evidence_of_that_plugin(matrix: Callable[..., Result], site: Site) -> None:
    site.install("needle-same", {"ops": {"same": "needle_same"}}, HEAD + OP.format(name="same"), version="1.5")
    counts = {"same": {"passed": 3, "failed": 0, "expected": 0}}
    of_plugin = replace(KNOWN, distribution="needle-same", version="1.5", counts=counts)
    assert cell(matrix("--json", known=(replace(KNOWN, counts=counts),)), "same")["state"] == "unchecked"
    assert cell(matrix("--json", known=(of_plugin,)), "same")["state"] == "held"


def test_a_kernel_of_a_plugin_is_known_by_the_evidence_of_that_plugin(matrix: Callable[..., Result], site: Site) -> None:
    site.install("needle-fast", {"kernels": {"numpy.exp": "needle_fast"}}, HEAD)
    assert cell(matrix("--json", known=(KNOWN,)), "exp")["state"] == "unchecked"


def test_declared_limits_are_shown(matrix: Callable[..., Result], site: Site) -> None:
    name = site.backend("spare")
    path = site.folder / f"{name}.py"
    path.write_text(path.read_text() + PARTS)
    text = "matmul in float32: u = 0.00049, tensor cores"
    assert json.loads(matrix("--json").stdout)["limits"] == {"spare": [text]}
    assert f"spare: {text}" in matrix().stdout


def test_what_is_broken_is_told_and_the_rest_shown(matrix: Callable[..., Result], site: Site) -> None:
    site.install("needle-shut-backend", {"backends": {"shut": "needle_shut_backend"}}, "raise OSError('no driver')")
    site.install("needle-odd", {"ops": {"odd": "needle_odd"}}, "raise OSError('odd')")
    site.install("needle-unreadable", {"ops": {"x": "no module"}}, None)
    site.install("needle-gone", {"ops": {"gone": "needle_gone"}}, None)
    told = json.loads(matrix("--json").stdout)
    assert told["absent"]["shut"] == "needle-shut-backend 1.0: import: OSError: no driver"
    assert told["absent"]["odd"] == "needle-odd 1.0: import: OSError: odd"
    assert "shut: needle-shut-backend 1.0: import: OSError: no driver" in matrix().stdout


def test_only_the_devices_asked_for(matrix: Callable[..., Result]) -> None:
    assert set(json.loads(matrix("--json", "--device", "loopback:1").stdout)["ops"][0]["devices"]) == {"loopback:1"}
    unknown = matrix("--device", "nowhere")
    assert unknown.exit_code == 2
    assert "no backend is called 'nowhere'" in unknown.stderr


# -- what a model uses --------------------------------------------------------------------------------------------------------


def test_a_model_shows_only_what_it_uses(matrix: Callable[..., Result], tmp_path: Path) -> None:
    program = tmp_path / "model.py"
    program.write_text("""
import sys
import needle_core as ndl
assert __name__ == "__main__" and sys.argv == [__file__]
print("loud")
ndl.softmax(ndl.exp(ndl.ones((2, 3))))
""")
    result = matrix("--model", str(program), "--json")
    used = {row["op"]: row["within"] for row in json.loads(result.stdout)["ops"]}
    assert used["softmax"] == [""]
    assert "softmax" in used["exp"]
    assert "" in used["exp"]
    assert "matmul" not in used
    assert "loud" in result.stderr
    assert "used in" in matrix("--model", str(program)).stdout.splitlines()[0]


@pytest.mark.parametrize(("body", "text"), [("1 / 0", "ZeroDivisionError"), ("raise SystemExit(3)", "ended with 3")])
def test_a_model_that_fails_is_told(matrix: Callable[..., Result], tmp_path: Path, body: str, text: str) -> None:
    program = tmp_path / "model.py"
    program.write_text(body)
    result = matrix("--model", str(program))
    assert result.exit_code == 1
    assert text in result.stderr


def test_an_op_that_a_model_defines_is_seen(matrix: Callable[..., Result], tmp_path: Path) -> None:
    program = tmp_path / "model.py"
    program.write_text("""
import needle_core as ndl
class Twice(ndl.TensorOp):
    def compute(self, x):
        return 2 * x
Twice()(ndl.Tensor([1.0], device="numpy"))
""")
    (row,) = json.loads(matrix("--model", str(program), "--json").stdout)["ops"]
    assert (row["op"], row["family"], row["within"]) == ("Twice", "__main__", [""])
    assert (row["devices"]["numpy"]["support"], row["devices"]["loopback:0"]["support"]) == ("native", "missing")


def test_a_model_may_end_itself(matrix: Callable[..., Result], tmp_path: Path) -> None:
    program = tmp_path / "model.py"
    program.write_text("import needle_core as ndl\nndl.exp(ndl.ones(()))\nraise SystemExit")
    assert "exp" in [row["op"] for row in json.loads(matrix("--model", str(program), "--json").stdout)["ops"]]


@pytest.mark.parametrize("text", ["{", "[]", '{"device": 3}', "\xff\x00"])
def test_damaged_evidence_proves_nothing_and_is_warned_of(matrix: Callable[..., Result], text: str) -> None:
    matrix("--json", known=(KNOWN,))
    (file,) = evidence.folder().glob("*.json")
    file.write_text(text, encoding="latin-1")
    with pytest.warns(RuntimeWarning, match=re.escape(f"{file} holds no result")):
        result = matrix("--json")
    assert cell(result, "exp")["state"] == "unchecked"


def test_names_of_another_type_are_damage(matrix: Callable[..., Result]) -> None:
    matrix("--json", known=(KNOWN,))
    (file,) = evidence.folder().glob("*.json")
    file.write_text(file.read_text().replace('"numpy"', "3"))
    with pytest.warns(RuntimeWarning, match="holds no result of a conformance run: its names are none"):
        assert evidence.recall() == []


def test_cache_may_be_in_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NEEDLE_CACHE", "~/results")
    assert evidence.folder() == tmp_path / "results" / "conformance"


def test_a_device_asked_for_twice_is_one_column(matrix: Callable[..., Result]) -> None:
    head = matrix("--device", "numpy", "--device", "numpy").stdout.splitlines()[0]
    assert head.split() == ["op", "family", "kind", "numpy"]


def test_a_model_without_ops_is_pointed_out(matrix: Callable[..., Result], tmp_path: Path) -> None:
    program = tmp_path / "model.py"
    program.write_text("pass")
    result = matrix("--model", str(program))
    assert (result.exit_code, result.stderr) == (0, f"warning: {program} used no op\n")


def test_nothing_is_cut_where_there_is_no_terminal(matrix: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    row = next(line for line in matrix("--device", "loopback:0").stdout.splitlines() if line.startswith("softmax "))
    assert row.split()[2:] == ["composite", "composite", "?"]


def test_nothing_is_cut_in_a_narrow_terminal(matrix: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    devices = ("--device", "numpy", "--device", "loopback:0")
    table, _, _ = matrix(*devices).stdout.partition("\n\n")
    assert "\N{HORIZONTAL ELLIPSIS}" not in table
    lines = re.sub(r"\x1b\[[0-9;]*m", "", table).splitlines()
    assert max(map(len, lines)) <= 40
    told = [
        device["state"] for row in json.loads(matrix(*devices, "--json").stdout)["ops"] for device in row["devices"].values()
    ]
    assert table.count("?") == told.count("unchecked") > 0  # the last of a cell, which would be cut first
