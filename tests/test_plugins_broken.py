"""A broken plugin is named, leaves no trace and harms nobody, whatever is wrong with it and whoever asks."""

from __future__ import annotations

import re
import sys
import threading
from pathlib import Path

import pytest

from needle_core.errors import ArgumentError, PluginError
from needle_core.op import OPS
from needle_core.plugins import registry
from tests.plugin_fixtures import HEAD, OP, SOUND, Site, of, site

__all__ = ["site"]


def hook(name: str, body: str, parameters: str = "registrar") -> str:
    """A module with one hook."""
    return f"{HEAD}\n@hookimpl\ndef {name}({parameters}):\n    {body}\n"


def counting(log: Path) -> str:
    """A line of a module that adds a letter to `log` whenever it is imported."""
    return f"with open({str(log)!r}, 'a') as log: log.write('x')\n"


BOOM = "raise RuntimeError('boom')"
BACKENDS, OPS_HOOK, OPTIMIZERS = "needle_register_backends", "needle_register_ops", "needle_register_optimizers"

BROKEN = {  # phase in which it fails -> what is wrong -> (the module, the cause)
    "import": {
        "import error": ("import needle_no_library", "ModuleNotFoundError: No module named 'needle_no_library'"),
        "missing library": ("import ctypes; ctypes.CDLL('libneedle_gone.so')", "OSError: libneedle_gone.so: cannot open"),
        "SystemExit": ("raise SystemExit('no licence')", "SystemExit: no licence"),
        "bare SystemExit": ("raise SystemExit", "SystemExit"),
        "BaseException": ("raise BaseException('odd')", "BaseException: odd"),
        "syntax error": ("def (:", "SyntaxError: invalid syntax"),
        "needs itself": (
            "from needle_core.plugins import registry\nregistry.find('backends', 'wanted')",
            "needle-broken 2.1 needs itself while it is being activated",
        ),
    },
    "check": {
        "no api number": (SOUND.replace("needle_api = 1", ""), "needle_api is missing"),
        "true as api number": (SOUND.replace("needle_api = 1", "needle_api = True"), "needle_api is True"),
        "newer api": (SOUND.replace("needle_api = 1", "needle_api = 2"), "needle_api is 2, and this needle-core speaks 1"),
        "older api": (SOUND.replace("needle_api = 1", "needle_api = 0"), "needle_api is 0, and this needle-core speaks 1"),
        "unknown hook": (SOUND + hook("needle_register_backend", "..."), "unknown hook 'needle_register_backend'"),
        "undecorated hook": (SOUND + f"def {OPS_HOOK}(registrar): ...\n", f"{OPS_HOOK} is a function without @hookimpl"),
        "parameter too many": (SOUND + hook(OPS_HOOK, "...", "registrar, extra"), "{'extra'} are declared in the hookimpl"),
        "parameter too few": (
            SOUND + hook("needle_register_kernels", "..."),
            "needle_register_kernels(registrar) has the wrong parameters",
        ),
        "optional parameter too many": (
            SOUND + hook(OPS_HOOK, "...", "registrar, extra=None"),
            f"{OPS_HOOK}(registrar, extra=...) has the wrong parameters",
        ),
        "parameter with a default": (
            SOUND + hook(OPS_HOOK, "...", "registrar=None"),
            f"{OPS_HOOK}(registrar=...) has the wrong parameters",
        ),
    },
    BACKENDS: {
        "exception": (hook(BACKENDS, BOOM), "RuntimeError: boom"),
        "not a backend": (hook(BACKENDS, "registrar.backend(int)"), "takes a subclass of Backend, not <class 'int'>"),
        "abstract": (SOUND.replace("def devices(self): return [self.name]", ""), "Device does not define devices"),
        "no name": (SOUND.replace('name = "wanted"', ""), "has the name None, which is no identifier"),
        "registered twice": (
            SOUND.replace("registrar.backend(Device)", "registrar.backend(Device); registrar.backend(Device)"),
            "backend 'wanted' is registered twice",
        ),
    },
    OPS_HOOK: {
        "exception": (SOUND + hook(OPS_HOOK, BOOM), "RuntimeError: boom"),
        "half registered": (
            SOUND + OP.format(name="half").replace("registrar.op(half)", f"registrar.op(half); {BOOM}"),
            "RuntimeError: boom",
        ),
        "junk returned": (SOUND + hook(OPS_HOOK, "return [1]"), "returned [1]; hooks register and return nothing"),
        "generator": (SOUND + hook(OPS_HOOK, "yield"), "the hook returned <generator"),
        "not an op": (hook(OPS_HOOK, "registrar.op(abs)"), "registrar.op takes an op, not <built-in"),
        "wrong hook": (hook(OPS_HOOK, "registrar.backend(None)"), f"belongs in {BACKENDS}, and came in {OPS_HOOK}"),
    },
    OPTIMIZERS: {
        "SystemExit": (SOUND + hook(OPTIMIZERS, "raise SystemExit(3)"), "SystemExit: 3"),
        "not an optimizer": (hook(OPTIMIZERS, "registrar.optimizer(int)"), "takes a subclass of Optimizer"),
    },
    "promises": {
        "not registered": (HEAD, "the entry points promise backend 'wanted', but it was not registered"),
        "not promised": (SOUND + OP.format(name="extra"), "op 'extra' was registered, but no entry point promises it"),
        "another's name": (SOUND.replace('"wanted"', '"numpy"'), "promise backend 'wanted', but it was not registered"),
    },
}
CASES = [
    pytest.param(source, phase, cause, id=f"{phase}: {what}")
    for phase, cases in BROKEN.items()
    for what, (source, cause) in cases.items()
]


