"""Which checks a plugin gets, and that leaving something out is a failure."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from needle_core.backend import device
from needle_core.errors import ArgumentError, DeviceError, PluginError
from needle_core.plugins import registry
from needle_core.testing import CASES, Check, MismatchError, check, checks
from needle_core.testing.report import Report, run
from needle_core.testing.suite import core_ops, suite
from tests.plugin_fixtures import HEAD, Site, site

__all__ = ["site"]

TWICE = """
from needle_core.doors import floating
from needle_core.op import composite

@composite(floating)
def twice(x):
    return x + x

@hookimpl
def needle_register_ops(registrar):
    registrar.op(twice)
"""
CASE = """
from needle_core.testing.samples import COMPLEX, floats, real, sample

@hookimpl
def needle_conformance(registrar):
    samples = [sample(real(3)), sample(real(2, 3))]
    registrar.case("twice", lambda x: 2 * x, samples, gradient=COMPLEX, exact=True, result=floats)
"""
SOON = f"{date.today().year + 1}-12-31"
EXPECT = '    registrar.expect_failure("{pattern}", "it is known", until="{until}")\n'
WRONG = TWICE.replace("x + x", "x * 3")
PRIMITIVE = (
    TWICE.replace("composite", "primitive").replace("return x + x", "...").replace("twice", "double")
    + """
@hookimpl
def needle_register_kernels(registrar, backend):
    if backend == "numpy":
        registrar.kernels({"double": lambda x: x + x})
"""
)
PAIR = """
from needle_numpy_backend.backend import NumpyBackend

class Left(NumpyBackend):
    name = "left"
    def devices(self):
        return ["left"]

class Right(NumpyBackend):
    name = "right"
    def devices(self):
        return ["right"]

@hookimpl
def needle_register_backends(registrar):
    registrar.backend(Left)
    registrar.backend(Right)
"""
OPTIMIZER = """
from needle_core.optim import Optimizer

class Still(Optimizer):
    def init(self, param):
        return {}
    def update(self, p, g, state, step, **hyper):
        return p, state

@hookimpl
def needle_register_optimizers(registrar):
    registrar.optimizer(Still)
