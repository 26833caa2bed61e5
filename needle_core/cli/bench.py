"""Measure training steps, or their ops, on several devices in turn.

Both sides must compute the same before they are timed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from needle_core.cli import show_table, telling

if TYPE_CHECKING:
    from needle_core.benchmark.measure import Row

_ROWS = 20
_LEGEND = """\
ms: the median of turns; speed: how many times as fast as {base}, the median of turns and an interval that holds it in 95 of 100
cases; inconclusive: less than 2 % of a difference are certain"""


@click.command()
@click.option("--devices", metavar="A,B,...", help="Devices, compared with the first.  [default: all hosts]")
@click.option("--workloads", metavar="NAME,...", help="Which training steps.  [default: all; see --list]")
@click.option("--list", "listing", is_flag=True, help="List the training steps.")
@click.option("--ops", is_flag=True, help="Measure each op of the steps instead of whole steps.")
@click.option("--eager", is_flag=True, help="Run the steps eagerly instead of compiled.")
@click.option("--rounds", type=click.IntRange(6), default=9, show_default=True, help="Turns of each device.")
@click.option("--slot", type=click.FloatRange(0, min_open=True), help="Seconds for a turn.  [default: 0.2, for an op 0.002]")
@click.option("--json", "json_path", metavar="PATH", type=click.Path(dir_okay=False), help="Write pytest-benchmark's JSON.")
@click.option("--html", "html_path", metavar="PATH", type=click.Path(dir_okay=False), help="Write a page with plots.")
def bench(
    devices: str | None, workloads: str | None, listing: bool, ops: bool, eager: bool, rounds: int, slot: float | None,
    json_path: str | None, html_path: str | None,
) -> None:  # fmt: skip
    """Measure training steps on several devices in turn, and say which is faster.

    A device takes part in a measurement only if it computes there what the first device does: whole steps must have the same
    losses, ops must be in their bounds. The exit status is 1 if one did not. OMP_NUM_THREADS says how many threads all may use.
    """
    from needle_core.benchmark.workloads import WORKLOADS

    if listing:
        for name, make in WORKLOADS.items():
            click.echo(f"{name:10} {(make.__doc__ or '').splitlines()[0]}")
        return
    chosen = _names(workloads) or [*WORKLOADS]
    if unknown := [name for name in chosen if name not in WORKLOADS]:
        raise click.UsageError(f"there is no workload {unknown[0]!r}; there are {', '.join(WORKLOADS)}")
    for path in (json_path, html_path):
        if path and not Path(path).absolute().parent.is_dir():
            raise click.UsageError(f"there is no folder {Path(path).absolute().parent}")
    names = _devices(devices)
    rows = _measured(chosen, names, ops=ops, eager=eager, rounds=rounds, slot=slot)
    _print(rows, names)
    _write(rows, names, json_path, html_path)
    if any(row.trouble for row in rows):
        raise SystemExit(1)


def _names(listed: str | None) -> list[str]:
    """The names in a list with commas, each once."""
    return list(dict.fromkeys(name.strip() for name in (listed or "").split(",") if name.strip()))


def _devices(wanted: str | None) -> list[str]:
    """The names of the devices: those that were asked for, or the first of each host backend."""
    from needle_core.backend import device as find_device, host_backends
    from needle_core.errors import DeviceError

    asked = _names(wanted) or [backend.name for backend in host_backends()]
    try:
        names = list(dict.fromkeys(find_device(name).name for name in asked))
    except DeviceError as unknown:
        raise click.UsageError(str(unknown)) from unknown
    if len(names) < 2:
        raise click.UsageError(f"there is nothing to compare {names[0]} with; --devices takes at least two")
    return names


def _measured(chosen: list[str], names: list[str], *, ops: bool, eager: bool, rounds: int, slot: float | None) -> list[Row]:
    from needle_core.backend import device as find_device
    from needle_core.benchmark.measure import measure_ops, measure_step

    rows = []
    with telling() as tell:
        for workload in chosen:
            tell(f"{workload} on {', '.join(names)}")
            if ops:
                rows += measure_ops(workload, [*map(find_device, names)], rounds=rounds, slot=slot or 0.002)
            else:
                rows.append(measure_step(workload, names, compiled=not eager, rounds=rounds, slot=slot or 0.2))
    return rows


def _print(rows: list[Row], names: list[str]) -> None:
    """A table for each group: all steps, or the most costly ops."""
    from itertools import groupby

    from rich.table import Table

    from needle_core.benchmark.measure import busyness
    from needle_core.benchmark.report import compared, times

    for group, found in ((g, list(r)) for g, r in groupby(rows, lambda row: row.group)):
        table = Table(box=None, pad_edge=False)
        table.add_column(group)
        for title in (*(f"{n} ms" for n in names), *(t for n in names[1:] for t in (f"speed of {n}", ""))):
            table.add_column(title, justify="right" if title else "left")
        for row in found[:_ROWS]:
            verdicts = [cell for n in names[1:] for cell in compared(row, n, names[0])]
            table.add_row(row.name, *(times(row, n) for n in names), *verdicts)
        show_table(table)
        if len(found) > _ROWS:
            click.echo(f"the {_ROWS} most costly of {len(found)} ops; --json and --html have all")
        click.echo()
    click.echo(_LEGEND.format(base=names[0]))
    if busy := busyness():
        click.echo(busy)
    for row in rows:
        for name, trouble in row.trouble.items():
            click.echo(f"{row.name} on {name}: {trouble}")


def _write(rows: list[Row], names: list[str], json_path: str | None, html_path: str | None) -> None:
    from needle_core.benchmark.report import as_json, as_page

    if json_path:
        Path(json_path).write_text(json.dumps(as_json(rows, names), indent=1) + "\n", encoding="utf-8")
    if html_path:
        Path(html_path).write_text(as_page(rows, names), encoding="utf-8")
