"""`needle conform`: what it prints, how it ends, what it remembers."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from needle_core.cli import needle
from needle_core.testing import evidence
from tests.plugin_fixtures import HEAD, Site, site

__all__ = ["site"]

pytestmark = pytest.mark.once

RIGHT = (
    HEAD
    + """
from needle_core.doors import floating
from needle_core.op import composite
from needle_core.testing.samples import COMPLEX, floats, real, sample

@composite(floating)
def twice(x):
    return x + x

@hookimpl
def needle_register_ops(registrar):
    registrar.op(twice)

@hookimpl
def needle_conformance(registrar):
    samples = [sample(real(3)), sample(real(2, 3))]
    registrar.case("twice", lambda x: 2 * x, samples, gradient=COMPLEX, exact=True, result=floats)
"""
)
WRONG = RIGHT.replace("x + x", "x * 3")
SHIFTED = RIGHT.replace("x + x", "x + x + 1")  # only its values are wrong, not its gradients
EXPECTED = f'    registrar.expect_failure("{{pattern}}", "the shift is known", until="{date.today().year + 1}-01-01")\n'
LIMIT = '    registrar.roundoff("matmul", "float32", 2.0**-11, "tensor cores")\n'


@pytest.fixture
def conform(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """A function that installs a plugin with the op `twice` and runs `needle conform` on it, on the device numpy."""
    monkeypatch.setenv("NEEDLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")

    def run(source: str, *args: str) -> Result:
        site.install("needle-twice", {"ops": {"twice": "needle_twice"}}, source, version="1.5")
        return CliRunner().invoke(needle, ["conform", "twice", "--device", "numpy", *args])

    return run


def cells(result: Result) -> dict[str, list[str]]:
    """The table, by the first column."""
    rows = [line.split() for line in result.stdout.splitlines()]
    return {" ".join(row[:-4]): row[-4:] for row in rows if len(row) > 4 and all(cell.isdigit() for cell in row[-4:])}


def test_all_is_well(conform: Callable[..., Result]) -> None:
    result = conform(RIGHT)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("needle-twice 1.5 on numpy: full conformance, seed 0\n")
    table = cells(result)
    run, passed, failed, expected = map(int, table["all"])
    assert (run, failed, expected) == (passed, 0, 0)
    assert run == sum(int(row[0]) for kind, row in table.items() if kind != "all")
    assert f"{run} checks held in " in result.stdout


def test_failures_are_told_smallest_first_with_the_line_that_repeats_them(conform: Callable[..., Result]) -> None:
    result = conform(WRONG, "--seed", "4", "--quick")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    first = next(line for line in lines if line.startswith("failed: twice/forward/"))
    assert first.startswith("failed: twice/forward/(3)/")
    like = int(first.partition(" (and ")[2].removesuffix(" like it)"))
    repeats = lines[lines.index(first) + 2 :][: like + 1]  # one for each
    assert all(
        re.fullmatch(r"  needle conform twice --case '?twice/forward/.*--seed 4 --quick --device numpy", r) for r in repeats
    )
    assert len(set(repeats)) == like + 1 > 1
    assert lines[-1].split(" checks failed")[0].split(" of ") == [cells(result)["all"][2], cells(result)["all"][0]]


def test_the_line_that_repeats_a_failure_does_so(conform: Callable[..., Result]) -> None:
    told = json.loads(conform(WRONG, "--json").stdout)
    failure = told["failures"][0]
    again = CliRunner().invoke(needle, ["conform", "twice", "--case", failure["id"], "--json"])
    assert again.exit_code == 1
    assert [f["text"] for f in json.loads(again.stdout)["failures"]] == [failure["text"]]


def test_expected_failures_and_limits_are_shown(conform: Callable[..., Result]) -> None:
    expected = EXPECTED.format(pattern="twice/forward/(3)/float32/contiguous")
    result = conform(SHIFTED + expected + LIMIT, "--case", "twice/forward/(3)/float32/contiguous*")
    assert result.exit_code == 0
    assert cells(result)["all"] == ["1", "0", "0", "1"]
    assert "\nexpected failures\n  1: the shift is known\n" in result.stdout
    assert "\ndeclared limits\n  matmul in float32: u = 0.00049, tensor cores\n" in result.stdout


def test_json(conform: Callable[..., Result]) -> None:
    expected = EXPECTED.format(pattern="twice/forward/(3)/float32/contiguous")
    result = conform(SHIFTED + expected + LIMIT, "--json", "--case", "twice/forward/*/float32/contiguous*")
    told = json.loads(result.stdout)
    assert result.exit_code == 1
    assert {name: told[name] for name in ("name", "distribution", "version", "mode", "seed", "devices", "ok", "complete")} == {
        "name": "twice", "distribution": "needle-twice", "version": "1.5", "mode": "full", "seed": 0, "devices": ["numpy"],
        "ok": False, "complete": False,
    }  # fmt: skip
    assert (told["promised"], told["run"], told["passed"], told["failed"], told["expected"]) == (2, 2, 0, 1, 1)
    assert told["kinds"] == {"forward": {"passed": 0, "failed": 1, "expected": 1}}
    assert [failure["id"] for failure in told["failures"]] == ["twice/forward/(2,3)/float32/contiguous on numpy"]
    assert told["expected failures"] == {"the shift is known": 1}
    assert told["limits"] == ["matmul in float32: u = 0.00049, tensor cores"]


def test_what_a_plugin_prints_is_no_part_of_the_report(conform: Callable[..., Result]) -> None:
    loud = RIGHT.replace("    return x + x", "    print('from the op')\n    return x + x").replace(
        "    samples = [", "    print('from the hook')\n    samples = ["
    )
    result = conform(loud, "--json", "--case", "twice/forward/(3)/float32/contiguous*")
    assert json.loads(result.stdout)["ok"]
    assert "needle-twice 1.5: from the hook" in result.stderr
    assert "from the op" in result.stderr


def test_list_prints_the_ids_and_runs_nothing(conform: Callable[..., Result]) -> None:
    result = conform(WRONG, "--list", "--case", "*/float32/contiguous*")
    assert result.exit_code == 0
    assert "twice/forward/(3)/float32/contiguous on numpy" in result.stdout.splitlines()
    assert json.loads(CliRunner().invoke(needle, ["conform", "twice", "--list", "--json"]).stdout)


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["nobody"], "no installed plugin is called 'nobody'"),
        (["numpy", "--case", "nothing/*"], "no check of numpy matches 'nothing/*'"),
        (["numpy", "--device", "nowhere"], "there is nothing to check on nowhere"),
        (["numpy", "--device", "numpy:7"], "backend 'numpy' has no device 'numpy:7'"),
        (["numpy", "--seed", "-1"], "--seed"),
        ([], "Missing argument 'NAME'"),
    ],
)
def test_a_wrong_command_ends_with_2(site: Site, args: list[str], text: str) -> None:
    result = CliRunner().invoke(needle, ["conform", *args])
    assert result.exit_code == 2
    assert text in result.stderr


def test_a_broken_plugin_ends_with_1_and_one_message(site: Site) -> None:
    site.install("needle-twice", {"ops": {"twice": "needle_twice"}}, RIGHT.replace("registrar.case", "registrar.cse"))
    done = site.python("import sys; sys.argv = ['needle', 'conform', 'twice']; from needle_core.cli import main; main()")
    assert done.returncode == 1
    assert done.stderr.startswith("error: needle-twice 1.0: needle_conformance: AttributeError: ")
    assert done.stderr.endswith("hint: `NEEDLE_TRACEBACK=1 needle conform needle-twice` shows where\n")


def test_a_complete_run_is_remembered_and_a_part_is_not(conform: Callable[..., Result]) -> None:
    conform(RIGHT, "--quick", "--case", "twice/forward/*")
    assert evidence.recall() == []
    done = json.loads(CliRunner().invoke(needle, ["conform", "twice", "--device", "numpy", "--quick", "--json"]).stdout)
    (known,) = evidence.recall()
    assert (known.distribution, known.version, known.device, known.mode) == ("needle-twice", "1.5", "numpy", "quick")
    assert known.counts == {"twice": {"passed": done["run"], "failed": 0, "expected": 0}}


def test_a_result_that_cannot_be_kept_is_a_warning(
    conform: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NEEDLE_CACHE", str(tmp_path / "file"))
    result = conform(RIGHT, "--quick")
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith(f"warning: {tmp_path}/file/conformance: the result cannot be kept")


def test_help(site: Site) -> None:
    result = CliRunner().invoke(needle, ["conform", "--help"])
    assert result.exit_code == 0
    assert "NAME is that of an entry point" in result.stdout


def test_kernels_that_fail_are_an_error(site: Site) -> None:
    kernels = "\n@hookimpl\ndef needle_register_kernels(registrar, backend):\n    import nowhere\n"
    site.install("needle-twice", {"ops": {"twice": "needle_twice"}}, RIGHT + kernels)
    done = site.python("import sys; sys.argv = ['needle', 'conform', 'twice']; from needle_core.cli import main; main()")
    assert (done.returncode, done.stdout) == (1, "")
    assert "\nerror: needle-twice 1.0: needle_register_kernels for " in done.stderr
    assert "No module named 'nowhere'" in done.stderr


@pytest.mark.parametrize(
    ("deed", "ending"),
    [("__import__('os')._exit(0)", "exit status 0"), ("__import__('ctypes').string_at(0)", "signal SIGSEGV")],
    ids=["leaves", "crashes"],
)
def test_check_that_ends_the_process_is_named(site: Site, deed: str, ending: str) -> None:
    site.install("needle-twice", {"ops": {"twice": "needle_twice"}}, RIGHT.replace("return x + x", f"return {deed}"))
    code = "import sys; sys.argv = ['needle', 'conform', 'twice', '--device', 'numpy', '--json', '--case', 'twice/forward/*']\n"
    done = site.python(code + "from needle_core.cli import main; main()")
    assert (done.returncode, done.stdout) == (1, "")
    error, hint = done.stderr.splitlines()[-2:]
    found = re.fullmatch(rf"error: the process ended \({ending}\) in the check (twice/forward/.+ on numpy)", error)
    assert found
    assert hint == f"  hint: `needle conform twice --case {shlex.quote(found[1])} --seed 0 --device numpy`"


@pytest.mark.parametrize("command", [["matrix"], ["plugins", "why", "twice"], ["conform", "twice"]])
def test_import_that_ends_the_process_is_told(site: Site, command: list[str]) -> None:
    site.install("needle-twice", {"ops": {"twice": "needle_twice"}}, "import os; os._exit(0)")
    done = site.python(f"import sys; sys.argv = ['needle', *{command}]; from needle_core.cli import main; main()")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: the process ended (exit status 0) in `needle {' '.join(command)}`\n  hint: `needle doctor`\n"
    )


def test_status_of_a_command_is_that_of_its_process(site: Site) -> None:
    done = site.python("import sys; sys.argv = ['needle', 'conform', 'nobody']; from needle_core.cli import main; main()")
    assert done.returncode == 2
    assert "no installed plugin is called 'nobody'" in done.stderr
