"""Train a network on handwritten digits or Fashion-MNIST.

The options, the way that Ctrl-C stops a run, and what is seen of it. The run itself is in needle_core.training.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any, Self

import click
from rich.console import Console

import needle_core as ndl
from needle_core.training import MODELS, TASKS, Run, RunFolder, Settings, curves
from needle_core.training.screen import Screen

_INTERRUPTED = 128 + signal.SIGINT  # the exit status of a program that Ctrl-C ended


def _defaults(name: str) -> str:
    return ", ".join(f"{getattr(task, name)} for {data}" for data, task in TASKS.items())


def _absolute(ctx: click.Context, parameter: click.Parameter, model: str | None) -> str | None:
    """A model in a file by its full path, so that the run resumes in any folder."""
    path, colon, function = (model or "").rpartition(":")
    return f"{Path(path).resolve()}:{function}" if colon else model


@click.command()
@click.option("--data", type=click.Choice(list(TASKS)), help="What to learn.  [default: digits]")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, resolve_path=True),
    help="The folder of the files of Fashion-MNIST.  [default: $NEEDLE_DATA, or where the Debian package puts them]",
)
@click.option(
    "--model",
    metavar="NAME",
    callback=_absolute,
    help=f"{', '.join(MODELS)}, or path/to/file.py:function, a function (shape, classes) -> Module.  [default: mlp_resnet]",
)
@click.option("--device", help="Where to compute.  [default: as `needle plugins` says]")
@click.option("--epochs", type=click.IntRange(min=1), help=f"Passes over the data.  [default: {_defaults('epochs')}]")
@click.option("--batch-size", type=click.IntRange(min=1), help=f"Samples a step.  [default: {_defaults('batch_size')}]")
@click.option("--lr", type=float, help="Learning rate.  [default: the optimizer's own]")
@click.option("--optimizer", metavar="NAME", help="Any that is installed, see `needle plugins`.  [default: Adam]")
@click.option("--seed", type=click.IntRange(min=0, max=2**63 - 1), help="Determines every random number.  [default: 0]")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FOLDER", help="Where to keep the run.  [default: runs/DATA-MODEL-N]"
)
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Go on with the run in FOLDER as if it had never stopped. --epochs may be raised.",
)
@click.option(
    "--save-every",
    type=click.FloatRange(min=0),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How often to save in the midst of an epoch. After an epoch, the run is always saved.",
)
@click.option("--quiet", is_flag=True, help="Show nothing but errors.")
def train(out: Path | None, resume: Path | None, save_every: float, quiet: bool, **options: Any) -> None:
    """Train a network and keep the run in a folder: checkpoint, settings, metrics, and a plot of the curves.

    Ctrl-C saves and stops. A run that was stopped, or killed at any moment, goes on bit for bit with --resume.
    """
    if out and resume:
        raise click.UsageError("--resume goes on in the folder that it names; --out is for new runs")
    given = {name: value for name, value in options.items() if value is not None}
    if "device" in given:
        given["device"] = ndl.device(given["device"]).name
    folder: RunFolder | None = None
    try:
        if resume:
            run, folder = RunFolder.resume(resume, given)
        else:
            run = Run(Settings.of(given))
            folder = RunFolder.begin(run, out)
        with Screen(Console(quiet=quiet), run) as screen, _CtrlC() as ctrl_c:
            _train(run, folder, screen, ctrl_c, save_every)
        screen.summary(*_results(run, folder))
    except KeyboardInterrupt:
        if folder is not None:
            click.echo(f"stopped; needle train --resume {folder.path} goes on", err=True)
        sys.exit(_INTERRUPTED)


def _train(run: Run, folder: RunFolder, screen: Screen, ctrl_c: _CtrlC, save_every: float) -> None:
    """Train to the end, saving after every epoch and every `save_every` seconds. KeyboardInterrupt if Ctrl-C was pressed."""
    saved = time.monotonic()
    while not run.finished:
        for batch in run.batches():
            screen.batch(batch)
            if ctrl_c.pressed or time.monotonic() - saved >= save_every:
                folder.save(run)
                saved = time.monotonic()
            if ctrl_c.pressed:
                raise KeyboardInterrupt
        screen.epoch(run.close_epoch())
        folder.save(run)
        saved = time.monotonic()


def _results(run: Run, folder: RunFolder) -> tuple[list[Path], list[str]]:
    """The files of a finished run, its plot drawn, and what there is to say about them."""
    model = Path(run.settings.model).name
    title = f"{model} on {run.settings.data}, {run.settings.optimizer}, seed {run.settings.seed}"
    files = [folder.checkpoint, folder.settings, folder.metrics]
    try:
        curves.draw(run.history, title, folder.curves)
    except ModuleNotFoundError as missing:
        package = str(missing.name).partition(".")[0]
        return files, [f"no plot was made, for {package} is not installed: pip install 'needle-core[plot]'"]
    return [*files, folder.curves], []


class _CtrlC:
    """Within it, the first Ctrl-C sets `pressed`, so that the step is finished and saved; the second interrupts at once."""

    def __init__(self) -> None:
        self.pressed = False

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *exception: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _press(self, signum: int, frame: FrameType | None) -> None:
        self.pressed = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
