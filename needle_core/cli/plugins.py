"""Show installed plugins and the default device.

What each plugin offers, its state and why, and the next command to type if something is wrong with it.
"""

from __future__ import annotations

import json
import traceback
import warnings
from dataclasses import fields
from typing import Any

import click

from needle_core.cli import show_table
from needle_core.errors import NeedleError
from needle_core.plugins import registry
from needle_core.plugins.registry import Status

_COLORS = {"active": "green", "not loaded yet": "dim", "blocked": "yellow"}


class _ListUnlessTold(click.Group):
    """`needle plugins` and `needle plugins --json` mean `needle plugins list`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in self.get_help_option_names(ctx)):
            args = ["list", *args]
        return super().parse_args(ctx, args)


_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(cls=_ListUnlessTold)
def plugins() -> None:
    """Show installed plugins and the default device (list), or one plugin in full (why NAME)."""


@plugins.command("list")
@_json
@click.option("--load", is_flag=True, help="Load every plugin first, instead of only those that choose the default device.")
def list_plugins(as_json: bool, load: bool) -> None:
    """List what is installed, and the default device."""
    device, reason = _default_device()
    statuses = registry.report(load=load)
    if as_json:
        default = {"name": device, "reason": reason}
        click.echo(json.dumps({"default_device": default, "plugins": [_as_dict(s) for s in statuses]}, indent=2))
        return
    if statuses:
        _print_table(statuses)
    else:
        click.echo("no plugins are installed; `pip install needle-numpy-backend` brings a device")
    click.echo(f"default device: {device or 'none'}, {reason}")


@plugins.command("why")
@_json
@click.argument("name")
def why_plugin(as_json: bool, name: str) -> None:
    """Load the plugin called NAME, open its backends, and tell all about it.

    NAME is that of an entry point (cpp, Adam) or of a distribution (needle-cpp-backend, extra_ops).
    """
    statuses = registry.why(name)
    if as_json:
        click.echo(json.dumps([_as_dict(s) for s in statuses], indent=2))
        return
    for status in statuses:
        click.echo(f"{status.distribution} {status.version}: {status.state}")
        facts = {"module": status.module, "offers": _offers(status), "phase": status.phase, "reason": status.reason}
        if status.command != f"needle plugins why {status.distribution}":  # that is what was typed
            facts["next"] = status.command
        elif isinstance(status.cause, NeedleError):
            facts["for its author"] = status.cause.hint
        for label, fact in facts.items():
            if fact is not None:
                click.echo(f"  {label}: {fact}")
        if status.cause is not None:
            click.echo("".join(traceback.format_exception(status.cause)), nl=False)


def _default_device() -> tuple[str | None, str]:
    """The name of the default device and the reason; if there is none, the reason for that."""
    from needle_core.backend import default_device_reason

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # broken backends: they are in the list
        try:
            return default_device_reason()
        except NeedleError as error:
            return None, error.summary


def _print_table(statuses: list[Status]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("distribution", "version", "offers", "state", "reason", "next", box=None, pad_edge=False)
    for s in statuses:
        reason = f"{s.phase}: {s.reason}" if s.reason else ""
        cells = (
            s.distribution,
            s.version,
            _offers(s),
            Text(s.state, _COLORS.get(s.state, "red")),
            Text(reason),
            s.command or "",
        )
        table.add_row(*cells)
    show_table(table)


def _offers(status: Status) -> str:
    return "; ".join(f"{group}: {', '.join(names)}" for group, names in status.offers.items())


def _as_dict(status: Status) -> dict[str, Any]:
    """The status as JSON has it, with the cause as a traceback."""
    known = {f.name: getattr(status, f.name) for f in fields(status) if f.name != "cause"}
    return {**known, "traceback": traceback.format_exception(status.cause) if status.cause else None}