"""


def install(site: Site, source: str, group: str = "ops", name: str = "twice") -> None:
    site.install("needle-twice", {group: {name: "needle_twice"}}, HEAD + source, version="1.5")


def report(name: str = "twice", **options: Any) -> Report:
    made = suite(name, **options)
    return run(made, made.checks)


def failed(done: Report) -> dict[str, str]:
    return {r.planned.id: r.text for r in done.results if r.outcome == "failed"}


def without_gpu(absent: dict[str, str]) -> dict[str, str]:
    """What was not checked, but for cuda, which opens on some machines only."""
    return {what: why for what, why in absent.items() if "cuda" not in what}


def test_an_op_is_checked_on_every_backend_that_opens(site: Site) -> None:
    install(site, TWICE + CASE)
    site.backend("spare")  # whose buffers are arrays
    site.install("needle-shut-backend", {"backends": {"shut": "needle_shut_backend"}}, HEAD + "raise OSError('no driver')")
    made = suite("twice")
    assert set(made.devices) >= {"loopback:0", "numpy", "spare"}
    assert without_gpu(made.absent) == {
        "shut": "needle-shut-backend 1.0: import: OSError: no driver",
        "guards around operands on spare": "its memory is not the host's, or from_numpy copies",
    }
    assert (made.name, made.distribution, made.version, made.mode) == ("twice", "needle-twice", "1.5", "full")
    assert "twice/forward/(2,3)/float32/contiguous on loopback:0" in {planned.id for planned in made.checks}
    assert {r.planned.device for r in run(made, made.checks).results if r.outcome == "failed"} == {"spare"}  # has no kernels


def test_an_op_is_checked_where_it_is_asked_for(site: Site) -> None:
    install(site, TWICE + CASE)
    assert suite("twice", device="loopback:1").devices == ["loopback:1"]
    with pytest.raises(DeviceError, match="no backend is called 'nowhere'"):
        suite("twice", device="nowhere")


def test_a_primitive_is_checked_where_it_has_a_kernel(site: Site) -> None:
    install(site, PRIMITIVE + CASE.replace("gradient=COMPLEX, ", "").replace("twice", "double"), name="double")
    made = suite("double")
    assert made.devices == ["numpy"]
    without = "the backend has no kernel for this primitive"
    assert without_gpu(made.absent) == {"double on cpp": without, "double on loopback:0": without}


def test_a_primitive_without_any_kernel_fails(site: Site) -> None:
    source = PRIMITIVE.replace("twice", "double").replace('"numpy"', '"none"').replace("double", "triple")
    install(site, source + CASE.replace("twice", "triple"), name="triple")
    assert failed(report("triple")) == {"triple/count/none": "no installed backend has a kernel for this primitive"}


def test_ids_are_unique_and_the_twice_in_every_process_and_for_every_seed(site: Site) -> None:
    install(site, TWICE + CASE)
    ids = [planned.id for planned in suite("twice").checks]
    assert len(set(ids)) == len(ids)
    assert [planned.id for planned in suite("twice", 7).checks] == ids
    told = site.python("from needle_core.testing import checks; print('\\n'.join(map(str, checks('twice'))))")
    assert told.stdout.splitlines() == ids, told.stderr


def test_quick_checks_are_some_of_the_full_ones(site: Site) -> None:
    install(site, TWICE + CASE)
    quick, full = ({planned.id for planned in suite("twice", quick=q).checks} for q in (True, False))
    assert quick < full


@pytest.mark.parametrize("quick", [True, False])
def test_quick_checks_of_a_backend_are_some_of_the_full_ones_and_as_many_as_promised(quick: bool) -> None:
    made = suite("numpy", quick=quick)
    assert made.promised.total() == len(made.checks)
    assert len({planned.id for planned in made.checks}) == len(made.checks)
    assert {planned.id for planned in made.checks} <= {planned.id for planned in suite("numpy").checks}


def test_a_backend_is_checked_on_every_op_of_the_core() -> None:
    assert {planned.subject for planned in suite("numpy").checks} > {op.name for op in core_ops()} | {"backend", "modules"}


def test_a_wrong_op_fails_with_the_line_that_repeats_it(site: Site) -> None:
    install(site, WRONG + CASE)
    done = report(device="numpy")
    assert not done.ok
    first = done.failures()[0]
    assert first.first.planned.check.size == 3
    assert first.repeats[0] == f"needle conform twice --case '{first.first.planned.id}' --seed 0 --device numpy"


def test_the_pytest_form_raises_what_fails(site: Site) -> None:
    install(site, WRONG + CASE)
    (wrong,) = [c for c in checks("twice") if c.id == "twice/forward/(3)/float32/contiguous on numpy"]
    assert isinstance(wrong, Check)
    with pytest.raises(MismatchError):
        wrong()


def test_the_pytest_form_works_after_plugins_were_forgotten(site: Site) -> None:
    install(site, TWICE + CASE)
    made = checks("twice", quick=True)
    registry.forget()
    for c in made:
        c()


def test_five_lines_of_pytest_prove_a_plugin(site: Site, tmp_path: Path) -> None:
    install(site, TWICE + CASE)
    (tmp_path / "test_twice.py").write_text(
        "import pytest\n"
        "from needle_core.testing import checks\n\n"
        '@pytest.mark.parametrize("check", checks("twice"), ids=str)\n'
        "def test_conformance(check): check()\n"
    )
    site.install("site-path", {}, None)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        env={"PYTHONPATH": str(site.folder)}, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert f"{len(suite('twice').checks)} passed" in done.stdout, done.stdout


# -- nothing is left out ------------------------------------------------------------------------------------------------------


def test_an_op_without_a_case_fails(site: Site) -> None:
    install(site, TWICE)
    assert failed(report(device="numpy")).keys() == {"twice/count/none on numpy"}


def test_an_optimizer_without_a_case_fails(site: Site) -> None:
    install(site, OPTIMIZER, "optimizers", "Still")
    assert "Still/count/none on numpy" in failed(report("Still", quick=True, device="numpy"))


def test_an_op_of_the_core_without_a_case_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(CASES, "exp")
    made = suite("numpy", quick=True)
    assert [p.id for p in made.checks if p.subject == "exp"] == ["exp/count/none"]


def test_fewer_checks_than_promised_fail(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, TWICE + CASE)
    generate = check.checks_of_op
    monkeypatch.setattr(check, "checks_of_op", lambda *args, **options: list(generate(*args, **options))[1:])
    text = failed(report(device="numpy"))["twice/count/checks on numpy"]
    assert text.startswith("the checks are not those that the declaration promises: ")


def test_a_case_whose_checks_cannot_be_made_fails(site: Site) -> None:
    broken = CASE.replace("[sample(real(3)), sample(real(2, 3))]", "[3]")
    install(site, TWICE + broken)
    text = failed(report(device="numpy"))["twice/count/checks on numpy"]
    assert text.startswith("the checks cannot be made: ")


def test_samples_that_promise_nothing_fail(site: Site) -> None:
    empty = CASE.replace("[sample(real(3)), sample(real(2, 3))]", "[]")
    install(site, TWICE + empty)
    assert failed(report(device="numpy"))["twice/count/checks on numpy"].endswith("the case has no samples")


# -- expected failures and limits ---------------------------------------------------------------------------------------------


def test_an_expected_failure_is_none(site: Site) -> None:
    expected = EXPECT.format(pattern="twice/*/*", until=SOON).replace("twice/*/*", "twice/[!c]*")
    install(site, WRONG + CASE + expected)
    done = report(device="numpy")
    assert done.counts["expected"] > 10
    assert done.expected() == {"it is known": done.counts["expected"]}
    assert set(failed(done).values()) <= {"passes, and is expected to fail: it is known"}  # strict


def test_an_expected_failure_that_passes_fails(site: Site) -> None:
    expected = EXPECT.format(pattern="twice/forward/(3)/float32/contiguous", until=SOON)
    install(site, TWICE + CASE + expected)
    assert failed(report(device="numpy")) == {
        "twice/forward/(3)/float32/contiguous on numpy": "passes, and is expected to fail: it is known"
    }


def test_an_expected_failure_past_its_date_fails(site: Site) -> None:
    expected = EXPECT.format(pattern="twice/forward/(3)/float32/contiguous", until="2020-12-31")
    install(site, WRONG + CASE + expected)
    text = failed(report(device="numpy"))["twice/forward/(3)/float32/contiguous on numpy"]
    assert text == "still fails after 2020-12-31, until when it may: it is known"


def test_a_pattern_that_fits_no_check_fails(site: Site) -> None:
    install(site, TWICE + CASE + EXPECT.format(pattern="some/*", until=SOON))
    assert failed(report()) == {
        "expectations/pattern/some/*": "no check has an id like that; its failure was expected because it is known"
    }


@pytest.mark.parametrize("options", [{"quick": True}, {"device": "numpy"}], ids=str)
def test_a_pattern_may_fit_no_check_of_a_part(site: Site, options: dict[str, Any]) -> None:
    expected = EXPECT.format(pattern="twice/forward/(3)/float32/flipped on loopback:0", until=SOON)
    install(site, TWICE + CASE + expected)
    assert report(**options).ok


def test_a_pattern_that_fits_no_check_fails_a_quick_run_too(site: Site) -> None:
    install(site, TWICE + CASE + EXPECT.format(pattern="twice/forwrd/*", until=SOON))
    assert failed(report(quick=True)).keys() == {"expectations/pattern/twice/forwrd/*"}


def test_what_is_raised_in_a_plugin_is_told_with_its_place(site: Site) -> None:
    install(site, TWICE.replace("return x + x", "raise KeyError('nobody')") + CASE)
    text = failed(report(device="numpy"))["twice/forward/(3)/float32/contiguous on numpy"]
    assert re.search(r"nobody.* \(in .*needle_twice\.py:\d+\)$", text), text


def test_a_pattern_for_a_device_that_is_not_there_may_fit_nothing(site: Site) -> None:
    site.install("needle-shut-backend", {"backends": {"shut": "needle_shut_backend"}}, HEAD + "raise OSError('no driver')")
    install(site, TWICE + CASE + EXPECT.format(pattern="twice/* on shut", until=SOON))
    assert report().ok


def test_a_declared_roundoff_widens_the_bounds(site: Site) -> None:
    coarse = TWICE.replace("x + x", "(x + x) * (1 + 1e-4)") + CASE.replace("exact=True, ", "")
    install(site, coarse)
    assert "twice/forward/(3)/float32/contiguous on numpy" in failed(report(device="numpy"))


def test_a_declared_roundoff_is_applied(site: Site) -> None:
    coarse = TWICE.replace("x + x", "(x + x) * (1 + 1e-4)") + CASE.replace("exact=True, ", "")
    install(site, coarse + '    registrar.roundoff("twice", "float32", 2.0**-12, "fast")\n')
    wrong = failed(report(device="numpy"))
    assert "twice/forward/(3)/float32/contiguous on numpy" not in wrong
    assert "twice/forward/(3)/float64/contiguous on numpy" in wrong


@pytest.mark.parametrize(
    ("line", "text"),
    [(f"registrar.roundoff('matmul', 'float32', {u}, 'tensor cores')", f"u is {u}, and must be less than 0.25")
     for u in (0.25, 0.99)]
    + [("registrar.expect_failure('*', 'it is known', '2999-01-01')", "until is 2999-01-01, and must not be later than 20")],
)  # fmt: skip
def test_declarations_that_would_excuse_everything_are_refused(site: Site, line: str, text: str) -> None:
    install(site, TWICE + CASE + f"    {line}\n")
    with pytest.raises(PluginError, match=text):
        suite("twice")


def test_two_backends_of_one_distribution_are_told_apart(site: Site) -> None:
    site.install("needle-pair", {"backends": {"left": "needle_pair", "right": "needle_pair"}}, HEAD + PAIR)
    ids = [planned.id for planned in suite("needle-pair", quick=True).checks]
    assert len(set(ids)) == len(ids)
    assert {"add/arguments/() () on left", "add/arguments/() () on right"} <= set(ids)


def test_two_checks_of_one_id_are_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, TWICE + CASE)
    generate = check.checks_of_op
    monkeypatch.setattr(check, "checks_of_op", lambda *args, **options: 2 * list(generate(*args, **options)))
    with pytest.raises(PluginError, match=r"twice: \d+ checks have the id of another\n  the first: twice/declaration"):
        suite("twice")


def test_without_the_loopback_device_optimizers_are_checked_on_the_default(site: Site) -> None:
    code = "from needle_core.testing.suite import suite; made = suite('Adam'); print(made.devices, *made.absent)"
    told = site.python(code, NEEDLE_PLUGINS="numpy,optimizers")
    assert told.stdout == "['numpy'] loopback\n", told.stderr


# -- what was not checked -----------------------------------------------------------------------------------------------------


def test_what_takes_two_devices_is_left_out_where_there_is_one(site: Site) -> None:
    code = """
