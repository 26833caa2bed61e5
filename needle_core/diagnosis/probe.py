"""What runs in a process of its own: `python -m needle_core.diagnosis.probe REPORT DISTRIBUTION DEVICE TIMEOUT`.

It tries out the plugins of the distribution; without one, it finds the default device. To the file REPORT it writes a line of
JSON for each phase that begins and for all that it finds, at once: if it dies, its parent still knows where. DEVICE is where
optimizers take a step. What still runs after TIMEOUT seconds is printed.
"""

from __future__ import annotations

import faulthandler
import inspect
import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

import needle_core as ndl
from needle_core.backend import default_device_reason, open_backend
from needle_core.diagnosis.shared_state import SharedState, changes
from needle_core.errors import DeviceError, DeviceUnavailableError, NeedleError, PluginError
from needle_core.fallback import fallbacks
from needle_core.plugins import activation, registry
from needle_core.plugins.manifest import Manifest, Plugin

T = TypeVar("T")

X: Final = [[1.0, 2.0], [3.0, 4.0]]
W: Final = [[0.5, -1.0], [2.0, 0.25]]
LOSS: Final = 57.375  # sum((X W)^2) / 2; this and the gradient for W are worked out by hand, and exact in float32
GRADIENT: Final = [[33.0, -6.5], [47.0, -9.0]]


class _FailedError(Exception):
    """A phase failed, and that has been told."""


class Teller:
    """Does one thing after the other, and tells what came of it; `others` are the plugins that it is not about."""

    def __init__(self, report: Path, others: list[Plugin]) -> None:
        self._report = report
        self._shared = SharedState()
        self._elsewhere = tuple(f"{plugin}: " for plugin in others)

    def tell(self, **what: Any) -> None:
        with self._report.open("a", encoding="utf-8") as file:
            file.write(json.dumps(what) + "\n")

    def phase(self, name: str, action: Callable[[], T]) -> T:
        """Do `action`; tell what it raised, warned of, and changed of what is common to all."""
        self._begin(name)
        with warnings.catch_warnings(record=True) as caught:
            before, begun = self._shared.look(), time.perf_counter()
            try:
                return action()
            except BaseException as cause:  # SystemExit too
                self._tell_cause(cause)
                raise _FailedError from cause
            finally:
                self.tell(ms=1e3 * (time.perf_counter() - begun))
                for warning in caught:
                    if not str(warning.message).startswith(self._elsewhere):  # what is wrong with others is told of them
                        self.tell(level="warning", text=f"{warning.category.__name__}: {warning.message}")
                for change in changes(before, self._shared.look()):
                    self.tell(level="warning", text=change)
                self._begin("")

    def _begin(self, name: str) -> None:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        self.tell(phase=name, printed=os.fstat(1).st_size)

    def _tell_cause(self, cause: BaseException) -> None:
        text, command = f"{type(cause).__name__}: {cause}".removesuffix(": "), None
        if isinstance(cause, NeedleError):
            text = str(cause)
            if cause.hint and cause.hint.startswith("`"):
                text, command = text.removesuffix(f"\n  hint: {cause.hint}"), cause.hint.strip("`")
        missing = isinstance(cause, DeviceUnavailableError)  # a driver that is not here: no fault of the plugin
        trace = traceback.format_exception(cause)
        self.tell(level="warning" if missing else "error", text=text, command=command, traceback=trace)


def examine(teller: Teller, plugins: list[Plugin], device: str) -> None:
    """Try out the plugins of a distribution."""
    for plugin in plugins:
        teller.phase("import", partial(_import, plugin))
    active = teller.phase("activation", lambda: registry.activated(plugins[0].distribution))
    for name in _offered(plugins, "backends"):
        with suppress(_FailedError):
            _examine_backend(teller, name)
    for plugin in plugins:
        with suppress(_FailedError):  # what failed for one backend is remembered, and would be told for each
            for name in _backends_of_kernels(plugin, device):
                teller.phase(f"kernels for {name}", partial(_open_with, plugin, name))
    for name in _offered(plugins, "optimizers"):
        with suppress(_FailedError):
            teller.phase(f"optimizer {name}", partial(_step, name, device))
    for each in active:
        with suppress(_FailedError):
            _ask(teller, each)


