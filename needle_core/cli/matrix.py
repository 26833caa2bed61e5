"""Show which backend has which op, and on what evidence.

Ops by installed backends: a kernel of its own, the body of a composite, or nothing; and what the last conformance run showed.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from needle_core.cli import run_program, show_table
from needle_core.errors import DeviceError, NeedleError

if TYPE_CHECKING:
    from needle_core.op import Op
    from needle_core.plugins.declarations import Limit
    from needle_core.spec import Device
    from needle_core.testing.evidence import Evidence
    from needle_core.testing.usage import Usage

_LEGEND = """\
✓ all checks held in the last conformance run   ✗ some did not   ? never checked
outdated: checked in another version of the plugin, its backend or the core, or before their source was changed"""
_SOURCES = (".py", ".so", ".pyd", ".cu", ".cuh")


@dataclass(frozen=True)
class Cell:
    """An op on a device: how it runs ("native", "composite", "missing"), and the last evidence for that, if there is any."""

    support: str
    evidence: Evidence | None
    is_current: bool
    counts: Counter[str]

    @property
    def state(self) -> str:
        if self.support == "missing":
            return "missing"
        if self.evidence is None:
            return "unchecked"
        if not self.is_current:
            return "outdated"
        return "failed" if self.counts["failed"] else "held"

    def __str__(self) -> str:
        if self.evidence is None or self.support == "missing":
            return f"{self.support} ?" if self.support != "missing" else "missing"
        if self.state == "outdated":
            return f"{self.support} outdated"
        mark = f"✗ {self.counts['failed']} of {self.counts.total()}" if self.counts["failed"] else "✓"
        expected = f", {self.counts['expected']} expected failures" if self.counts["expected"] else ""
        return f"{self.support} {mark}{expected}{' quick' if self.evidence.mode == 'quick' else ''}"

    def as_dict(self) -> dict[str, Any]:
        told = self.evidence
        run = told and {"mode": told.mode, "seed": told.seed, "time": told.time, "version": told.version, "core": told.core}
        return {"support": self.support, "state": self.state, "checks": dict(self.counts), "run": run}


@click.command()
@click.option(
    "--model", metavar="FILE", type=click.Path(exists=True, dir_okay=False), help="Run FILE and show only what it uses."
)
@click.option("--device", "wanted", multiple=True, metavar="DEVICE", help="Show this one; may be repeated.  [default: all]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def matrix(model: str | None, wanted: tuple[str, ...], as_json: bool) -> None:
    """Show ops against installed backends, with the result of the last conformance run of each.

    native: the backend has a kernel; composite: the op's body runs; missing: neither. There is no tick without evidence:
    `needle conform NAME` makes it; another version, or a change of the source, puts it out of date.
    """
    used = _used_by(model) if model else None
    if used is not None and not used:
        click.echo(f"warning: {model} used no op", err=True)
    try:
        devices, absent = _devices(wanted)
    except DeviceError as unknown:
        raise click.UsageError(str(unknown)) from unknown
    ops = _ops(used, absent)
    cells = _Evidences().cells(ops, devices)
    limits = _limits(devices, absent)
    if as_json:
        click.echo(json.dumps(_as_dict(ops, cells, used, limits, absent), indent=2))
    else:
        _print(ops, devices, cells, used, limits, absent)


# -- what there is ------------------------------------------------------------------------------------------------------------


def _used_by(model: str) -> Usage:
    """The ops that the Python file `model` uses; what it prints goes to standard error."""
    from needle_core.testing.usage import recorded

    with recorded() as used:
        run_program(model)
    return used


def _devices(wanted: tuple[str, ...]) -> tuple[list[Device], dict[str, str]]:
    """The devices asked for, or the first of every installed backend; and why others are not there."""
    from needle_core.backend import device as find_device
    from needle_core.plugins import registry

    if wanted:
        return list(dict.fromkeys(find_device(name) for name in wanted)), {}
    found, absent = [], {}
    for name in registry.names("backends"):
        try:
            found.append(find_device(name))
        except NeedleError as reason:
            absent[name] = reason.summary
    return found, absent


def _ops(used: Usage | None, absent: dict[str, str]) -> list[Op[..., Any]]:
    """The ops of the core and of all plugins, or those that are `used`, by family; some may be the program's own."""
    from needle_core.op import OPS, find_op
    from needle_core.plugins import registry

    for name in registry.names("ops"):
        try:
            find_op(name)
        except NeedleError as reason:
            absent[name] = reason.summary
    ops = list(OPS.values()) if used is None else [found.op for found in used.values()]
    return sorted(ops, key=lambda op: (not op.__module__.startswith("needle_core."), op.family, op.name))


def _limits(devices: list[Device], absent: dict[str, str]) -> dict[str, list[Limit]]:
    """What the backends declare of their rounding, by the names of their devices."""
    from needle_core.plugins import registry

    found: dict[str, list[Limit]] = {}
    for device in devices:
        try:
            limits = [limit for a in registry.activated(device.backend.name) for limit in a.declarations().limits]
        except NeedleError as reason:
            absent[f"limits of {device}"] = reason.summary
            continue
        if limits:
            found[device.name] = limits
    return found


