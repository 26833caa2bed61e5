"""Isolation: everything that can be wrong with a plugin, one after the other, each in a distribution that is really installed.

In all cases the host works on, nothing of the culprit stays behind, and the error names distribution, version, phase, cause and
the next command. The hooks that only checkers call are in test_plugins_declarations.py.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import threading
import warnings
from dataclasses import dataclass, field
from importlib.machinery import EXTENSION_SUFFIXES
from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core import Tensor, backend as backends, op
from needle_core.errors import DeviceUnavailableError, KernelError, PluginError, ShapeError
from needle_core.plugins import registry
from tests.plugin_fixtures import HEAD, KERNEL, OP, Site, hook, of, site

__all__ = ["site"]

pytestmark = pytest.mark.once

# What every culprit does first. None of it may outlast the failure.
MISCHIEF = """
import os, sys, warnings
os.environ["NEEDLE_CULPRIT"] = "was here"
os.environ.pop("NEEDLE_VICTIM")
sys.path.insert(0, "/nowhere")
warnings.simplefilter("ignore")
"""
WORKING = """
from needle_core.backend import Backend
from needle_numpy_backend.backend import NumpyBackend

class Wanted(NumpyBackend):
    name, host = "{name}", False
    def devices(self): return [self.name]

@hookimpl
def needle_register_backends(registrar):
    registrar.backend(Wanted)
"""
SOUND = HEAD + WORKING.format(name="wanted")
BOOM = "raise RuntimeError('boom')"


def optimizer(name: str, update: str = "return p - g * hyper.lr, state") -> str:
    """A module with an optimizer."""
    return f"""{HEAD}
from needle_core.optim import Optimizer

class {name}(Optimizer):
    def __init__(self, params, lr=0.1):
        super().__init__(params, lr)
    def update(self, p, g, state, hyper):
        {update}

@hookimpl
def needle_register_optimizers(registrar):
    registrar.optimizer({name})
