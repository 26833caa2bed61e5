"""The command line: `needle COMMAND`. Each command is a file of this folder, imported when it is called.

A new command is a new file NAME.py with a click command called NAME. The first line of the file is its line in `needle --help`.
"""

from __future__ import annotations

import ast
import pkgutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import click

import needle_core
from needle_core.errors import NeedleError
from needle_core.plugins.environment import flag

if TYPE_CHECKING:
    from rich.table import Table

_SUPERVISED: Final = ("conform", "matrix", "plugins")
_UNLIMITED: Final = 2**16  # columns of a table that is not shown on a terminal


class _Files(click.Group):
    """A group whose commands are the modules of this package."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(module.name for module in pkgutil.iter_modules(__path__))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        return cast(click.Command, getattr(import_module(f"{__name__}.{cmd_name}"), cmd_name))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them: what they need may take a second to import."""
        lines = []
        for name in self.list_commands(ctx):
            source = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
            lines.append((name, (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]))
        with formatter.section("Commands"):
            formatter.write_dl(lines)


@click.command(cls=_Files, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(needle_core.__version__, message="needle %(version)s")
def needle() -> None:
    """Needle: deep learning with backends, ops and optimizers as plugins."""


def main() -> None:
    """Run the command line, commands that call code of plugins in a process of their own."""
    if sys.argv[1:2] and sys.argv[1] in _SUPERVISED:
        from needle_core.diagnosis.supervision import supervise

        with _told_errors():
            sys.exit(supervise(sys.argv[1:]))
    run()


def run() -> None:
    """Run the command line in this process."""
    warnings.showwarning = _show_warning
    with _told_errors():
        needle.main(prog_name="needle")


@contextmanager
def _told_errors() -> Iterator[None]:
    """Within it, an error of Needle's own ends the program with one message, or a traceback if NEEDLE_TRACEBACK=1."""
    try:
        yield
    except NeedleError as error:
        if flag("NEEDLE_TRACEBACK"):
            raise
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


def run_program(path: str) -> None:
    """Run a Python program as `python path` does; what it prints goes to standard error, how it fails is told."""
    import runpy
    import traceback

    before, sys.argv = sys.argv, [path]
    try:
        with redirect_stdout(sys.stderr):
            runpy.run_path(path, run_name="__main__")
    except SystemExit as end:
        if end.code not in (None, 0):
            raise click.ClickException(f"{path} ended with {end.code}") from end
    except Exception as error:
        where = error.__traceback__
        while where and where.tb_frame.f_code.co_filename != path:  # what runs the program is not its author's business
            where = where.tb_next
        told = "".join(traceback.format_exception(error.with_traceback(where)))
        raise click.ClickException(f"{path} failed\n{told}".rstrip()) from error
    finally:
        sys.argv = before


@contextmanager
def telling() -> Iterator[Callable[[str], None]]:
    """A function that tells what is being done, on a terminal; elsewhere it does nothing."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda text: None
        return
    with console.status("") as status:
        yield lambda text: status.update(text)


def show_table(table: Table) -> None:
    """Print `table`: its cells folded into the width of a terminal, and whole elsewhere."""
    from rich.console import Console

    for column in table.columns:
        column.overflow = "fold"
    console = Console()
    if not console.is_terminal:
        console.width = _UNLIMITED
    console.print(table)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """One line on standard error: the beginning of the message and what to do, without the place in the code."""
    summary, *rest = str(message).splitlines() or [""]
    hints = [line.strip() for line in rest if line.startswith("  hint: ")]
    click.echo("; ".join([f"warning: {summary}", *hints]), err=True)
