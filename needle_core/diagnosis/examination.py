"""One plugin, tried out in a process of its own, and what became of that process: it may crash, hang or print."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal, TypeAlias

from needle_core.errors import brief
from needle_core.plugins.manifest import Manifest, Plugin

Level: TypeAlias = Literal["note", "warning", "error"]

_GRACE: Final = 2.0  # seconds that a process has to say where it hangs, before it is killed


@dataclass(frozen=True)
class Finding:
    """Something found out in a phase; `command` is the next to type, if there is a certain one."""

    level: Level
    phase: str
    text: str
    command: str | None = None
    traceback: list[str] = field(default_factory=list)


@dataclass
class Examination:
    """What is known of one distribution, or of the default device."""

    distribution: str
    version: str = ""
    offers: dict[str, list[str]] = field(default_factory=dict)
    blocked: bool = False
    milliseconds: dict[str, float] = field(default_factory=dict)
    """What each phase took; the core was imported before."""
    devices: list[str] = field(default_factory=list)
    """The devices that computed rightly."""
    default: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def state(self) -> Literal["ok", "warnings", "broken", "blocked"]:
        levels = {finding.level for finding in self.findings}
        return "broken" if "error" in levels else "blocked" if self.blocked else "warnings" if "warning" in levels else "ok"

    @property
    def load_ms(self) -> float | None:
        """What a program waits for at first use: import, activation, the opening of backends."""
        steps = [
            ms for phase, ms in self.milliseconds.items() if phase in ("import", "activation") or phase.startswith("opening ")
        ]
        return sum(steps) if steps else None

    def found(self, level: Level, phase: str, text: str, command: str | None = None) -> None:
        self.findings.append(Finding(level, phase, text, command))


def examine(plugins: list[Plugin], manifest: Manifest, device: str, timeout: float) -> Examination:
    """Examine the plugins of one distribution: by its metadata first, then, if these are sound, in a process of its own."""
    first = plugins[0]
    offers: dict[str, list[str]] = {}
    for plugin in plugins:
        for group, names in plugin.offers.items():
            offers.setdefault(group, []).extend(names)
    result = Examination(first.distribution, first.version, offers)
    removal = f"pip uninstall {first.distribution}"
    for plugin in plugins:
        if plugin.unreadable:
            result.found("error", "metadata", f"{type(plugin.unreadable).__name__}: {plugin.unreadable}", removal)
        elif plugin.is_left_over:
            result.found("error", "metadata", f"left behind in {plugin.site}: there is no module {plugin.package!r}", removal)
    for group, name in manifest.conflicts():
        claimants = manifest.claimants(group, name)
        if set(plugins) & set(claimants):
            others = " and ".join(str(plugin) for plugin in claimants if plugin not in plugins)
            result.found(
                "error", "metadata", f"{group[:-1]} {name!r} is claimed by {others or 'two of its modules'} too", removal
            )
    result.blocked = first not in manifest.selected
    if result.blocked:
        result.found("note", "selection", f"NEEDLE_PLUGINS={manifest.selection.setting}", "unset NEEDLE_PLUGINS")
    elif result.state == "ok":
        _run(result, first.distribution, device, timeout)
    return result


def find_default_device(timeout: float) -> Examination:
    """Find the default device, in a process of its own, for every host backend is imported for it."""
    result = Examination("default device")
    _run(result, "", "", timeout)
    result.findings = [finding for finding in result.findings if finding.level == "error"]  # the others are the plugins' own
    return result


def _run(result: Examination, distribution: str, device: str, timeout: float) -> None:
    """Run the probe, and put down what it tells, what is printed meanwhile and how it ends."""
    with TemporaryDirectory() as folder:
        report, output = Path(folder, "report"), Path(folder, "output")
        report.touch()
        with output.open("wb") as file:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-X", "faulthandler", "-m", f"{__package__}.probe"),
                    *(str(report), distribution, device, str(timeout)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env={name: value for name, value in os.environ.items() if name != "NEEDLE_STRICT"},
            )
            try:
                status: int | None = process.wait(timeout + _GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                status = None
        told = [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()]
        printed = output.read_bytes()
    phase = _put_down(result, told)
    done = any("done" in line for line in told)
    fatal = status != 0 or not done
    _put_down_output(result, told, printed, fatal)
    if fatal:
        where = phase or ("end of the process" if done else "start of the process")
        ending = f"no answer within {timeout:g} s" if status is None else _ending(status)
        dump = re.search(r"^(Fatal Python error|Timeout \().*", printed.decode(errors="replace"), re.MULTILINE | re.DOTALL)
        trace = dump[0].splitlines(keepends=True) if dump else []
        place = next((line.strip() for line in trace if line.startswith("  File ")), "")
        command = f"export NEEDLE_PLUGINS=-{distribution}" if distribution else None
        result.findings.append(Finding("error", where, f"{ending}; {place}".removesuffix("; "), command, trace))


def _put_down(result: Examination, told: list[dict[str, Any]]) -> str:
    """Put down what the process told; the phase in which it ended, "" between phases."""
    phase = last = ""
    for line in told:
        if "phase" in line:
            last = phase or last
            phase = line["phase"]
        elif "level" in line:
            result.findings.append(Finding(phase=phase or last, **line))
        elif "ms" in line:
            result.milliseconds[phase] = result.milliseconds.get(phase, 0.0) + round(line["ms"], 3)
        elif "device" in line:
            result.devices.append(line["device"])
        elif "default" in line:
            result.default = line["default"]
    return phase


def _put_down_output(result: Examination, told: list[dict[str, Any]], printed: bytes, fatal: bool) -> None:
    """Put down what was printed in each phase; in a last one that was fatal, it is not the plugin's own."""
    phases = [line for line in told if "phase" in line]
    for begun, ended in pairwise(phases if fatal else [*phases, {"printed": len(printed)}]):
        if begun["phase"] and (text := printed[begun["printed"] : ended["printed"]].decode(errors="replace").strip()):
            result.found("warning", begun["phase"], f"printed {brief(text)}")


def _ending(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"the process ended by itself, with status {status}"