"""


BACKENDS, OPS, KERNELS, OPTIMIZERS = (f"needle_register_{group}" for group in ("backends", "ops", "kernels", "optimizers"))
A_BACKEND = {"backends": {"wanted": "needle_culprit"}}


@dataclass
class Case:
    """The source of a culprit, what it promises, and the phase and the cause of its failure."""

    phase: str
    cause: str
    source: str
    promises: dict[str, dict[str, str]] = field(default_factory=lambda: A_BACKEND)
    command: str = "needle plugins why needle-culprit"


CULPRITS = {
    "import error": Case("import", "ModuleNotFoundError: No module named 'needle_nowhere'", "import needle_nowhere"),
    "import error inside a library": Case("import", "ImportError: cannot import name 'nothing'", "from os import nothing"),
    "missing shared library": Case(
        "import", "OSError: libneedle_gone.so: cannot open", "import ctypes; ctypes.CDLL('libneedle_gone.so')"
    ),
    "native module that cannot be loaded": Case("import", "ImportError: ", "import needle_culprit_native"),
    "syntax error": Case("import", "SyntaxError: ", "exec('def (:')"),
    "SystemExit": Case("import", "SystemExit: no licence", "raise SystemExit('no licence')"),
    "exit in a hook": Case(OPTIMIZERS, "SystemExit: 3", SOUND + hook(OPTIMIZERS, "import sys; sys.exit(3)")),
    "endless recursion": Case("import", "RecursionError: ", "def f(): f()\nf()"),
    "exception in the hook for backends": Case(BACKENDS, "RuntimeError: boom", hook(BACKENDS, BOOM)),
    "exception in the hook for ops": Case(OPS, "RuntimeError: boom", SOUND + hook(OPS, BOOM)),
    "exception in the hook for kernels": Case(
        f"{KERNELS} for numpy", "RuntimeError: boom", SOUND + hook(KERNELS, BOOM, "registrar, backend")
    ),
    "exception in the hook for optimizers": Case(OPTIMIZERS, "RuntimeError: boom", SOUND + hook(OPTIMIZERS, BOOM)),
    "exception after registering half": Case(
        OPS,
        "RuntimeError: boom",
        SOUND + OP.format(name="half").replace("registrar.op(half)", f"registrar.op(half); {BOOM}"),
        {**A_BACKEND, "ops": {"half": "needle_culprit"}},
    ),
    "exit without a word": Case("import", "import: SystemExit", "raise SystemExit"),
    "exception of no common kind": Case("import", "BaseException: odd", "raise BaseException('odd')"),
    "junk returned": Case(OPS, "the hook returned [1]", SOUND + hook(OPS, "return [1]")),
    "junk registered as a backend": Case(
        BACKENDS, "takes a subclass of Backend, not 3", hook(BACKENDS, "registrar.backend(3)")
    ),
    "junk registered as an op": Case(OPS, "registrar.op takes an op, not <built-in", SOUND + hook(OPS, "registrar.op(abs)")),
    "junk registered as a kernel": Case(
        f"{KERNELS} for numpy",
        "the kernel for 'exp' cannot be called: 3",
        SOUND + hook(KERNELS, "registrar.kernels({'exp': 3})", "registrar, backend"),
    ),
    "junk registered as an optimizer": Case(
        OPTIMIZERS, "takes a subclass of Optimizer, not <class 'int'>", SOUND + hook(OPTIMIZERS, "registrar.optimizer(int)")
    ),
    "a hook that is a generator": Case(OPS, "the hook returned <generator", SOUND + hook(OPS, "yield")),
    "abstract backend": Case(
        BACKENDS,
        "Wanted does not define devices",
        SOUND.replace("(NumpyBackend)", "(Backend)").replace("def devices", "def others"),
    ),
    "backend without a name": Case(
        BACKENDS, "has the name None, which is no identifier", SOUND.replace('name, host = "wanted", False', "name = None")
    ),
    "backend registered twice": Case(
        BACKENDS,
        "backend 'wanted' is registered twice",
        SOUND.replace("registrar.backend(Wanted)", "registrar.backend(Wanted); registrar.backend(Wanted)"),
    ),
    "backend registered in the hook for ops": Case(
        OPS, f"belongs in {BACKENDS}, and came in {OPS}", hook(OPS, "registrar.backend(None)")
    ),
    "wrong hook signature": Case(
        "check", "{'extra'} are declared in the hookimpl", SOUND + hook(OPS, "...", "registrar, extra")
    ),
    "hook with too few parameters": Case("check", f"{KERNELS}(registrar) has the wrong", SOUND + hook(KERNELS, "...")),
    "hook with an optional parameter": Case(
        "check", f"{OPS}(registrar, extra=...) has the wrong parameters", SOUND + hook(OPS, "...", "registrar, extra=None")
    ),
    "hook whose parameter has a default": Case(
        "check", f"{OPS}(registrar=...) has the wrong parameters", SOUND + hook(OPS, "...", "registrar=None")
    ),
    "hook without its decorator": Case(
        "check", f"{OPS} is a function without @hookimpl", SOUND + f"def {OPS}(registrar): ...\n"
    ),
    "unknown hook": Case("check", "unknown hook 'needle_register_layers'", SOUND + hook("needle_register_layers", "...")),
    "one op defined twice": Case(
        OPS,
        "op 'twin' is registered twice",
        HEAD + OP.format(name="twin").replace("registrar.op(twin)", "registrar.op(twin); registrar.op(twin)"),
        {"ops": {"twin": "needle_culprit"}},
    ),
    "op of the core": Case(
        OPS, "an op is already called 'exp'", HEAD + OP.format(name="exp"), {"ops": {"exp": "needle_culprit"}}
    ),
    "backend under another's name": Case(
        "promises", "promise backend 'wanted', but it was not registered", HEAD + WORKING.format(name="numpy")
    ),
    "kernel for another's op": Case(
        f"{KERNELS} for numpy",
        "kernel 'exp' was registered, but no entry point promises it",
        SOUND + hook(KERNELS, "registrar.kernels({'exp': abs})", "registrar, backend"),
    ),
    "other needle_api": Case(
        "check",
        "needle_api is 2, and this needle-core speaks 1",
        SOUND.replace("needle_api = 1", "needle_api = 2"),
        command="pip install --upgrade needle-core",
    ),
    "older needle_api": Case(
        "check",
        "needle_api is 0, and this needle-core speaks 1",
        SOUND.replace("needle_api = 1", "needle_api = 0"),
        command="pip install --upgrade needle-culprit",
    ),
    "no needle_api": Case("check", "needle_api is missing", SOUND.replace("needle_api = 1", "")),
    "needle_api that is no number": Case("check", "needle_api is True", SOUND.replace("needle_api = 1", "needle_api = True")),
    "promise that is not kept": Case("promises", "the entry points promise backend 'wanted', but it was not registered", HEAD),
    "registered, but not promised": Case(
        "promises", "op 'extra' was registered, but no entry point promises it", SOUND + OP.format(name="extra")
    ),
    "activation from within itself": Case(
        "import",
        "needle-culprit 2.1 needs itself while it is being activated",
        "from needle_core.plugins import registry\nregistry.find('backends', 'wanted')",
    ),
    "prints before it fails": Case("import", "RuntimeError: boom", f"print('hello'); {BOOM}"),
}


def state() -> dict[str, Any]:
    """What all plugins of a process share."""
    return {
        "ops": dict(op.OPS),
        "kernels": dict(op.KERNELS),
        "backends": backends.opened_backends(),
        "modules": sorted(name for name in sys.modules if "culprit" in name),
        "path": (id(sys.path), list(sys.path)),
        "warnings": list(warnings.filters),
        "environment": dict(os.environ),
        "stdout": sys.stdout,
    }


@pytest.fixture
def host(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A site with a sound plugin of each kind; NumPy is open, and no other backend."""
    numpy = ndl.device("numpy")
    monkeypatch.setattr(backends, "_backends", {"numpy": numpy.backend})
    monkeypatch.setattr(backends, "_devices", {"numpy": numpy})
    monkeypatch.setattr(op, "KERNELS", dict(op.KERNELS))
    monkeypatch.setenv("NEEDLE_VICTIM", "alive")
    site.install("needle-sound", {"backends": {"sound": "needle_sound"}}, HEAD + WORKING.format(name="sound"))
    site.install("needle-sound-op", {"ops": {"sound_op": "needle_sound_op"}}, HEAD + OP.format(name="sound_op"))
    site.install("needle-sound-opt", {"optimizers": {"Sound": "needle_sound_opt"}}, optimizer("Sound"))
    registry.forget()
    return site