class _Evidences:
    """The evidence that is remembered, and the versions that are installed."""

    def __init__(self) -> None:
        from needle_core.plugins import registry
        from needle_core.testing import evidence

        self._recalled = evidence.recall()
        statuses = registry.report()
        self._versions = {status.distribution: status.version for status in statuses}
        self._changes: dict[str, float] = {}
        for s in statuses:
            self._changes[s.distribution] = max(_last_change(s.module), self._changes.get(s.distribution, 0.0))
        self._core_change = _last_change("needle_core")
        self._owners = {(g, name): s.distribution for s in statuses for g, names in s.offers.items() for name in names}

    def cells(self, ops: list[Op[..., Any]], devices: list[Device]) -> dict[tuple[str, str], Cell]:
        """By the names of op and device."""
        return {(op.name, device.name): self._cell(op, device) for op in ops for device in devices}

    def _cell(self, op: Op[..., Any], device: Device) -> Cell:
        from needle_core.testing.suite import support

        backend = device.backend.name
        claims = (("kernels", f"{backend}.{op.name}"), ("ops", op.name), ("backends", backend))
        owner = next((self._owners[claim] for claim in claims if claim in self._owners), None)
        known = [e for e in self._recalled if e.distribution == owner and e.device == device.name and op.name in e.counts]
        full = max((e.time for e in known if e.mode == "full"), default="")
        known = [e for e in known if e.mode == "full" or e.time > full]  # a full run does all that a quick one does
        latest = max(known, key=lambda e: (self._is_current(e), e.counts[op.name]["failed"] > 0, e.time), default=None)
        counts = Counter(latest.counts[op.name]) if latest else Counter()
        return Cell(support(op, device), latest, latest is not None and self._is_current(latest), counts)

    def _is_current(self, evidence: Evidence) -> bool:
        from needle_core import __version__

        own, backend = evidence.distribution, self._owners["backends", evidence.device.partition(":")[0]]
        now = (self._versions[own], __version__, f"{backend} {self._versions[backend]}")
        changed = max(self._core_change, self._changes[own], self._changes[backend])
        same = (evidence.version, evidence.core, evidence.backend) == now
        return same and changed <= datetime.fromisoformat(evidence.time).timestamp()


def _last_change(module: str) -> float:
    """When the newest source of the package of MODULE or MODULE:OBJECT was written, as time.time() tells it."""
    package = module.partition(":")[0].partition(".")[0]
    spec = find_spec(package) if package else None
    if spec is None or spec.origin is None:
        return 0.0
    files = Path(spec.origin).parent.rglob("*") if spec.submodule_search_locations else [Path(spec.origin)]
    return max((f.stat().st_mtime for f in files if f.suffix in _SOURCES), default=0.0)


# -- how it is shown ----------------------------------------------------------------------------------------------------------


def _as_dict(
    ops: list[Op[..., Any]],
    cells: dict[tuple[str, str], Cell],
    used: Usage | None,
    limits: dict[str, list[Limit]],
    absent: dict[str, str],
) -> dict[str, Any]:
    rows = []
    for op in ops:
        kind = "primitive" if op.is_primitive else "composite"
        within = {} if used is None else {"within": sorted(used[op.name].within)}
        told = {device: cell.as_dict() for (name, device), cell in cells.items() if name == op.name}
        rows.append({"op": op.name, "family": op.family, "kind": kind, **within, "devices": told})
    shown = {device: [str(limit) for limit in found] for device, found in limits.items()}
    return {"ops": rows, "limits": shown, "absent": absent}


def _print(
    ops: list[Op[..., Any]],
    devices: list[Device],
    cells: dict[tuple[str, str], Cell],
    used: Usage | None,
    limits: dict[str, list[Limit]],
    absent: dict[str, str],
) -> None:
    from rich.table import Table
    from rich.text import Text

    colors = {"held": "green", "failed": "red", "missing": "red", "outdated": "yellow", "unchecked": "dim"}
    table = Table("op", "family", "kind", *(d.name for d in devices), box=None, pad_edge=False)
    if used is not None:
        table.add_column("used in")
    for op in ops:
        found = [cells[op.name, d.name] for d in devices]
        row = [op.name, op.family, "primitive" if op.is_primitive else "composite"]
        within = used[op.name].within if used is not None else {""}
        callers = [", ".join(sorted(within)) if "" not in within else ""] if used is not None else []
        table.add_row(*row, *(Text(str(cell), colors[cell.state]) for cell in found), *callers)
    show_table(table)
    click.echo(f"\n{_LEGEND}")
    for device in devices:
        column = [cells[op.name, device.name] for op in ops]
        counted = ", ".join(f"{n} {state}" for state, n in sorted(Counter(cell.state for cell in column).items()))
        last = max((cell.evidence.time for cell in column if cell.evidence), default="")
        click.echo(f"{device}: {len(ops)} ops, {counted}" + (f"; last run {last[:16].replace('T', ' ')} UTC" if last else ""))
    for title, lines in {
        "declared limits": [f"{device}: {limit}" for device, found in limits.items() for limit in found],
        "not shown": [f"{what}: {reason}" for what, reason in absent.items()],
    }.items():
        if lines:
            click.echo(f"\n{title}\n" + "\n".join(f"  {line}" for line in lines))
