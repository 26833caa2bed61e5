"""`needle doctor`: plugins that crash, hang, print, change what others share or compute wrongly, each really installed.

A run takes a third of a second for each plugin, so most of the tests look at the result of one run in one site.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import needle_core
from needle_core.backend import host_backends
from needle_core.cli import needle
from needle_core.diagnosis import environment
from tests.plugin_fixtures import HEAD, OP, Site

pytestmark = pytest.mark.once

OPTIMIZER = (
    HEAD
    + """
from needle_core.optim import Optimizer

class {name}(Optimizer):
    def __init__(self, params, lr=0.1):
        super().__init__(params, lr)
    def update(self, p, g, state, hyper):
        return {update}, state

@hookimpl
def needle_register_optimizers(registrar):
    registrar.optimizer({name})
"""
)

BACKEND = (
    HEAD
    + """
import numpy as np
from needle_core.backend import Backend
from needle_numpy_backend import create, elementary, elementwise, index, linalg, reduce, shape

class Device(Backend):
    name = "{name}"
    kernels = {kernels}
    def __init__(self): {opening}
    def devices(self): return ["{name}:0", "{name}:1"]
    def from_numpy(self, array, device): return array
    def to_numpy(self, buffer): return {result}
    def empty(self, shape, dtype, device): return np.empty(shape, dtype.numpy)
    def bind(self, kernel, attrs, inputs, output): return lambda *buffers: np.asarray(kernel(*buffers, **attrs))

@hookimpl
def needle_register_backends(registrar):
    registrar.backend(Device)
"""
)

PROBES = """
def library():
    raise OSError("libdevice.so.3 is missing")

@hookimpl
def needle_doctor(registrar):
    registrar.probe("driver", lambda: "version 3.1")
    registrar.probe("library", library)
"""

KERNELS = (
    HEAD
    + """
@hookimpl
def needle_register_kernels(registrar, backend):
    raise RuntimeError(f"none for {backend}")
"""
)


class Ward(Site):
    """A site of plugins, and `needle doctor` in it."""

    def optimizer(self, name: str, before: str = "", update: str = "p - hyper.lr * g", after: str = "") -> None:
        """Install an optimizer, with code before and after its own."""
        source = f"{before}\n{OPTIMIZER.format(name=name, update=update)}\n{after}"
        self.install(f"needle-{name.lower()}", {"optimizers": {name: f"needle_{name.lower()}"}}, source)

    def device(
        self,
        name: str,
        opening: str = "pass",
        result: str = "buffer",
        kernels: str = "(create, elementary, elementwise, index, linalg, reduce, shape)",
    ) -> None:
        """Install a backend with two devices."""
        source = BACKEND.format(name=name, opening=opening, result=result, kernels=kernels)
        self.install(f"needle-{name}", {"backends": {name: f"needle_{name}"}}, source)

    def doctor(self, *args: str, **environment: str) -> tuple[int, str]:
        code = f"import sys; sys.argv = {['needle', 'doctor', *args]!r}; from needle_core.cli import main; main()"
        done = self.python(code, **environment)
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def ward(tmp_path: Path) -> Ward:
    (tmp_path / "site").mkdir()
    return Ward(tmp_path / "site")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What is told of many plugins."""
    ward = Ward(tmp_path_factory.mktemp("site"))
    ward.optimizer("Sound")
    ward.optimizer("Slow", "import time; end = time.perf_counter() + 0.2\nwhile time.perf_counter() < end: pass")
    ward.optimizer("Raising", "raise RuntimeError('boom')")
    ward.optimizer("Leaving", "raise SystemExit(3)")
    ward.optimizer("Crashing", "import ctypes\nctypes.string_at(0)")
    ward.optimizer("Quitting", update="__import__('os')._exit(0)")
    ward.optimizer("Still", update="p * 1.0")
    ward.optimizer(
        "Loud",
        "print('hello')\nimport os; os.write(2, b'native'); os.environ['OMP_NUM_THREADS'] = '3'",
        "print('step') or p * 0.9",
    )
    ward.optimizer("Probed", after=PROBES)
    ward.optimizer("Blocked", "raise RuntimeError('it was imported')")
    ward.optimizer("Twice")
    ward.install("needle-twice", {"optimizers": {"Twice": "needle_twice"}}, None, version="0.9")
    ward.optimizer("Same")
    ward.install("needle-rival", {"optimizers": {"Same": "needle_rival"}}, HEAD)
    ward.install("needle-gone", {"ops": {"gone": "needle_gone"}}, None)
    ward.install("needle-idle", {"ops": {"nothing": "needle_idle"}}, HEAD)
    ward.install("needle-kernels", {"kernels": {"numpy.exp": "needle_kernels"}}, KERNELS)
    ward.install("needle-own", {"ops": {"own": "needle_own"}}, HEAD + OP.format(name="own") + KERNELS.removeprefix(HEAD))
    ward.device("two")
    ward.device("wrong", result="np.asarray(buffer * 1.5)")
    ward.device("lacking", kernels="(create, elementary, elementwise, index, reduce, shape)")
    ward.device("absent", opening="raise OSError('no driver')")
    status, out = ward.doctor(
        "--json", NEEDLE_PLUGINS="-Blocked", NEEDLE_PLUGIN="numpy", NEEDLE_STRICT="maybe", NEEDLE_FALLBACK="allow"
    )
    result: dict[str, Any] = json.loads(out)
    assert (status, result["ok"]) == (1, False)
    return result


