"""Prove a backend, ops or optimizers right.

Runs the conformance kit on an installed plugin. What is checked is in needle_core.testing.suite.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from needle_core.cli import show_table
from needle_core.diagnosis.supervision import doing
from needle_core.errors import ArgumentError, DataError, DeviceError
from needle_core.plugins import registry

if TYPE_CHECKING:
    from needle_core.testing.report import Report
    from needle_core.testing.suite import Planned


@click.command()
@click.argument("name")
@click.option("--quick/--full", help="A part of it, at most 30 s on two cores, or all, at most 5 minutes.  [default: full]")
@click.option("--case", "pattern", metavar="PATTERN", help="Run only the checks whose ids match, as file names do: 'add/*'.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Draws other values.")
@click.option("--device", metavar="DEVICE", help="Check there only.  [default: each that NAME concerns]")
@click.option("--simulated", is_flag=True, help="Check on a device that the host simulates, as cuda has one.")
@click.option("--list", "as_list", is_flag=True, help="Print the ids of the checks instead of running them.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def conform(
    ctx: click.Context,
    name: str,
    quick: bool,
    pattern: str | None,
    seed: int,
    device: str | None,
    simulated: bool,
    as_list: bool,
    as_json: bool,
) -> None:
    """Run the conformance kit on the installed plugin called NAME.

    NAME is that of an entry point (numpy, Adam) or of a distribution (needle-extra-ops, extra_ops). A backend is checked on
    every op of the core, ops on every installed backend, optimizers on the default device.

    The exit status is 0 if everything that was promised ran and held, 1 if not, 2 for a wrong command. The result of a complete
    run is remembered for `needle matrix`, unless it is of a simulated device.
    """
    from needle_core.testing import evidence, report, suite

    if simulated:
        _simulate(name)
    try:
        made = replace(suite.suite(name, seed, quick=quick, device=device), simulated=simulated)
        chosen = report.selected(made, pattern)
    except (ArgumentError, DeviceError) as wrong:
        raise click.UsageError(str(wrong)) from wrong
    registry.check_kernels(made.distribution)
    if as_list:
        ids = [planned.id for planned in chosen]
        click.echo(json.dumps(ids, indent=2) if as_json else "\n".join(ids))
        return
    with _progress(len(chosen)) as watch, redirect_stdout(sys.stderr):  # what plugins print is no part of the report

        def begin(planned: Planned) -> None:
            doing(f"the check {planned.id}", report.repeating(made, planned))
            watch(planned)

        done = report.run(made, chosen, begin)
    if as_json:
        click.echo(json.dumps(done.as_dict(), indent=2))
    else:
        _print(done)
    if not simulated:
        try:
            evidence.remember(done)
        except DataError as impossible:
            click.echo(f"warning: {impossible}", err=True)
    ctx.exit(0 if done.ok else 1)


def _simulate(name: str) -> None:
    """Let the backend of that name open with a simulated device."""
    backend = registry.find("backends", name)
    if backend is None or not backend.can_be_simulated:
        raise click.UsageError(f"{name} has no device that the host could simulate")
    os.environ[f"NEEDLE_{name.upper()}_SIMULATED"] = "1"


@contextmanager
def _progress(total: int) -> Iterator[Callable[[Planned], None]]:
    """A function to call before each check; it moves a bar on a terminal, and does nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total)
        started = False

        def watch(planned: Planned) -> None:
            nonlocal started
            bar.update(task, advance=int(started), description=f"{planned.subject} {planned.kind}")
            started = True

        yield watch


def _print(report: Report) -> None:
    from rich.table import Table

    suite, counts = report.suite, report.counts
    devices = ", ".join(suite.devices)
    where = f"{devices}, simulated" if suite.simulated else devices
    click.echo(f"{suite.distribution} {suite.version} on {where}: {suite.mode} conformance, seed {suite.seed}\n")
    table = Table("check", box=None, pad_edge=False)
    for title in ("run", "passed", "failed", "expected"):
        table.add_column(title, justify="right")
    rows = {**report.by(lambda p: p.kind), "all": counts}
    for kind, found in rows.items():
        failed = f"[red]{found['failed']}[/]" if found["failed"] else "0"
        table.add_row(kind, str(found.total()), str(found["passed"]), failed, str(found["expected"]))
    show_table(table)
    for failures in report.failures():
        others = len(failures.repeats) - 1
        more = f" (and {others} like it)" if others else ""
        repeats = "\n  ".join(failures.repeats)
        click.echo(f"\nfailed: {failures.first.planned.id}{more}\n  {_indented(failures.first.text)}\n  {repeats}")
    notes = {
        "expected failures": [f"{n}: {reason}" for reason, n in report.expected().items()],
        "declared limits": [str(limit) for limit in suite.limits],
        "not checked": [f"{what}: {reason}" for what, reason in suite.absent.items()],
    }
    for title, lines in notes.items():
        if lines:
            click.echo(f"\n{title}\n" + "\n".join(f"  {_indented(line)}" for line in lines))
    click.echo(f"\n{_verdict(report)} in {report.seconds:.1f} s")


def _verdict(report: Report) -> str:
    if report.interrupted:
        return f"stopped after {len(report.results)} of {report.promised} checks"
    if len(report.results) != report.promised:
        return f"{len(report.results)} checks, where {report.promised} were promised,"
    failed = report.counts["failed"]
    return f"{failed} of {report.promised} checks failed" if failed else f"{report.promised} checks held"


def _indented(text: str) -> str:
    return text.replace("\n", "\n  ")
