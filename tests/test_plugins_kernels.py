"""Kernels that plugins bring for backends and ops of others, and for ops of their own."""

from __future__ import annotations

import re
import sys

import pytest

from needle_core import backend
from needle_core.errors import PluginError
from needle_core.plugins import registry
from tests.plugin_fixtures import HEAD, OP, Site, of, site

__all__ = ["site"]

KERNELS = (
    HEAD
    + """
@hookimpl
def needle_register_kernels(registrar, backend):
    registrar.kernels({kernels})
"""
)


@pytest.fixture(autouse=True)
def _no_open_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests have opened backends, for which plugins would be asked for kernels too."""
    for table in ("_backends", "_devices", "_makers"):
        monkeypatch.setattr(backend, table, {})


@pytest.fixture
def known_ops(site: Site) -> str:
    """The module of a plugin that offers an op, `some_op`, on which others may bring kernels."""
    return site.install("needle-some-op", {"ops": {"some_op": "needle_some_op"}}, HEAD + OP.format(name="some_op"))


def test_promised_kernels_are_called_for_that_backend_only(site: Site, known_ops: str) -> None:
    source = KERNELS.format(kernels="{'some_op': abs}")
    module = site.install("needle-fast", {"kernels": {"fancy.some_op": "needle_fast"}}, source)
    assert registry.kernels("plain") == {}
    assert module not in sys.modules
    assert registry.kernels("fancy") == {"some_op": abs}


def test_kernels_may_be_a_module(site: Site, known_ops: str) -> None:
    (site.folder / "needle_fast_kernels.py").write_text("def some_op(x): return x\ndef _private(): ...\n")
    source = "import needle_fast_kernels\n" + KERNELS.format(kernels="needle_fast_kernels")
    site.install("needle-fast", {"kernels": {"fancy.some_op": "needle_fast"}}, source)
    assert list(registry.kernels("fancy")) == ["some_op"]


def test_active_plugin_brings_kernels_for_its_own_ops_unpromised(site: Site) -> None:
    source = HEAD + OP.format(name="wanted") + KERNELS.format(kernels="{'wanted': abs}")
    site.install("needle-own", of("needle_own", group="ops"), source)
    assert registry.kernels("fancy") == {}
    registry.find("ops", "wanted")
    assert registry.kernels("fancy") == {"wanted": abs}


def test_plugin_activated_while_a_backend_opens_brings_its_kernels_too(site: Site) -> None:
    own = HEAD + OP.format(name="wanted") + KERNELS.format(kernels="{'wanted': abs}")
    site.install("needle-a-late", of("needle_a_late", group="ops"), own)
    needy = KERNELS.format(kernels="{'some_op': len}").replace(
        "    registrar", "    from needle_core.plugins import registry; registry.find('ops', 'wanted')\n    registrar"
    )
    site.install("needle-some-op", {"ops": {"some_op": "needle_some_op"}}, HEAD + OP.format(name="some_op"))
    site.install("needle-z-needy", {"kernels": {"fancy.some_op": "needle_z_needy"}}, needy)
    assert registry.kernels("fancy") == {"some_op": len, "wanted": abs}


BAD_KERNELS = {
    "unpromised": ({"fancy.some_op": "m"}, "{'some_op': abs, 'relu': abs}", "kernel 'relu' was registered, but no entry point"),
    "missing": ({"fancy.some_op": "m"}, "{}", "the entry points promise kernel 'some_op', but it was not registered"),
    "no such op": (
        {"fancy.nonsense": "m"},
        "{'nonsense': abs}",
        "no op is called 'nonsense'",
    ),
    "not callable": ({"fancy.some_op": "m"}, "{'some_op': 3}", "the kernel for 'some_op' cannot be called: 3"),
    "not a mapping": ({"fancy.some_op": "m"}, "[abs]", "registrar.kernels takes a module or a mapping"),
    "no op named": ({"fancy": "m"}, "{}", "the entry point 'fancy' in needle_core.kernels names no op"),
    "raises": ({"fancy.some_op": "m"}, "1 / 0", "ZeroDivisionError: division by zero"),
}


@pytest.mark.parametrize(("promise", "kernels", "cause"), BAD_KERNELS.values(), ids=BAD_KERNELS)
def test_bad_kernels_are_warned_of_and_left_out(
    site: Site, known_ops: str, promise: dict[str, str], kernels: str, cause: str
) -> None:
    site.install("needle-bad", {"kernels": dict.fromkeys(promise, "needle_bad")}, KERNELS.format(kernels=kernels))
    with pytest.warns(RuntimeWarning, match=rf"needle-bad 1.0: needle_register_kernels for fancy: .*{re.escape(cause)}"):
        assert registry.kernels("fancy") == {}
    assert [s.state for s in registry.report() if s.distribution == "needle-bad"] == ["broken"]


def test_bad_kernels_are_raised_in_strict_mode(site: Site, known_ops: str, monkeypatch: pytest.MonkeyPatch) -> None:
    site.install("needle-bad", {"kernels": {"fancy.some_op": "needle_bad"}}, KERNELS.format(kernels="1 / 0"))
    monkeypatch.setenv("NEEDLE_STRICT", "1")
    with pytest.raises(PluginError, match="ZeroDivisionError"):
        registry.kernels("fancy")


def test_two_kernels_for_one_op_and_backend_are_both_left_out(site: Site, known_ops: str) -> None:
    for letter in "ab":
        site.install(
            f"needle-{letter}", {"kernels": {"fancy.some_op": f"needle_{letter}"}}, KERNELS.format(kernels="{'some_op': abs}")
        )
    with pytest.warns(RuntimeWarning, match=r"needle-a 1.0 and needle-b 1.0: manifest: each claims the kernel 'fancy.some_op'"):
        assert registry.kernels("fancy") == {}


def test_plugin_activated_later_gives_kernels_to_open_backends(site: Site) -> None:
    site.backend("fancy")
    source = HEAD + OP.format(name="wanted") + KERNELS.format(kernels="{'wanted': abs} if backend == 'fancy' else {}")
    site.install("needle-own", of("needle_own", group="ops"), source)
    done = site.python("""
        from needle_core.backend import open_backend
        from needle_core.op import KERNELS
        from needle_core.plugins import registry
        open_backend("fancy")
        print(("wanted", "fancy") in KERNELS)
        registry.find("ops", "wanted")
        print(KERNELS["wanted", "fancy"])
    """)
    assert (done.stdout, done.stderr) == ("False\n<built-in function abs>\n", "")


def test_failing_kernels_for_an_open_backend_undo_the_whole_plugin(site: Site) -> None:
    site.backend("fancy")
    source = HEAD + OP.format(name="wanted") + KERNELS.format(kernels="1 / 0")
    site.install("needle-own", of("needle_own", group="ops"), source)
    done = site.python("""
        from needle_core.backend import open_backend
        from needle_core.op import OPS
        from needle_core.plugins import registry
        open_backend("fancy")
        try:
            registry.find("ops", "wanted")
        except ImportError as error:
            print(str(error).splitlines()[0], "wanted" in OPS)
    """)
    expected = "needle-own 1.0: needle_register_kernels for fancy: ZeroDivisionError: division by zero False\n"
    assert (done.stdout, done.stderr) == (expected, "")


def test_calls_of_ops_ask_neither_pluggy_nor_the_registry(site: Site) -> None:
    site.install("needle-own", of("needle_own", group="ops"), HEAD + OP.format(name="wanted"))
    done = site.python("""
        import sys
        import needle_core as ndl
        a, b = ndl.ones((2, 2)), ndl.ones((2, 2), dtype="float64")
        a.requires_grad = True

        def work():
            y = ndl.sum(ndl.ops.wanted(ndl.add(a, b) * 2.0 @ a.T)[0])
            y.backward()
            return float(y)

        first = work()
        asked = set()

        def profile(frame, event, argument):
            if event == "call":
                asked.add(frame.f_globals.get("__name__", ""))

        sys.setprofile(profile)
        second = work()
        sys.setprofile(None)
        print(first == second, "needle_core.launch" in asked, [m for m in asked if "pluggy" in m or "plugins" in m])
    """)
    assert (done.stdout, done.stderr) == ("True True []\n", "")


def test_why_tells_of_kernels_that_fail_when_a_backend_opens(site: Site) -> None:
    site.install("needle-own", of("needle_own", group="ops"), HEAD + OP.format(name="wanted") + KERNELS.format(kernels="1 / 0"))
    (status,) = registry.why("wanted")
    assert status.state == "broken"
    assert status.phase is not None
    assert status.phase.startswith("needle_register_kernels for ")
    assert status.reason == "ZeroDivisionError: division by zero"
    with pytest.raises(PluginError, match=r"needle_register_kernels for .*: ZeroDivisionError"):
        registry.check_kernels("needle-own")


def test_kernels_that_are_right_or_of_others_are_no_failure(site: Site) -> None:
    site.install("needle-own", of("needle_own", group="ops"), HEAD + OP.format(name="wanted") + KERNELS.format(kernels="1 / 0"))
    site.backend("spare")
    assert [status.state for status in registry.why("spare")] == ["active"]
    registry.check_kernels("needle-spare-backend")