def works() -> bool:
    """Whether the sound plugins compute."""
    x = Tensor([1.0, 2.0], device="sound", requires_grad=True)
    y = ndl.ops.sound_op(x * 3.0)
    ndl.sum(y).backward()
    ndl.optim.Sound([x], lr=1.0).step()
    return bool(y.tolist() == [3, 6] and x.tolist() == [-2, -1])


def refusal(group: str, name: str) -> PluginError:
    """The error for asking for a plugin's name; it is the same each time."""
    with pytest.raises(PluginError) as first:
        registry.find(group, name)  # type: ignore[arg-type]
    with pytest.raises(PluginError) as second:
        registry.find(group, name)  # type: ignore[arg-type]
    assert str(first.value) == str(second.value)
    assert first.value.__cause__ is second.value.__cause__ is not None
    return first.value


@pytest.mark.parametrize("case", CULPRITS.values(), ids=CULPRITS)
def test_culprit_is_named_leaves_no_trace_and_harms_nobody(host: Site, case: Case) -> None:
    (host.folder / f"needle_culprit_native{EXTENSION_SUFFIXES[0]}").write_bytes(b"no machine code")
    host.install("needle-culprit", case.promises, MISCHIEF + case.source, version="2.1")
    before = state()
    for group, names in case.promises.items():
        for name in names:
            summary, *_, hint = str(refusal(group, name)).splitlines()
            assert summary.startswith(f"needle-culprit 2.1: {case.phase}: ")
            assert case.cause in summary
            assert hint == f"  hint: `{case.command}`"
    assert state() == before
    assert works()


def test_syntax_error_in_the_file_of_the_plugin(host: Site) -> None:
    host.install("needle-culprit", A_BACKEND, "def (:", version="2.1")
    before = state()
    assert str(refusal("backends", "wanted")).startswith("needle-culprit 2.1: import: SyntaxError: invalid syntax")
    assert state() == before
    assert works()