@pytest.mark.parametrize(("source", "phase", "cause"), CASES)
def test_broken_plugin_is_named_and_leaves_no_trace(site: Site, tmp_path: Path, source: str, phase: str, cause: str) -> None:
    log = tmp_path / "imports"
    counted = counting(log) if "def (:" not in source else ""
    module = site.install("needle-broken", of("needle_broken"), counted + source, version="2.1")
    site.backend("sound")
    ops, path = dict(OPS), list(sys.path)

    with pytest.raises(PluginError) as first:
        registry.find("backends", "wanted")
    with pytest.raises(PluginError) as second:
        registry.find("backends", "wanted")

    summary, *_, hint = str(first.value).splitlines()
    assert summary.startswith(f"needle-broken 2.1: {phase}: ")
    assert cause in summary
    assert re.fullmatch(r"  hint: `(needle plugins why needle-broken|pip install --upgrade [a-z-]+)`", hint)
    assert str(second.value) == str(first.value)
    assert second.value.__cause__ is first.value.__cause__ is not None
    assert not counted or log.read_text() == "x"
    assert sys.path == path
    assert ops == OPS
    assert phase != "import" or module not in sys.modules
    assert registry.find("backends", "sound").name == "sound"


@pytest.mark.parametrize(("number", "upgrade"), [(0, "needle-broken"), (2, "needle-core")])
def test_other_api_number_says_what_to_upgrade(site: Site, number: int, upgrade: str) -> None:
    site.install("needle-broken", of("needle_broken"), f"needle_api = {number}")
    with pytest.raises(PluginError, match=f"hint: `pip install --upgrade {upgrade}`"):
        registry.find("backends", "wanted")


def test_op_of_the_core_cannot_be_taken(site: Site) -> None:
    taken = "taken_by_the_core"
    site.install("needle-core-op", of("needle_core_op", group="ops", name=taken), HEAD + OP.format(name=taken))
    OPS[taken] = core = object()  # type: ignore[assignment]
    try:
        with pytest.raises(PluginError, match=f"needle_register_ops: an op is already called {taken!r}"):
            registry.find("ops", taken)
        assert OPS[taken] is core
    finally:
        del OPS[taken]


