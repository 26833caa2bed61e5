"""One plugin, tried out in a process of its own, and what was found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from needle_core.diagnosis.process import Process
from needle_core.errors import brief
from needle_core.plugins.manifest import Manifest, Plugin

Level: TypeAlias = Literal["note", "warning", "error"]


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
    """Name and reason of the default device, if that is what was looked for."""
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
    """Examine the plugins of one distribution: by its metadata first, then, if these are sound, in a process of its own.

    `device` is where optimizers take a step; `timeout` is in seconds.
    """
    first = plugins[0]
    offers: dict[str, list[str]] = {}
    for plugin in plugins:
        for group, names in plugin.offers.items():
            offers.setdefault(group, []).extend(names)
    result = Examination(first.distribution, first.version, offers, blocked=first not in manifest.selected)
    _look_at_metadata(result, plugins, manifest)
    if result.state == "ok":
        _put_down(result, Process(first.distribution, device, timeout), f"export NEEDLE_PLUGINS=-{first.distribution}")
    return result


def find_default_device(timeout: float) -> Examination:
    """Find the default device, in a process of its own, for every host backend is imported for it."""
    result = Examination("default device")
    _put_down(result, Process("", "", timeout), None)
    result.findings = [finding for finding in result.findings if finding.level == "error"]  # the others are the plugins' own
    return result


def _look_at_metadata(result: Examination, plugins: list[Plugin], manifest: Manifest) -> None:
    """Find what is wrong before anything is imported."""
    removal = f"pip uninstall {result.distribution}"
    if result.blocked:
        result.found("note", "selection", f"NEEDLE_PLUGINS={manifest.selection.setting}", "unset NEEDLE_PLUGINS")
    for plugin in plugins:
        if plugin.unreadable:
            result.found("error", "metadata", f"{type(plugin.unreadable).__name__}: {plugin.unreadable}", removal)
        elif plugin.is_left_over:
            result.found("error", "metadata", f"left behind in {plugin.site}: there is no module {plugin.package!r}", removal)
    for group, name in manifest.conflicts():
        claimants = manifest.claimants(group, name)
        if set(plugins) & set(claimants):
            others = " and ".join(str(plugin) for plugin in claimants if plugin not in plugins)
            text = f"{group[:-1]} {name!r} is claimed by {others or 'another of its modules'} too"
            result.found("error", "metadata", text, removal)


def _put_down(result: Examination, process: Process, remedy: str | None) -> None:
    """Put down what a probe told and printed, and how it ended if it did not end well, with the `remedy` for that."""
    for phase, line in process.told:
        if "level" in line:
            result.findings.append(Finding(phase=phase, **line))
        elif "ms" in line:
            result.milliseconds[phase] = result.milliseconds.get(phase, 0.0) + round(line["ms"], 3)
        elif "device" in line:
            result.devices.append(line["device"])
        elif "default" in line:
            result.default = line["default"]
    for phase, text in process.printed():
        result.found("warning", phase, f"printed {brief(text)}")
    if fault := process.fault():
        phase, text, trace = fault
        result.findings.append(Finding("error", phase, text, remedy, trace))
    order = [phase for phase, _ in process.told]
    result.findings.sort(key=lambda finding: order.index(finding.phase) if finding.phase in order else len(order))
