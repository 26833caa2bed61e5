"""Run a training step on two devices, op by op, and name the first op that differs.

Each op is judged by itself, against float64, for what the earlier ops of the same device have given.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from needle_core.cli import run_program, show_table, telling

if TYPE_CHECKING:
    from needle_core.testing.lockstep import Compared, Lockstep

_LEGEND = """\
error: of the op itself on {second}, against float64 on {first}, over its bound: above 1 is out of bounds
drift: of the result since the beginning: the greatest difference over the greatest number"""


@click.command()
@click.argument("first", metavar="DEVICE_A")
@click.argument("second", metavar="DEVICE_B")
@click.argument("model", metavar="FILE", type=click.Path(exists=True, dir_okay=False))
@click.option("--steps", type=click.IntRange(1), default=1, show_default=True, help="End after so many steps of an optimizer.")
@click.option("--all", "whole", is_flag=True, help="Show every op in order, not only the worst.")
@click.option("--rows", type=click.IntRange(1), default=15, show_default=True, help="Show so many of the worst ops.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def diff(first: str, second: str, model: str, steps: int, whole: bool, rows: int, as_json: bool) -> None:
    """Run the Python program FILE on DEVICE_A, each of its ops also on DEVICE_B, and compare.

    FILE is run as it is, until an optimizer in it has made its first step; what it prints goes to standard error. The exit
    status is 1 if an op on DEVICE_B is out of its bound: `needle conform` then tells which of the two devices is wrong. It is 1
    as well if FILE fails.
    """
    from needle_core.backend import device as find_device
    from needle_core.errors import DeviceError
    from needle_core.testing.lockstep import lockstep

    try:
        devices = find_device(first), find_device(second)
    except DeviceError as unknown:
        raise click.UsageError(str(unknown)) from unknown
    if devices[0] is devices[1]:
        raise click.UsageError(f"{first} and {second} are the same device")
    failure = None
    with telling() as tell:
        with lockstep(*devices, steps=steps, watch=lambda c: tell(f"{c.number} ops, the last {c.op}")) as session:
            try:
                run_program(model)
            except click.ClickException as error:  # what came before it may tell why
                failure = error
        if not session.compared:
            raise failure or click.ClickException(f"{model} computed nothing on {first}")
        tell("timing")
        session.measure()
    if as_json:
        click.echo(json.dumps(_as_dict(session), indent=2))
    else:
        _print(session, None if whole else rows, failed=failure is not None)
    if failure:
        raise failure
    if any(c.is_out_of_bounds for c in session.compared):
        raise SystemExit(1)


def _print(session: Lockstep, rows: int | None, *, failed: bool) -> None:
    """A table, what it means, and the first op that is out of bounds."""
    from rich.table import Table

    first, second, found = session.first.name, session.second.name, session.compared
    shown = found if rows is None else sorted(found, key=lambda c: (-c.local, c.number))[:rows]
    table = Table(box=None, pad_edge=False)
    for title in ("#", "op", "result", "line", "error", "drift", f"{first} us", f"{second} us"):
        table.add_column(title, justify="left" if title in ("op", "result", "line") else "right")
    for c in shown:
        times = [f"{s * 1e6:.1f}" for s in c.seconds]
        style = "red" if c.is_out_of_bounds else None
        table.add_row(
            str(c.number), _named(c), c.result, c.place, f"{c.local:.3g}", f"{c.accumulated:.1e}", *times, style=style
        )
    show_table(table)
    click.echo(_LEGEND.format(first=first, second=second))
    if len(shown) < len(found):
        click.echo(f"the worst {len(shown)} of {len(found)} ops; --all shows every one")
    for device, seconds in zip((first, second), zip(*(c.seconds for c in found if not c.within), strict=True), strict=True):
        click.echo(f"{sum(seconds) * 1e3:9.2f} ms in all on {device}")
    _conclude(session, failed=failed)


def _named(c: Compared) -> str:
    return f"{c.op} in {c.within}" if c.within else c.op


def _conclude(session: Lockstep, *, failed: bool) -> None:
    """What is to be learned of it all."""
    found, first, second = session.compared, session.first, session.second
    steps = f"{session.steps} step{'s' * (session.steps != 1)} of an optimizer" if session.steps else "the whole program"
    if failed:
        steps = "what ran before the program failed"
    bad = [c for c in found if c.is_out_of_bounds]
    if not bad:
        worst = max(found, key=lambda c: c.local)
        click.echo(
            f"{len(found)} ops in {steps}: all within bounds; the nearest is {worst.op} (#{worst.number}) at {worst.local:.2g}"
        )
        return
    c = bad[0]
    click.echo(
        f"{len(bad)} of {len(found)} ops in {steps} are out of bounds; the first is #{c.number}, {_named(c)}, on {second}:"
    )
    click.echo(f"  {c.op}({c.operands}) -> {c.result}  # {c.place}")
    click.echo(f"  {c.worst}")
    names = " and ".join(f"`needle conform {d.backend.name} --case '{c.op}*'`" for d in (first, second))
    click.echo(f"  {names} tell which of the two is wrong")


def _as_dict(session: Lockstep) -> dict[str, object]:
    ops = [asdict(c) for c in session.compared]
    return {"devices": [session.first.name, session.second.name], "steps": session.steps, "ops": ops}
