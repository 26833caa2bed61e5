"""Show the graphs of the functions that a program compiles.

The program is run as it is; each function that it compiles with `ndl.compile` and calls has one graph for each signature.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from needle_core.cli import run_program

if TYPE_CHECKING:
    from needle_core.graph.compiled import Compiled


@click.command()
@click.argument("model", metavar="FILE", type=click.Path(exists=True, dir_okay=False))
@click.option("--only", metavar="NAME", help="Only functions whose name contains NAME.")
@click.option("--report", is_flag=True, help="Show what was captured, when and why, instead of the graphs.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "dot", "html"]),
    default="text",
    show_default=True,
    help="Text, source for Graphviz, or a page that shows all graphs.",
)
@click.option("--output", metavar="PATH", type=click.Path(dir_okay=False), help="Write to PATH.  [default: standard output]")
def graph(model: str, only: str | None, report: bool, form: str, output: str | None) -> None:
    """Run the Python program FILE and show what it compiles.

    What the program prints goes to standard error.
    """
    found = [f for f in _compiled_by(model) if only is None or only in f.name]
    if not found:
        raise click.ClickException(f"{model} calls no compiled function" + (f" whose name contains {only!r}" if only else ""))
    if report and form != "text":
        raise click.UsageError("a report is text")
    text = "\n\n".join(f.report() for f in found) if report else _shown(found, form)
    if output is None:
        click.echo(text)
    else:
        Path(output).write_text(text + "\n", encoding="utf-8")


def _shown(found: list[Compiled[..., object]], form: str) -> str:
    """The graphs of compiled functions."""
    from needle_core.graph.drawing import dot, page

    if form == "html":
        return page((f.name, f.graph) for f in found)
    return "\n\n".join(dot(f.graph, f.name) if form == "dot" else f"# {f.name}\n{f.graph}" for f in found)


def _compiled_by(model: str) -> list[Compiled[..., object]]:
    """The compiled functions that the Python program `model` calls."""
    from needle_core.graph.compiled import compiled_functions

    with compiled_functions() as found:
        run_program(model)
    return found
