"""The program that a GPU is visited with, on the simulated device, and where there is none."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from needle_cuda_backend import libraries

VISIT = Path(__file__).parents[3] / "benchmarks/gpu/visit.py"

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(not VISIT.exists(), reason="benchmarks/ is part of the repository, not of the package"),
]


def visit(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(VISIT), *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, Path]:
    """The report of a visit in small, as JSON and as Markdown, and its folder."""
    folder = tmp_path_factory.mktemp("visit") / "report"
    options = ["--budget", "1500", "--case", "exp/*", "--tests", "label", "--workloads", "mlpresnet", "--rounds", "2"]
    done = visit("--simulated", "--output", str(folder), "--slot", "0.01", *options, "--peer-python", "/no/python")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "report.json").read_text()), (folder / "report.md").read_text(), folder


def test_every_stage_passes_or_says_why_not(found: Any) -> None:
    report, _, _ = found
    ended = {stage["name"]: (stage["status"], stage["why"]) for stage in report["stages"]}
    absent = ("not run", "the device is simulated")
    passing = ("bandwidth", "tests", "conformance", "templates", "compilation", "benchmark")
    assert ended == {**dict.fromkeys(passing, ("passed", "")), "memcheck": absent, "racecheck": absent}


def test_what_was_measured_is_in_the_report(found: Any) -> None:
    report, text, _ = found
    records = {stage["name"]: stage["records"] for stage in report["stages"]}
    kinds = [record["kind"] for record in records["bandwidth"]]
    assert kinds[:2] == ["launches", "copy"]
    names = {record["template"] for record in records["bandwidth"][2:]}
    assert names >= {"map", "rows", "columns", "softmax", "layer norm", "cross entropy", "take", "scatter", "Adam"}
    assert {record["template"] for record in records["templates"]} > names
    (times,) = [record for record in records["benchmark"] if record["kind"] == "times"]
    assert len(times["seconds"]) == 2
    assert [record["who"] for record in records["compilation"]] == ["needle"]
    for section in ("## Memory", "## Compilation", "## Training steps", "| mlpresnet |", "| softmax | bfloat16 |"):
        assert section in text


def test_a_simulated_visit_claims_no_speed_and_names_versions_and_what_is_missing(found: Any) -> None:
    report, text, folder = found
    assert report["simulated"]
    assert "simulated: no claim of speed" in text
    assert "below 85%" not in text
    assert report["facts"]["needle-core"] in text
    for package in ("torch", "jax"):
        assert f"- peer {package} in /no/python: [Errno 2] No such file" in text
    assert (folder / ".gitignore").read_text() == "*\n"


def test_a_stage_that_runs_out_of_time_is_stopped_and_keeps_what_it_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(VISIT.parent))
    module = importlib.import_module("visit")
    told = 'print(\'{"kind": "copy"}\', flush=True)'
    endless = module.Stage("endless", [sys.executable, "-c", f"{told}; import threading; threading.Event().wait()"], 1.0)
    short = module.Stage("short", [sys.executable, "-c", told], 1.0)
    wrong = module.Stage("wrong", [sys.executable, "-c", f"{told}; print('its last words'); raise SystemExit(3)"], 1.0)
    module.run_group([endless, short, wrong], tmp_path, 5.0)
    assert [stage.status for stage in (endless, short, wrong)] == ["out of time", "passed", "failed"]
    assert all(stage.records == [{"kind": "copy"}] for stage in (endless, short, wrong))
    assert (wrong.why, wrong.tail) == ("exit status 3", "its last words")


def test_without_a_device_its_error_is_all(tmp_path: Path) -> None:
    try:
        libraries.require_driver()
    except Exception as error:
        text = str(error).splitlines()[0]
    else:
        pytest.skip("there is a driver")
    done = visit("--output", str(tmp_path / "report"))
    assert done.returncode == 1
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "report").exists()
