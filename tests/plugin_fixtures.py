"""Real installed distributions, built in a temporary folder on sys.path, for the tests of plugins."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from needle_core import backend as backends, op
from needle_core.plugins import registry

HEAD = """
from needle_core.plugins import hookimpl
needle_api = 1
"""

BACKEND = """
from needle_core.backend import Backend

class Device(Backend):
    name = "{name}"
    def devices(self): return [self.name]
    def from_numpy(self, array, device): return array
    def to_numpy(self, buffer): return buffer
    def empty(self, shape, dtype, device): raise NotImplementedError

@hookimpl
def needle_register_backends(registrar):
    registrar.backend(Device)
"""

SOUND = HEAD + BACKEND.format(name="wanted")

OP = """
from needle_core.op import composite

@composite(lambda x: (x, {{}}))
def {name}(x):
    return x

@hookimpl
def needle_register_ops(registrar):
    registrar.op({name})
"""

KERNEL = (
    HEAD
    + """
import numpy as np
from needle_core.doors import elementwise
from needle_core.op import primitive

@primitive(elementwise)
def wanted(x):
    "An op with a kernel for NumPy."

@hookimpl
def needle_register_ops(registrar):
    registrar.op(wanted)

@hookimpl
def needle_register_kernels(registrar, backend):
    registrar.kernels({{"wanted": {kernel}}})
"""
)

EntryPoints = Mapping[str, Mapping[str, str]]


def hook(name: str, body: str, parameters: str = "registrar") -> str:
    """A module with one hook."""
    return f"{HEAD}\n@hookimpl\ndef {name}({parameters}):\n    {body}\n"


def of(module: str, *, group: str = "backends", name: str = "wanted") -> dict[str, dict[str, str]]:
    return {group: {name: module}}


def bundled_pip() -> str:
    """The pip that comes with Python, which runs out of its wheel; the environment of the tests has none."""
    ensurepip = pytest.importorskip("ensurepip")
    wheels = sorted(Path(ensurepip.__file__).with_name("_bundled").glob("pip-*.whl"))
    if not wheels:
        pytest.skip("this Python comes without pip")
    return str(wheels[-1] / "pip")


class Site:
    """A folder of installed distributions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(
        self, distribution: str, entry_points: EntryPoints, source: str | None, *, version: str = "1.0", metadata: bool = True
    ) -> str:
        """Install a distribution with one module, named like it, unless `source` is None; the module's name."""
        module = distribution.replace("-", "_")
        info = self.folder / f"{module}-{version}.dist-info"
        info.mkdir(parents=True)
        if metadata:
            text = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n\nDescription with\nName: not-this\n"
            (info / "METADATA").write_text(text, encoding="utf-8")
        groups = (
            f"[needle_core.{group}]\n" + "".join(f"{n} = {v}\n" for n, v in es.items()) for group, es in entry_points.items()
        )
        (info / "entry_points.txt").write_text("\n".join(groups), encoding="utf-8")
        if source is not None:
            (self.folder / f"{module}.py").write_text(textwrap.dedent(source), encoding="utf-8")
        installed = [*info.iterdir(), self.folder / f"{module}.py", info / "RECORD"]
        (info / "RECORD").write_text("".join(f"{path.relative_to(self.folder)},,\n" for path in installed), encoding="utf-8")
        importlib.invalidate_caches()
        return module

    def pip_install(self, distribution: str, entry_points: EntryPoints, source: str, *, version: str = "1.0") -> str:
        """The same by pip, from a wheel that is built for it; the module's name."""
        built = Site(self.folder.with_name(f"{distribution}-wheel"))
        module = built.install(distribution, entry_points, source, version=version)
        info = built.folder / f"{module}-{version}.dist-info"
        (info / "WHEEL").write_text("Wheel-Version: 1.0\nGenerator: needle\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive = shutil.make_archive(str(built.folder), "zip", built.folder)
        wheel = Path(archive).rename(self.folder.parent / f"{module}-{version}-py3-none-any.whl")
        command = [sys.executable, bundled_pip(), "install", "--no-index", "--no-deps", "--no-compile", "--quiet"]
        options = ["--disable-pip-version-check", "--target", str(self.folder), str(wheel)]
        subprocess.run([*command, *options], check=True, capture_output=True, timeout=60)
        importlib.invalidate_caches()
        return module

    def backend(self, name: str, distribution: str | None = None) -> str:
        """Install a sound plugin that offers the backend `name`."""
        distribution = distribution or f"needle-{name}-backend"
        module = distribution.replace("-", "_")
        return self.install(distribution, {"backends": {name: module}}, HEAD + BACKEND.format(name=name))

    def python(self, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run `code` in a fresh interpreter that sees this site."""
        path = os.pathsep.join([str(self.folder), *sys.path])
        known = {name: value for name, value in os.environ.items() if not name.startswith("NEEDLE_")}
        return subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            env={**known, "PYTHONPATH": path, **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """An empty site on sys.path, and a registry that has not looked yet; both, and what was opened, are gone after the test."""
    for variable in ("NEEDLE_PLUGINS", "NEEDLE_STRICT", "NEEDLE_DEVICE"):
        monkeypatch.delenv(variable, raising=False)
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    known = set(sys.modules)
    registry.forget()
    yield Site(folder)
    registry.forget()
    _close(folder)
    for name in set(sys.modules) - known:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def _close(folder: Path) -> None:
    """Forget the backends of a site that were opened."""
    for name in [name for name, plugin in backends._makers.items() if plugin.site == str(folder)]:
        closed = backends._backends.pop(name, None)
        for device in [device for device in backends._devices.values() if device.backend is closed]:
            del backends._devices[device.name]
        for key in [key for key in op.KERNELS if key[1] == name]:
            del op.KERNELS[key]
        del backends._makers[name]