def test_two_plugins_with_one_name(host: Site) -> None:
    for name in ("needle-culprit-a", "needle-culprit-b"):
        host.install(name, of(name.replace("-", "_")), MISCHIEF + SOUND, version="2.1")
    before = state()
    with pytest.raises(PluginError) as caught:
        ndl.device("wanted")
    both = "needle-culprit-a 2.1 and needle-culprit-b 2.1"
    assert str(caught.value).startswith(f"{both}: manifest: each claims the backend 'wanted', so it is taken from neither\n")
    assert str(caught.value).splitlines()[-1].startswith("  hint: `pip uninstall needle-culprit-a`, or NEEDLE_PLUGINS=")
    assert state() == before
    assert works()


def test_one_op_defined_by_two_plugins(host: Site) -> None:
    for name in ("needle-culprit-a", "needle-culprit-b"):
        module = name.replace("-", "_")
        host.install(name, of(module, group="ops", name="twin"), HEAD + OP.format(name="twin"))
    before = state()
    with pytest.raises(
        PluginError, match=r"needle-culprit-a 1.0 and needle-culprit-b 1.0: manifest: each claims the op 'twin'"
    ):
        _ = ndl.ops.twin
    assert state() == before
    assert works()


def test_claiming_the_name_of_the_backend_in_use(host: Site) -> None:
    x = Tensor([1.0], device="numpy")
    host.install("needle-culprit", of("needle_culprit", name="numpy"), MISCHIEF + HEAD + WORKING.format(name="numpy"))
    before = state()
    with pytest.raises(PluginError, match=r"needle-culprit 1.0 and needle-numpy-backend .*: each claims the backend 'numpy'"):
        registry.find("backends", "numpy")
    assert state() == before
    assert (x + x).tolist() == [2]


@pytest.mark.parametrize("metadata", [True, False], ids=["whole", "without METADATA"])
def test_metadata_left_behind_by_a_removed_package(host: Site, metadata: bool) -> None:
    host.install("needle-culprit", A_BACKEND, None, version="2.1", metadata=metadata)
    name = "needle-culprit 2.1" if metadata else "unnamed ?"
    before = state()
    text = str(refusal("backends", "wanted"))
    assert text.startswith(f"{name}: import: ModuleNotFoundError: No module named 'needle_culprit'")
    assert text.splitlines()[-1].startswith("  hint: `pip uninstall " if metadata else "  hint: `")
    assert state() == before
    assert works()


# -- when the backend opens ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("opening", "reason"),
    [
        ("import ctypes; ctypes.CDLL('libneedle_gone.so')", "OSError: libneedle_gone.so: cannot open shared object file"),
        ("raise SystemExit('no licence')", "SystemExit: no licence"),
        ("self.devices = lambda: 1 / 0", "ZeroDivisionError: division by zero"),
        ("self.devices = lambda: ['numpy']", "it has a device 'numpy', and the names of its devices begin with 'wanted'"),
        ("self.kernel_table = lambda: [1]", "TypeError: "),
        ("self.kernel_table = lambda: {'nonsense': abs}", "it has kernels for ops that do not exist: nonsense"),
    ],
    ids=["missing shared library", "SystemExit", "devices raises", "another's device", "junk kernels", "kernels of no op"],
)
def test_backend_that_cannot_be_opened(host: Site, opening: str, reason: str) -> None:
    opens = f"def __init__(self):\n        {'; '.join(MISCHIEF.split(chr(10))[1:-1])}\n        {opening}\n    def devices"
    host.install("needle-culprit", A_BACKEND, SOUND.replace("def devices", opens), version="2.1")
    registry.find("backends", "wanted")
    before = state()
    with pytest.raises(DeviceUnavailableError) as caught:
        ndl.device("wanted")
    summary, *_, plugin, hint = str(caught.value).splitlines()
    assert summary.startswith(f"backend 'wanted' is installed but cannot be opened: {reason}")
    assert plugin == f"  plugin: needle-culprit 2.1, needle_culprit in {host.folder}"
    assert hint == "  hint: `needle plugins why wanted`"
    assert caught.value.__cause__ is not None
    assert state() == before
    assert works()


# -- plugins that work, and yet do what others would notice ------------------------------------------------------------------