def find_default(teller: Teller) -> None:
    """Find the default device, and compute on it."""
    name, reason = teller.phase("default device", default_device_reason)
    teller.tell(default={"name": name, "reason": reason})
    teller.phase("default device", partial(_compute, name))


def _offered(plugins: list[Plugin], group: str) -> list[str]:
    return [name for plugin in plugins for name in plugin.offers.get(group, ())]


def _backends_of_kernels(plugin: Plugin, device: str) -> list[str]:
    """The backends to ask the plugin's kernels for: those it promises some for, then those that open here for certain."""
    promised = sorted({entry.partition(".")[0] for entry in plugin.offers.get("kernels", ())})
    sure = [device.partition(":")[0], "loopback"] if plugin.may_have_kernels else []
    return [name for name in dict.fromkeys([*promised, *sure]) if name in registry.names("backends")]


def _import(plugin: Plugin) -> None:
    """Import the plugin, without the care that the registry takes."""
    try:
        plugin.load()
    except BaseException as cause:
        raise registry.Failure(plugin, "import", cause).error() from cause


def _examine_backend(teller: Teller, backend: str) -> None:
    devices = teller.phase(f"opening {backend}", lambda: open_backend(backend).devices())
    if not devices:
        teller.tell(level="warning", text="it has no devices here")
    for device in devices:
        with suppress(_FailedError):
            teller.phase(f"device {device}", partial(_compute, device))
            teller.tell(device=device)
    for op in sorted(op for op, name in fallbacks() if name == backend):
        teller.tell(level="warning", text=f"there is no kernel for {op}: the host computed it, as NEEDLE_FALLBACK allows")


def _compute(device: str) -> None:
    """A product of matrices, forward and backward."""
    x, w = ndl.Tensor(X, device=device), ndl.Tensor(W, device=device, requires_grad=True)
    y = x @ w
    loss = (y * y).sum() / 2
    loss.backward()
    assert w.grad is not None
    for what, found, expected in (("a loss", loss, LOSS), ("a gradient", w.grad, GRADIENT)):
        if not np.allclose(found.numpy(), expected, rtol=1e-6):
            raise NeedleError(f"{what} is {found.numpy().tolist()}, and should be {expected}")


def _open_with(plugin: Plugin, backend: str) -> None:
    """Open a backend for which the plugin has kernels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the same as below
        ndl.device(backend)
    for status in registry.report():
        if status.module == plugin.value and status.state not in ("active", "conflict"):
            raise PluginError(f"{status.phase}: {status.reason}", hint=f"`{status.command}`")


def _step(name: str, device: str) -> None:
    """A step of an optimizer downhill."""
    if not device:
        raise DeviceError("no step was taken, for there is no default device")
    p = ndl.Tensor([1.0, -2.0, 3.0], device=device, requires_grad=True)
    before = p.numpy().copy()
    (p * p).sum().backward()
    optimizer = registry.find("optimizers", name)
    inspect.signature(optimizer).bind([p])
    optimizer([p]).step()
    after = p.numpy()
    if not (np.isfinite(after).all() and (after != before).all()):
        raise NeedleError(f"a step from {before.tolist()} led to {after.tolist()}")


def _ask(teller: Teller, active: activation.Activation) -> None:
    """Call the plugin's own probes."""
    for name, function in teller.phase("needle_doctor", active.probes).items():
        with suppress(_FailedError):
            teller.tell(level="note", text=str(teller.phase(name, function)))


def main() -> None:
    report, distribution, device, timeout = sys.argv[1:]
    faulthandler.dump_traceback_later(float(timeout))
    selected = Manifest().selected
    plugins = [plugin for plugin in selected if plugin.distribution == distribution]
    teller = Teller(Path(report), [plugin for plugin in selected if plugin not in plugins])
    with suppress(_FailedError):
        if plugins:
            examine(teller, plugins, device)
        else:
            find_default(teller)
    teller.tell(done=True)


if __name__ == "__main__":
    main()
