"""The hooks for those who check a plugin: called only when asked, and refused by name, phase and cause."""

from __future__ import annotations

import re
from datetime import date, timedelta
from pathlib import Path

import pytest

from needle_core.errors import PluginError
from needle_core.op import OPS
from needle_core.plugins import registry
from needle_core.plugins.activation import Activation
from needle_core.plugins.declarations import ExpectedFailure, Limit, matches
from tests.plugin_fixtures import HEAD, OP, Site, site

__all__ = ["site"]

pytestmark = pytest.mark.once

SOON = date.today() + timedelta(days=365)
CASE = f"""
from needle_core.testing.samples import real, sample

@hookimpl
def needle_conformance(registrar):
    registrar.case("same", lambda x: x + 0, [sample(real(3))], exact=True)
    registrar.roundoff("matmul", "float32", 2.0**-11, "tensor cores")
    registrar.expect_failure("same/special/*", "NaN is not kept", until="{SOON}")
"""
DOCTOR = """
@hookimpl
def needle_doctor(registrar):
    registrar.probe("library", lambda: "version 7")
"""
ASK = {"needle_conformance": Activation.declarations, "needle_doctor": Activation.probes}


def installed(site: Site, source: str) -> Activation:
    """A plugin with the op `same` and some more source, activated."""
    site.install("needle-same", {"ops": {"same": "needle_same"}}, HEAD + OP.format(name="same") + source, version="2.1")
    (activation,) = registry.activated("same")
    return activation


def hook(name: str, body: str, parameters: str = "registrar") -> str:
    return f"\n@hookimpl\ndef {name}({parameters}):\n    {body}\n"


def test_what_is_declared_comes_out(site: Site) -> None:
    activation = installed(site, CASE + DOCTOR)
    declared = activation.declarations()
    assert [(name, case.name, case.exact) for name, case in declared.cases.items()] == [("same", "same", True)]
    assert declared.limits == [Limit("matmul", "float32", 2.0**-11, "tensor cores")]
    assert declared.expected == [ExpectedFailure("same/special/*", "NaN is not kept", SOON)]
    assert {name: probe() for name, probe in activation.probes().items()} == {"library": "version 7"}


def test_asking_again_gives_the_same_again(site: Site) -> None:
    activation = installed(site, CASE)
    assert activation.declarations().limits == activation.declarations().limits


def test_a_plugin_without_these_hooks_declares_nothing(site: Site) -> None:
    activation = installed(site, "")
    assert (activation.declarations().cases, activation.declarations().expected, activation.probes()) == ({}, [], {})


def test_activation_does_not_call_them(site: Site, tmp_path: Path) -> None:
    body = f"open({str(tmp_path / 'called')!r}, 'w').close()"
    installed(site, hook("needle_conformance", body) + hook("needle_doctor", body))
    assert OPS["same"].name == "same"
    assert not (tmp_path / "called").exists()


def test_activation_imports_nothing_of_the_kit(site: Site) -> None:
    site.install("needle-same", {"ops": {"same": "needle_same"}}, HEAD + OP.format(name="same") + DOCTOR)
    done = site.python("""
        import sys
        from needle_core.op import find_op
        find_op("same")
        print([m for m in sys.modules if m.startswith("needle_core.testing.")])
    """)
    assert done.stdout == "[]\n", done.stderr


REFUSED = {
    "exception": ("needle_conformance", "raise RuntimeError('boom')", "RuntimeError: boom"),
    "exit": ("needle_conformance", "raise SystemExit('no')", "SystemExit: no"),
    "junk": ("needle_conformance", "return 3", "the hook returned 3; hooks register and return nothing"),
    "unknown field": ("needle_conformance", "registrar.case('same', abs, [], rouns=1)", "TypeError: "),
    "case twice": ("needle_conformance", "[registrar.case('same', abs, []) for _ in '12']", "'same' is declared twice"),
    "foreign case": ("needle_conformance", "registrar.case('add', abs, [])", "for 'add', which is no op of this plugin"),
    "no optimizer case": ("needle_conformance", "registrar.optimizer_case(3)", "takes an OptimizerCase, not 3"),
    "unknown op": ("needle_conformance", "registrar.roundoff('mtmul', 'float32', 0.1, 'r')", "no op is called 'mtmul'"),
    "no dtype": ("needle_conformance", "registrar.roundoff('matmul', 'int32', 0.1, 'r')", "more than the roundoff of 'int32'"),
    "no limit": ("needle_conformance", "registrar.roundoff('matmul', 'float32', 2.0**-24, 'r')", "u is 5.960"),
    "no reason": ("needle_conformance", "registrar.expect_failure('same/*', ' ', '2031-01-01')", "a reason is needed"),
    "no date": ("needle_conformance", "registrar.expect_failure('same/*', 'r', 'soon')", "until is 'soon'"),
    "wrong hook": ("needle_conformance", "registrar.probe('p', abs)", "needle_doctor, and came in needle_conformance"),
    "doctor raises": ("needle_doctor", "raise OSError('no driver')", "OSError: no driver"),
    "doctor junk": ("needle_doctor", "return ['fine']", "the hook returned ['fine']"),
    "no probe": ("needle_doctor", "registrar.probe('p', 'text')", "the probe 'p' cannot be called: 'text'"),
    "probe twice": ("needle_doctor", "[registrar.probe('p', abs) for _ in '12']", "'p' is declared twice"),
    "registers an op": ("needle_doctor", "registrar.op(same)", "belongs in needle_register_ops, and came in needle_doctor"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "body", "cause"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_is_named_and_harms_nobody(site: Site, name: str, body: str, cause: str) -> None:
    activation = installed(site, hook(name, body))
    with pytest.raises(PluginError, match=f"^needle-same 2.1: {name}: .*{re.escape(cause)}") as caught:
        ASK[name](activation)
    command = "conform" if name == "needle_conformance" else "doctor"
    assert str(caught.value).endswith(f"hint: `NEEDLE_TRACEBACK=1 needle {command} needle-same` shows where")
    assert caught.value.__cause__ is not None
    assert [status.state for status in registry.why("same")] == ["active"]


@pytest.mark.parametrize("name", ASK)
def test_ctrl_c_in_a_hook_goes_through(site: Site, name: str) -> None:
    activation = installed(site, hook(name, "raise KeyboardInterrupt"))
    with pytest.raises(KeyboardInterrupt):
        ASK[name](activation)


@pytest.mark.parametrize("name", ASK)
def test_a_wrong_signature_is_found_when_the_plugin_is_activated(site: Site, name: str) -> None:
    with pytest.raises(PluginError, match=f"needle-same 2.1: check: {re.escape(name)}\\(\\) has the wrong parameters"):
        installed(site, hook(name, "...", ""))


@pytest.mark.parametrize(
    ("pattern", "check", "expected"),
    [
        ("add/forward/(2,3)/float32/flipped", "add/forward/(2,3)/float32/flipped", True),
        ("log/forward/[1.0,2.0]/float32", "log/forward/[1.0,2.0]/float32", True),
        ("add/*", "add/forward/()/float32/contiguous", True),
        ("add/*", "addmm/forward/()/float32/contiguous", False),
        ("*/gradient/*", "exp/gradient/(3)", True),
        ("ADD/*", "add/gradient/(3)", False),
    ],
)  # fmt: skip
def test_patterns_are_those_of_file_names_and_an_id_matches_itself(pattern: str, check: str, expected: bool) -> None:
    assert matches(pattern, check) is expected