def plugin(told: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(p for p in told["plugins"] if p["distribution"] == name)
    return found


def findings(told: dict[str, Any], name: str) -> list[tuple[str, str, str]]:
    """Level, phase and text of what was found about a plugin."""
    return [(f["level"], f["phase"], f["text"]) for f in plugin(told, name)["findings"]]


# -- plugins ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["needle-sound", "needle-two", "needle-numpy-backend", "needle-optimizers"])
def test_sound_plugin_is_ok(told: dict[str, Any], name: str) -> None:
    assert (plugin(told, name)["state"], findings(told, name)) == ("ok", [])


def test_devices_that_compute_are_listed(told: dict[str, Any]) -> None:
    assert plugin(told, "needle-two")["devices"] == ["two:0", "two:1"]


def test_each_phase_is_measured(told: dict[str, Any]) -> None:
    assert list(plugin(told, "needle-sound")["milliseconds"]) == ["import", "activation", "optimizer Sound", "needle_doctor"]
    assert plugin(told, "needle-slow")["milliseconds"]["import"] >= 200


def test_exception_at_import_is_told_with_cause_and_next_command(told: dict[str, Any]) -> None:
    (finding,) = plugin(told, "needle-raising")["findings"]
    assert (finding["level"], finding["phase"]) == ("error", "import")
    assert finding["text"].startswith("needle-raising 1.0: import: RuntimeError: boom\n")
    assert finding["command"] == "needle plugins why needle-raising"
    assert finding["traceback"][-1].startswith("needle_core.errors.PluginError: ")
    assert "RuntimeError: boom\n" in finding["traceback"]


def test_system_exit_is_an_error_like_others(told: dict[str, Any]) -> None:
    ((level, phase, text),) = findings(told, "needle-leaving")
    assert (level, phase) == ("error", "import")
    assert "SystemExit: 3" in text


def test_killed_process_names_signal_and_place(told: dict[str, Any]) -> None:
    (finding,) = plugin(told, "needle-crashing")["findings"]
    assert (finding["level"], finding["phase"]) == ("error", "import")
    assert re.fullmatch(r'killed by SIGSEGV; File ".*ctypes.*", line \d+ in string_at', finding["text"])
    assert any("needle_crashing.py" in line for line in finding["traceback"])
    assert finding["command"] == "export NEEDLE_PLUGINS=-needle-crashing"


def test_process_that_ends_by_itself_is_told(told: dict[str, Any]) -> None:
    expected = ("error", "optimizer Quitting", "the process ended by itself, with status 0")
    assert findings(told, "needle-quitting") == [expected]


def test_wrong_result_is_an_error_on_each_device(told: dict[str, Any]) -> None:
    found = findings(told, "needle-wrong")
    assert [(level, phase) for level, phase, _ in found] == [("error", "device wrong:0"), ("error", "device wrong:1")]
    assert [text for *_, text in found] == ["a loss is 86.0625, and should be 57.375"] * 2


def test_op_that_the_host_computes_is_a_warning(told: dict[str, Any]) -> None:
    text = "there is no kernel for matmul: the host computed it, as NEEDLE_FALLBACK allows"
    assert findings(told, "needle-lacking") == [("warning", "device lacking:1", text)]
    assert plugin(told, "needle-lacking")["devices"] == ["lacking:0", "lacking:1"]


def test_device_that_is_not_at_hand_is_a_warning(told: dict[str, Any]) -> None:
    ((level, phase, text),) = findings(told, "needle-absent")
    assert (level, phase) == ("warning", "opening absent")
    assert "installed but cannot be opened: OSError: no driver" in text


def test_optimizer_that_does_not_move_is_an_error(told: dict[str, Any]) -> None:
    expected = ("error", "optimizer Still", "a step from [1.0, -2.0, 3.0] led to [1.0, -2.0, 3.0]")
    assert findings(told, "needle-still") == [expected]


def test_broken_promise_is_an_error(told: dict[str, Any]) -> None:
    ((level, phase, text),) = findings(told, "needle-idle")
    assert (level, phase) == ("error", "activation")
    assert "promise op 'nothing'" in text


def test_kernels_for_another_backend_that_fail_are_an_error(told: dict[str, Any]) -> None:
    ((level, phase, text),) = findings(told, "needle-kernels")
    assert (level, phase) == ("error", "kernels for numpy")
    assert "RuntimeError: none for numpy" in text


def test_kernels_for_an_own_op_that_fail_are_one_error(told: dict[str, Any]) -> None:
    ((level, phase, text),) = findings(told, "needle-own")
    host = host_backends()[0].name  # the first that is opened
    assert (level, phase) == ("error", f"kernels for {host}")
    assert f"needle_register_kernels for {host}: RuntimeError: none for {host}" in text


def test_own_probes_are_asked(told: dict[str, Any]) -> None:
    assert findings(told, "needle-probed") == [
        ("note", "driver", "version 3.1"),
        ("error", "library", "OSError: libdevice.so.3 is missing"),
    ]


def test_what_is_printed_and_changed_is_a_warning(told: dict[str, Any]) -> None:
    assert findings(told, "needle-loud") == [
        ("warning", "import", "the environment variables: OMP_NUM_THREADS was added"),
        ("warning", "import", "printed 'hello\\nnative'"),
        ("warning", "optimizer Loud", "printed 'step'"),
    ]
    assert plugin(told, "needle-loud")["state"] == "warnings"


def test_hang_ends_at_the_timeout_and_names_the_place(ward: Ward) -> None:
    ward.optimizer("Hanging", "import threading\nthreading.Event().wait()")
    _, out = ward.doctor("Hanging", "--json", "--timeout", "0.5")
    (finding,) = plugin(json.loads(out), "needle-hanging")["findings"]
    assert (finding["level"], finding["phase"]) == ("error", "import")
    assert re.fullmatch(r'no answer within 0.5 s; File ".*threading.py", line \d+ in wait', finding["text"])
    assert any("needle_hanging.py" in line for line in finding["traceback"])


# -- what others share ------------------------------------------------------------------------------------------------------

CHANGES = {
    "import sys; sys.path.insert(0, '/elsewhere')": "sys.path: /elsewhere was added",
    "import sys; sys.path.remove('/elsewhere')": "sys.path: /elsewhere was removed",
    "import sys; sys.meta_path.append(type('Finder', (), {'__repr__': lambda self: ''})())": "sys.meta_path: Finder was added",
    "import warnings; warnings.simplefilter('ignore', BytesWarning)": (
        "warnings.filters: ('ignore', None, <class 'BytesWarning'>, None, 0) was added"
    ),
    "import os; os.environ['SECRET'] = 'a'": "the environment variables: SECRET was added",
    "import os; os.environ['SECRET'] = 'b'": "the environment variables: SECRET was changed",
    "import numpy; numpy.seterr(divide='ignore')": "NumPy's error settings: divide was changed from warn to ignore",
    "import numpy; numpy.set_printoptions(precision=3)": "NumPy's print options: precision was changed from 8 to 3",
    "import numpy; numpy.random.seed(0)": "NumPy's random state was changed",
    "import random; random.seed(0)": "Python's random state was changed",
    "import signal; signal.signal(signal.SIGTERM, lambda *a: None)": "the signal handlers: SIGTERM was changed",
    "import locale; locale.setlocale(locale.LC_ALL, 'C.UTF-8')": "the locale was changed from C to C.UTF-8",
    "import os; os.chdir('/')": "the working folder was changed from /tmp to /",
    "from threading import *; Thread(target=Event().wait, name='pump', daemon=True).start()": "the threads: pump was added",
    "import sys, types; sys.modules['json'] = types.ModuleType('json')": "the loaded modules: json was replaced",
    "import sys; del sys.modules['json']": "the loaded modules: json was replaced",
    "import numpy; numpy.sum = max": "functions of other packages: numpy.sum was replaced",
    "import sys; sys.setrecursionlimit(5000)": "the interpreter: the recursion limit was changed",
    "import gc; gc.disable()": "the interpreter: garbage collection was changed from True to False",
    "import fractions; import numpy.polynomial": None,
}


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The changes that each of the programs makes, one after the other in one process."""
    code = """
        import json, os, time
        from needle_core.diagnosis.shared_state import SharedState, changes
        os.chdir("/tmp")
        common, found = SharedState(), {}
        for program in PROGRAMS:
            before = common.look()
            exec(program, {})
            found[program] = list(changes(before, common.look()))
        print(json.dumps(found), flush=True)
        os._exit(0)
    """.replace("PROGRAMS", repr(list(CHANGES)))
    done = Site(tmp_path_factory.mktemp("site")).python(code, LC_ALL="C")
    assert done.returncode == 0, done.stderr
    result: dict[str, list[str]] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("program", CHANGES)
def test_change_of_what_others_share_is_seen(program: str, changed: dict[str, list[str]]) -> None:
    assert changed[program] == ([CHANGES[program]] if CHANGES[program] else [])


# -- metadata and the environment -------------------------------------------------------------------------------------------


def test_metadata_left_behind_is_an_error_with_its_remedy(told: dict[str, Any]) -> None:
    (finding,) = plugin(told, "needle-gone")["findings"]
    assert (finding["level"], finding["phase"], finding["command"]) == ("error", "metadata", "pip uninstall needle-gone")
    assert finding["text"].endswith("there is no module 'needle_gone'")


def test_metadata_that_is_there_twice_is_a_warning(told: dict[str, Any]) -> None:
    texts = [f["text"] for f in told["findings"] if f["phase"] == "metadata"]
    assert len(texts) == 1
    assert texts[0].startswith("needle-twice is installed more than once: 0.9 in ")


@pytest.mark.parametrize(("name", "other"), [("needle-same", "needle-rival"), ("needle-rival", "needle-same")])
def test_conflict_names_the_other(told: dict[str, Any], name: str, other: str) -> None:
    assert findings(told, name) == [("error", "metadata", f"optimizer 'Same' is claimed by {other} 1.0 too")]


def test_blocked_plugin_is_not_imported(told: dict[str, Any]) -> None:
    assert plugin(told, "needle-blocked")["state"] == "blocked"
    assert plugin(told, "needle-blocked")["milliseconds"] == {}


def test_variables_that_are_wrong_are_pointed_out(told: dict[str, Any]) -> None:
    found = [(f["level"], f["text"], f["command"]) for f in told["findings"] if f["phase"] == "environment"]
    near = f"nobody reads NEEDLE_PLUGIN; did you mean NEEDLE_PLUGINS ({environment.VARIABLES['NEEDLE_PLUGINS']})?"
    assert found == [
        ("warning", near, "unset NEEDLE_PLUGIN"),
        ("error", "NEEDLE_STRICT=maybe is neither true nor false", "unset NEEDLE_STRICT"),
    ]


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("NEEDLE_FALLBACK", "NEEDLE_FALLBACK=maybe is none of error, warn, allow"),
        ("NEEDLE_TRACEBACK", "NEEDLE_TRACEBACK=maybe is neither true nor false"),
    ],
)
def test_value_that_nobody_understands_is_an_error(name: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "maybe")
    assert (name, wrong) in [(f.command.removeprefix("unset "), f.text) for f in environment.wrong_variables() if f.command]


def test_known_variables_are_those_that_the_sources_read() -> None:
    sources = (file.read_text(encoding="utf-8") for file in Path(needle_core.__file__).parent.rglob("*.py"))
    assert set(environment.VARIABLES) == {name for text in sources for name in re.findall(r"\bNEEDLE_[A-Z_]+[A-Z]\b", text)}


def test_default_device_and_versions_are_told(told: dict[str, Any]) -> None:
    assert told["default_device"]["reason"].startswith("the host backend of highest priority")
    assert told["default_device"]["name"] in [device for examined in told["plugins"] for device in examined["devices"]]
    assert told["environment"]["needle-core"] == needle_core.__version__


def test_selection_of_a_plugin_that_is_not_there_is_an_error(ward: Ward) -> None:
    _, out = ward.doctor("--json", NEEDLE_PLUGINS="nobody")
    (finding,) = json.loads(out)["findings"]
    assert "no installed plugin is called 'nobody'" in finding["text"]
    assert finding["command"] == "unset NEEDLE_PLUGINS"


# -- how it is shown --------------------------------------------------------------------------------------------------------


def test_backend_that_kills_its_process_leaves_no_default_device_and_a_report(ward: Ward) -> None:
    ward.install("needle-crash", {"backends": {"crash": "needle_crash"}}, "import os; os.abort()")
    status, out = ward.doctor("crash", "numpy", COLUMNS="100")
    rows = [" ".join(line.split()) for line in out.splitlines()]
    assert status == 1
    assert "default device: none" in rows
    assert any(row.startswith("error default device: killed by SIGABRT; File ") for row in rows)
    assert "needle-crash 1.0 broken" in rows
    assert any(row.startswith("needle-numpy-backend ") and " ok " in row and row.endswith(" numpy") for row in rows)
    assert any(row.startswith("error import: killed by SIGABRT; File ") for row in rows)
    assert "next: export NEEDLE_PLUGINS=-needle-crash" in rows
    assert "Current thread" not in out


def test_report_shows_tracebacks_when_wanted(ward: Ward) -> None:
    ward.optimizer("Raising", "raise RuntimeError('boom')")
    assert "Traceback (most recent call last)" in ward.doctor("Raising", NEEDLE_TRACEBACK="1")[1]


def test_unknown_name_is_an_error(ward: Ward) -> None:
    assert ward.doctor("nobody") == (
        1,
        "error: no installed plugin is called 'nobody'\n  hint: `needle plugins` lists what is installed\n",
    )


@pytest.mark.parametrize("seconds", ["nan", "inf", "0", "-1"])
def test_timeout_is_a_time(seconds: str) -> None:
    result = CliRunner().invoke(needle, ["doctor", "--timeout", seconds])
    assert result.exit_code == 2
    assert "--timeout" in result.stderr
