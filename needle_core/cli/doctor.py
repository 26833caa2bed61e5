"""Examine every installed plugin in a process of its own.

What it does when imported, opened and used; whether it crashes, hangs or changes what others share; and what is odd in the
environment.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict
from typing import Any, Final

import click

from needle_core.cli import show_table
from needle_core.diagnosis import environment
from needle_core.diagnosis.examination import Examination, Finding, examine, find_default_device
from needle_core.errors import NeedleError
from needle_core.plugins import registry
from needle_core.plugins.environment import flag
from needle_core.plugins.manifest import Manifest, Plugin

_COLORS: Final = {
    **{"ok": "green", "warnings": "yellow", "broken": "red", "blocked": "dim"},
    **{"note": "dim", "warning": "yellow", "error": "red"},
}


def _is_number(ctx: click.Context, parameter: click.Parameter, seconds: float) -> float:
    """`nan` lies in every range."""
    if math.isnan(seconds):
        raise click.BadParameter("nan is no time")
    return seconds


@click.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, max=86_400, min_open=True),
    callback=_is_number,
    default=30.0,
    show_default=True,
    help="Seconds for each plugin.",
)
def doctor(names: tuple[str, ...], as_json: bool, timeout: float) -> None:
    """Examine the plugins called NAME, or all that are installed, each in a process of its own.

    A plugin is imported, its devices are opened and compute a little, its optimizers take a step, its own probes are asked. The
    report says what failed, what was printed, and what was changed that others share. NAME is that of an entry point, as numpy,
    or of a distribution. The exit status is 1 if something is broken. NEEDLE_TRACEBACK=1 shows tracebacks.
    """
    about = [*environment.wrong_variables(), *environment.duplicates()]
    default, plugins = Examination("default device"), []
    try:
        manifest = Manifest()
    except NeedleError as error:  # NEEDLE_PLUGINS names a plugin that is not there
        about.append(Finding("error", "environment", str(error), "unset NEEDLE_PLUGINS"))
    else:
        chosen = _chosen(manifest, names)
        default = find_default_device(timeout)
        about += default.findings
        device = default.default.get("name", "")
        plugins = [examine(group, manifest, device, timeout) for group in chosen]  # one by one, for their times are taken
    if as_json:
        click.echo(json.dumps(_as_dict(default, about, plugins), indent=2))
    else:
        _show(default, about, plugins)
    if _is_broken(about, plugins):
        sys.exit(1)


def _is_broken(about: list[Finding], plugins: list[Examination]) -> bool:
    return any(finding.level == "error" for finding in about) or any(plugin.state == "broken" for plugin in plugins)


def _chosen(manifest: Manifest, names: tuple[str, ...]) -> list[list[Plugin]]:
    """The plugins that answer to `names`, those of one distribution together; all of them without names."""
    for name in names:
        if not any(plugin.answers_to(name) for plugin in manifest.plugins):
            raise registry.unknown(name)
    asked = {p.distribution for p in manifest.plugins if not names or any(map(p.answers_to, names))}
    return [[p for p in manifest.plugins if p.distribution == distribution] for distribution in sorted(asked)]


def _as_dict(default: Examination, about: list[Finding], plugins: list[Examination]) -> dict[str, Any]:
    return {
        "ok": not _is_broken(about, plugins),
        "environment": {**environment.facts(), "variables": environment.variables()},
        "default_device": default.default or None,
        "findings": [asdict(finding) for finding in about],
        "plugins": [
            {"state": plugin.state, **{k: v for k, v in asdict(plugin).items() if k not in ("default", "blocked")}}
            for plugin in plugins
        ],
    }


def _show(default: Examination, about: list[Finding], plugins: list[Examination]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    for name, fact in {**environment.facts(), **environment.variables()}.items():
        console.print(Text(f"{name}: {fact}"))
    known = default.default
    console.print(Text(f"default device: {known['name']}, {known['reason']}" if known else "default device: none"))
    _show_findings(console, about)
    table = Table("distribution", "version", "state", "loads in", "devices", box=None, pad_edge=False)
    for p in plugins:
        time = "" if p.load_ms is None else f"{p.load_ms:.1f} ms"
        table.add_row(p.distribution, p.version, Text(p.state, _COLORS[p.state]), time, ", ".join(p.devices))
    if plugins:
        console.print()
        show_table(table)
    for p in plugins:
        if p.findings:
            console.print(Text(f"\n{p.distribution} {p.version}", "bold"))
            _show_findings(console, p.findings)


def _show_findings(console: Any, findings: list[Finding]) -> None:
    from rich.text import Text

    for finding in findings:
        lines = f"{finding.phase}: {finding.text}".splitlines()
        console.print(Text("  ").append(f"{finding.level:8}", _COLORS[finding.level]).append(lines[0]))
        for line in lines[1:]:
            console.print(Text(f"          {line}"))
        if finding.command:
            console.print(Text(f"          next: {finding.command}"))
        if finding.traceback and flag("NEEDLE_TRACEBACK"):
            console.print(Text("".join(finding.traceback).rstrip()))