def test_import_that_prints_is_attributed_and_stdout_stays_clean(host: Site, capsys: pytest.CaptureFixture[str]) -> None:
    source = "import sys\nprint('hello'); print('two', 'words', end=''); sys.stdout.flush()\n"
    host.install("needle-culprit", A_BACKEND, source + SOUND.replace("registrar.backend", "print(); registrar.backend"))
    assert registry.find("backends", "wanted").name == "wanted"
    print("ours")
    told = capsys.readouterr()
    assert told.out == "ours\n"
    assert told.err == "needle-culprit 1.0: hello\nneedle-culprit 1.0: two words\n"


def test_what_a_plugin_prints_does_not_corrupt_json(host: Site) -> None:
    noisy = SOUND.replace("def devices", "def __init__(self): print('opening')\n    def devices")
    host.install("needle-culprit", A_BACKEND, "print('{')\n" + noisy)
    done = host.python(
        """
        import sys
        sys.argv = ["needle", "plugins", "why", "wanted", "--json"]
        from needle_core.cli import main
        main()
        """
    )
    assert [status["state"] for status in json.loads(done.stdout)] == ["active"]
    assert done.stderr == "needle-culprit 1.0: {\nneedle-culprit 1.0: opening\n"


def test_other_threads_print_as_ever_meanwhile(host: Site, capsys: pytest.CaptureFixture[str]) -> None:
    source = """
    import threading
    print("mine")
    other = threading.Thread(target=print, args=("theirs",))
    other.start(); other.join()
    """
    host.install("needle-culprit", A_BACKEND, source.replace("\n    ", "\n") + SOUND)
    registry.find("backends", "wanted")
    assert capsys.readouterr() == ("theirs\n", "needle-culprit 1.0: mine\n")


def test_stream_that_a_plugin_keeps_writes_to_stdout_later(host: Site, capsys: pytest.CaptureFixture[str]) -> None:
    module = host.install("needle-culprit", A_BACKEND, "import sys; kept = sys.stdout\n" + SOUND)
    registry.find("backends", "wanted")
    print("later", file=sys.modules[module].kept)
    assert capsys.readouterr() == ("later\n", "")


def test_what_is_put_on_the_path_hides_no_module(host: Site) -> None:
    source = "import sys; sys.path.insert(0, '/first'); sys.path.remove(sys.path[1]); sys.path = [*sys.path, '/last']\n"
    host.install("needle-culprit", A_BACKEND, source + SOUND)
    path, before = sys.path, list(sys.path)
    registry.find("backends", "wanted")
    try:
        assert sys.path is path
        assert sys.path == [*before, "/first", "/last"]
    finally:
        sys.path[:] = before


def test_warning_filters_stay_those_of_the_host(host: Site) -> None:
    host.install("needle-culprit", A_BACKEND, "import warnings; warnings.simplefilter('ignore')\n" + SOUND)
    before = list(warnings.filters)
    registry.find("backends", "wanted")
    assert warnings.filters == before


# -- kernels and optimizers that fail when they are used ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "text"),
    [
        ("lambda x: 1 // 0", "wanted: the kernel raised ZeroDivisionError: integer division or modulo by zero"),
        ("lambda x: x[:1]", "wanted: the kernel returned float32[1]"),
        ("lambda x: x.astype(np.float64)", "wanted: the kernel returned float64[2]"),
        ("lambda x: None", "wanted: the kernel returned None"),
    ],
    ids=["raises", "wrong shape", "wrong dtype", "nothing"],
)
def test_kernel_that_fails_names_op_operands_and_plugin(host: Site, kernel: str, text: str) -> None:
    host.install("needle-culprit", of("needle_culprit", group="ops"), KERNEL.format(kernel=kernel), version="2.1")
    x = Tensor([1.0, 2.0], device="numpy")
    for _ in range(2):
        with pytest.raises(KernelError) as caught:
            ndl.ops.wanted(x)
        summary, *details = str(caught.value).splitlines()
        assert summary == text
        assert {"  x: float32[2] on numpy", "  expected: float32[2] on numpy"} & set(details)
        assert "  kernel: of needle-culprit 2.1; `needle conform needle-culprit` checks it" in details
    assert x.tolist() == [1, 2]
    assert works()