from needle_core.testing.suite import suite
made = suite("numpy", quick=True)
ids = [planned.id for planned in made.checks]
print(made.absent["numpy beside another device"], sum("/devices/" in i for i in ids), made.promised["devices"])
for planned in made.checks:
    if "/devices/" in planned.id or planned.id.startswith("modules/") or "/count/" in planned.id:
        planned()
"""
    told = site.python(code, NEEDLE_PLUGINS="numpy")
    assert told.stdout == "no other device can be opened 0 0\n", told.stderr


def test_a_device_that_does_not_count_its_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert suite("numpy", quick=True).absent == {"leaks of numpy": "its memory_stats does not tell the bytes in use"}
    assert suite("loopback", quick=True).absent == {}
    monkeypatch.setattr(type(device("numpy").backend), "from_numpy", lambda self, array, device: array.copy())
    assert suite("numpy", quick=True).absent["guards around operands on numpy"]


# -- names --------------------------------------------------------------------------------------------------------------------


def test_an_unknown_name_is_refused_with_those_that_are_installed(site: Site) -> None:
    with pytest.raises(ArgumentError, match=r"no installed plugin is called 'nobody'\n  installed: .*needle-numpy-backend"):
        suite("nobody")


def test_a_broken_plugin_is_named_with_its_cause(site: Site) -> None:
    install(site, "raise OSError('gone')")
    with pytest.raises(PluginError, match=r"needle-twice 1.5: import: OSError: gone"):
        suite("twice")


def test_a_blocked_plugin_is_told_so(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, TWICE)
    monkeypatch.setenv("NEEDLE_PLUGINS", "-twice")
    registry.forget()
    with pytest.raises(PluginError, match=r"needle-twice 1.5: selection: NEEDLE_PLUGINS=-twice"):
        suite("twice")


def test_a_name_of_two_distributions_is_refused(site: Site) -> None:
    install(site, TWICE)
    site.install("needle-other", {"kernels": {"twice": "needle_other"}}, HEAD)
    with pytest.raises(PluginError, match="'twice'"):
        suite("twice")


def test_an_op_that_two_plugins_claim_is_checked_for_neither(site: Site) -> None:
    install(site, TWICE)
    site.install("needle-other", {"ops": {"twice": "needle_other"}}, HEAD + TWICE)
    with pytest.raises(PluginError, match="each claims the op 'twice'"):
        suite("needle-other")


def test_the_host_must_not_pass_the_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEEDLE_FALLBACK", "allow")
    with pytest.raises(ArgumentError, match="NEEDLE_FALLBACK=allow would let the host pass the checks"):
        suite("numpy")
