"""`needle diff` names the first op of a step that differs on two devices: here NumPy, and loopback with a planted bug."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from needle_core.backend import device
from needle_core.cli.diff import diff
from needle_core.op import KERNELS

pytestmark = pytest.mark.once

PROGRAM = """
import numpy as np

import needle_core as ndl
from needle_core import nn

ndl.manual_seed(0)
model = nn.Sequential(nn.Linear(20, 30), nn.BatchNorm1d(30), nn.GELU(), nn.Dropout(0.1), nn.Linear(30, 5))
opt = ndl.optim.Adam(model.parameters(), lr=1e-3)
rng = np.random.default_rng(0)
x, y = ndl.Tensor(rng.normal(size=(50, 20)).astype("float32")), ndl.Tensor(np.arange(50) % 5)


@ndl.compile
def step(x, y):
    opt.reset_grad()
    scores = model(x)
    loss = ndl.cross_entropy(scores, y)
    loss.backward()
    opt.step()
    return loss, (ndl.argmax(scores, axis=1) == y).sum()


for i in range(3):
    print("step", i, float(step(x, y)[0]))
"""


def _last(factor: float) -> Callable[[Any], Any]:
    """Wrong in the last element alone."""

    def change(y: Any) -> Any:
        wrong = np.array(y)
        wrong.flat[-1] *= y.dtype.type(factor)
        return wrong

    return change


BUGS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "a constant is wrong in its fifth digit": ("erf", lambda y: y * y.dtype.type(1 + 1e-5)),
    "the last product is not added": ("matmul", _last(1 - 1e-4)),
    "a divisor is one less": ("sum", lambda y: y * y.dtype.type(50 / 49)),
    "a half of precision is lost": ("exp", lambda y: np.asarray(y).astype(np.float16).astype(y.dtype)),
    "random bits are others": ("random_bits", lambda y: y ^ (1 << 20)),
    "an edge becomes nan": ("sqrt", lambda y: np.where(y >= np.max(y), np.nan, y).astype(y.dtype)),
    "an index is one too high": ("iota", lambda y: y + 1),
}


@pytest.fixture
def program(tmp_path: Path) -> str:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM, encoding="utf-8")
    return str(path)


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(diff, arguments)


def _plant(monkeypatch: pytest.MonkeyPatch, op: str, change: Callable[[Any], Any]) -> None:
    assert device("loopback:0")
    right = KERNELS[op, "loopback"]
    monkeypatch.setitem(KERNELS, (op, "loopback"), lambda *buffers, **attrs: change(right(*buffers, **attrs)))


def test_devices_that_agree_are_told_to(program: str) -> None:
    shown = _run("numpy", "loopback:0", program)
    assert shown.exit_code == 0, shown.output
    assert "ops in 1 step of an optimizer: all within bounds; the nearest is" in shown.stdout


def test_each_op_is_listed_in_order_with_its_line_its_errors_and_its_times(program: str) -> None:
    shown = _run("numpy", "loopback:0", program, "--json", "--steps", "2")
    assert "step 0" in shown.stderr
    assert "step 1" not in shown.stderr
    told = json.loads(shown.stdout)
    ops = told["ops"]
    assert told["devices"] == ["numpy", "loopback:0"]
    assert told["steps"] == 2
    assert [c["number"] for c in ops] == list(range(1, len(ops) + 1))
    assert all(0 <= c["local"] <= 1 and c["accumulated"] >= 0 and min(c["seconds"]) > 0 for c in ops)
    gelu = next(c for c in ops if c["op"] == "gelu")
    assert (gelu["operands"], gelu["result"]) == ("float32[50, 30], approximate='none'", "float32[50, 30]")
    assert gelu["place"] == "program.py:17"
    assert len([c for c in ops if c["op"] == "gelu"]) == 2


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found_and_nothing_else(bug: str, program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    op, change = BUGS[bug]
    _plant(monkeypatch, op, change)
    shown = _run("numpy", "loopback:0", program, "--json")
    assert shown.exit_code == 1, shown.output
    ops = json.loads(shown.stdout)["ops"]
    wrong = [c for c in ops if not c["local"] <= 1]
    assert wrong[0]["op"] == op
    assert {c["op"] for c in wrong} <= {op, *(c["within"] for c in wrong)}
    text = _run("numpy", "loopback:0", program).stdout
    assert f"out of bounds; the first is #{wrong[0]['number']}, {op}" in text
    assert "on loopback:0 for" in text
    assert f"`needle conform loopback --case '{op}*'`" in text


def test_an_op_is_judged_by_what_it_was_given_and_the_drift_goes_on(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _plant(monkeypatch, "erf", lambda y: y * y.dtype.type(1.5))
    ops = json.loads(_run("numpy", "loopback:0", program, "--json").stdout)["ops"]
    wrong = next(c["number"] for c in ops if c["local"] > 1)
    later = [c for c in ops if c["number"] > wrong and c["op"] == "matmul"]
    assert max(c["accumulated"] for c in later) > 0.01
    assert max(c["local"] for c in later) <= 1


def test_operands_are_read_as_they_lie_on_the_second_device(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert device("loopback:0")
    right = KERNELS["matmul", "numpy"]

    def blind(a: Any, b: Any) -> Any:  # to strides
        return right(*(np.ravel(x, order="K").reshape(x.shape) for x in (a, b)))

    monkeypatch.setitem(KERNELS, ("matmul", "numpy"), blind)  # loopback, which is open, keeps the other one
    ops = json.loads(_run("loopback:0", "numpy", program, "--json").stdout)["ops"]
    assert {c["op"] for c in ops if not c["local"] <= 1} == {"matmul"}


def test_a_composite_with_a_kernel_is_compared_whole(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(x: Any, *, approximate: str) -> Any:
        return x

    monkeypatch.setitem(KERNELS, ("gelu", "loopback"), wrong)
    ops = json.loads(_run("numpy", "loopback:0", program, "--json").stdout)["ops"]
    assert {c["op"] for c in ops if not c["local"] <= 1} == {"gelu"}


def test_a_program_without_an_optimizer_is_compared_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "short.py"
    path.write_text("import needle_core as ndl\nprint((ndl.ones((2, 3)) @ ndl.ones((3, 2))).sum())\n")
    shown = _run("numpy", "loopback:0", str(path))
    assert shown.exit_code == 0, shown.output
    assert "ops in the whole program: all within bounds" in shown.stdout


@pytest.mark.parametrize(
    ("devices", "text", "said"),
    [
        (("numpy", "numpy"), "", "numpy and numpy are the same device"),
        (("numpy", "nothing"), "", "nothing"),
        (("numpy", "loopback:0"), "", "computed nothing on numpy"),
        (("numpy", "loopback:0"), "1 / 0", "ZeroDivisionError"),
    ],
)
def test_what_cannot_be_compared_is_told(devices: tuple[str, str], text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(text)
    shown = _run(*devices, str(path))
    assert shown.exit_code != 0
    assert said in shown.output


def test_a_program_that_fails_is_compared_until_then_and_told_without_what_runs_it(program: str) -> None:
    path = Path(program)
    path.write_text(PROGRAM.replace("    loss.backward()\n", "    raise RuntimeError('too early')\n"), encoding="utf-8")
    shown = _run("numpy", "loopback:0", program)
    assert shown.exit_code == 1
    assert "ops in what ran before the program failed: all within bounds" in shown.stdout
    assert "RuntimeError: too early" in shown.stderr
    assert "runpy" not in shown.stderr
