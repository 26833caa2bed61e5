"""Show the graphs of the functions that a program compiles.

The program is run as it is; each function that it compiles with `ndl.compile` and calls has one graph for each signature.
"""

from __future__ import annotations

import runpy
import sys
import traceback
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from needle_core.graph.compiled import Compiled


@click.command()
@click.argument("model", metavar="FILE", type=click.Path(exists=True, dir_okay=False))
@click.option("--only", metavar="NAME", help="Only functions whose name contains NAME.")
@click.option(
    "--format", "form", type=click.Choice(["text", "dot", "html", "report"]), default="text", show_default=True,
    help="Nodes line by line; Graphviz; a page to search; or what was captured, when and why.",
)  # fmt: skip
@click.option("--output", metavar="PATH", type=click.Path(dir_okay=False), help="Write to PATH.  [default: standard output]")
def graph(model: str, only: str | None, form: str, output: str | None) -> None:
    """Run the Python program FILE and show what it compiles.

    What the program prints goes to standard error.
    """
    found = [f for f in _compiled_by(model) if only is None or only in f.name]
    if not found:
        raise click.ClickException(f"{model} calls no compiled function" + (f" whose name contains {only!r}" if only else ""))
    if form in ("dot", "html") and len(found) > 1:
        names = ", ".join(f.name for f in found)
        raise click.UsageError(f"--format {form} shows one function, and there are {len(found)}: {names}; --only NAME chooses")
    text = "\n\n".join(_shown(f, form) for f in found)
    if output is None:
        click.echo(text)
    else:
        Path(output).write_text(text + "\n", encoding="utf-8")


def _shown(function: Compiled[..., object], form: str) -> str:
    if form == "report":
        return function.report()
    if form == "dot":
        return function.graph.to_dot()
    if form == "html":
        return function.graph.to_html(function.name)
    return f"# {function.name}\n{function.graph}"


def _compiled_by(model: str) -> list[Compiled[..., object]]:
    """The compiled functions that the Python program `model` calls."""
    from needle_core.graph.compiled import compiled_functions

    before, sys.argv = sys.argv, [model]
    try:
        with compiled_functions() as found, redirect_stdout(sys.stderr):
            runpy.run_path(model, run_name="__main__")
    except SystemExit as end:
        if end.code not in (None, 0):
            raise click.ClickException(f"{model} ended with {end.code}") from end
    except Exception as error:
        raise click.ClickException(f"{model} failed\n{traceback.format_exc()}".rstrip()) from error
    finally:
        sys.argv = before
    return found