def test_class_of_an_op_is_refused_with_the_remedy(site: Site) -> None:
    source = hook("needle_register_ops", "from needle_core import TensorOp; registrar.op(type('Swish', (TensorOp,), {}))")
    site.install("needle-broken", of("needle_broken", group="ops"), source)
    with pytest.raises(PluginError, match=r"registrar\.op\(Swish\(\)\) registers an instance"):
        registry.find("ops", "wanted")


def test_registrar_is_closed_after_the_hook(site: Site) -> None:
    source = SOUND.replace("registrar.backend(Device)", "registrar.backend(Device); global kept; kept = registrar")
    module = site.install("needle-late", of("needle_late"), source)
    device = registry.find("backends", "wanted")
    with pytest.raises(ArgumentError, match="belongs in needle_register_backends, and came after the hooks were through"):
        sys.modules[module].kept.backend(device)


def test_submodules_of_a_failed_import_are_dropped_and_other_modules_stay(site: Site) -> None:
    (site.folder / "needle_broken").mkdir()
    (site.folder / "needle_broken" / "__init__.py").write_text(
        "import needle_bystander, needle_broken.part; raise RuntimeError"
    )
    (site.folder / "needle_broken" / "part.py").write_text("")
    (site.folder / "needle_bystander.py").write_text("")
    site.install("needle-broken", of("needle_broken"), None)
    with pytest.raises(PluginError):
        registry.find("backends", "wanted")
    assert not {"needle_broken", "needle_broken.part"} & set(sys.modules)
    assert "needle_bystander" in sys.modules


def test_failed_import_cannot_change_the_path(site: Site) -> None:
    site.install(
        "needle-broken",
        of("needle_broken"),
        "import sys; sys.path.append('/nowhere'); sys.path = [*sys.path]; raise RuntimeError",
    )
    path, entries = sys.path, list(sys.path)
    with pytest.raises(PluginError):
        registry.find("backends", "wanted")
    assert sys.path is path
    assert path == entries


def test_keyboard_interrupt_passes_and_is_not_remembered(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "import os\nif 'INTERRUPTED' in os.environ: raise KeyboardInterrupt\n" + SOUND
    module = site.install("needle-slow", of("needle_slow"), source)
    monkeypatch.setenv("INTERRUPTED", "1")
    with pytest.raises(KeyboardInterrupt):
        registry.find("backends", "wanted")
    assert module not in sys.modules
    monkeypatch.delenv("INTERRUPTED")
    assert registry.find("backends", "wanted").name == "wanted"


@pytest.mark.parametrize("strict", ["0", "1"])
def test_plugin_may_need_another(site: Site, monkeypatch: pytest.MonkeyPatch, strict: str) -> None:
    monkeypatch.setenv("NEEDLE_STRICT", strict)
    monkeypatch.setenv("NEEDLE_PLUGINS", "wanted,other")
    site.backend("other")
    site.install(
        "needle-needy",
        of("needle_needy"),
        "from needle_core.plugins import registry\nregistry.find('backends', 'other')\n" + SOUND,
    )
    assert registry.find("backends", "wanted").name == "wanted"


# -- threads --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sound", [True, False])
def test_threads_that_want_one_plugin_activate_it_once(site: Site, tmp_path: Path, sound: bool) -> None:
    log = tmp_path / "imports"
    end = SOUND if sound else "raise RuntimeError('boom')"
    site.install("needle-wanted", of("needle_wanted"), counting(log) + end)
    start, results = threading.Barrier(8), []

    def want() -> None:
        start.wait()
        try:
            results.append(registry.find("backends", "wanted"))
        except PluginError as error:
            results.append(str(error))

    threads = [threading.Thread(target=want) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.read_text() == "x"
    assert len(results) == 8
    assert len(set(results)) == 1