def test_kernel_of_a_broken_plugin_is_left_out_and_the_op_is_as_before(host: Site) -> None:
    host.install(
        "needle-culprit",
        {"kernels": {"sound.exp": "needle_culprit"}},
        MISCHIEF + hook(KERNELS, BOOM, "registrar, backend"),
        version="2.1",
    )
    before = state()
    with pytest.warns(RuntimeWarning, match=f"^needle-culprit 2.1: {KERNELS} for numpy: RuntimeError: boom\n") as caught:
        device = ndl.device("sound")
    assert caught[0].filename == __file__
    after = state()
    for what in ("modules", "path", "warnings", "environment"):
        assert after[what] == before[what]
    np.testing.assert_allclose(ndl.exp(Tensor([1.0], device=device)).numpy(), [np.e], rtol=1e-6)
    assert works()


def test_optimizer_that_raises_in_the_middle_of_a_step_changes_nothing(host: Site) -> None:
    update = "assert p.shape != (2,), 'boom'\n        return p - g * hyper.lr, state"
    promises = of("needle_culprit", group="optimizers", name="Culprit")
    host.install("needle-culprit", promises, optimizer("Culprit", update), version="2.1")
    params = [Tensor(values, requires_grad=True) for values in ([1.0], [2.0, 3.0], [4.0])]
    culprit = ndl.optim.Culprit(params, lr=1.0)
    for p in params:
        ndl.sum(p).backward()
    saved = str(culprit.state_dict())
    with pytest.raises(AssertionError, match="boom") as caught:
        culprit.step()
    assert caught.value.__notes__ == [
        "no parameter was changed by this step of Culprit of needle-culprit 2.1, which `needle conform Culprit` checks"
    ]
    assert [p.tolist() for p in params] == [[1], [2, 3], [4]]
    assert str(culprit.state_dict()) == saved
    assert works()


def test_op_that_fails_in_an_optimizer_names_the_optimizers_distribution(host: Site) -> None:
    promises = of("needle_culprit", group="optimizers", name="Culprit")
    host.install("needle-culprit", promises, optimizer("Culprit", "return p + g.reshape((9,)), state"), version="2.1")
    p = Tensor([1.0, 2.0], requires_grad=True)
    ndl.sum(p).backward()
    with pytest.raises(ShapeError) as caught:
        ndl.optim.Culprit([p], lr=1.0).step()
    assert str(caught.value).splitlines()[-1] == (
        "  optimizer: no parameter was changed by this step of Culprit of needle-culprit 2.1, "
        "which `needle conform Culprit` checks"
    )


# -- threads ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [SOUND, BOOM], ids=["sound", "broken"])
def test_activation_from_two_threads_happens_once(host: Site, end: str) -> None:
    source = f"import os; os.environ['NEEDLE_TIMES'] = os.environ.get('NEEDLE_TIMES', '') + 'x'; print('once')\n{end}"
    host.install("needle-culprit", A_BACKEND, source)
    start, results = threading.Barrier(2), []

    def want() -> None:
        start.wait()
        try:
            results.append(registry.find("backends", "wanted"))
        except PluginError as error:
            results.append(str(error))

    threads = [threading.Thread(target=want) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    times = os.environ.pop("NEEDLE_TIMES", "")
    assert times == ("x" if end is SOUND else "")
    assert len(results) == 2
    assert results[0] == results[1]
    assert works()


# -- installed by pip ---------------------------------------------------------------------------------------------------------


def test_wheel_installed_by_pip(host: Site) -> None:
    host.pip_install(
        "needle-wheel", {"backends": {"wheel": "needle_wheel"}}, HEAD + WORKING.format(name="wheel"), version="3.0"
    )
    assert (Tensor([1.0], device="wheel") + 1.0).tolist() == [2]
    assert [s.version for s in registry.report() if s.distribution == "needle-wheel"] == ["3.0"]


def test_broken_wheel_installed_by_pip_and_then_half_removed(host: Site) -> None:
    module = host.pip_install("needle-culprit", A_BACKEND, MISCHIEF + BOOM, version="2.1")
    before = state()
    assert str(refusal("backends", "wanted")).startswith("needle-culprit 2.1: import: RuntimeError: boom\n")
    (host.folder / f"{module}.py").unlink()
    shutil.rmtree(host.folder / "__pycache__", ignore_errors=True)
    registry.forget()
    text = str(refusal("backends", "wanted"))
    assert re.search(r"^needle-culprit 2\.1: import: ModuleNotFoundError(.|\n)*hint: `pip uninstall needle-culprit`$", text)
    assert state() == before
    assert works()
