"""What is seen of a training run: a bar that moves on a terminal, plain lines elsewhere, and a summary."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from needle_core.training.run import Run

_COLUMNS = ("epoch", "train loss", "accuracy", "test loss", "accuracy", "seconds")


class Screen:
    """Shows `run` on `console`, while it is entered as a context."""

    def __init__(self, console: Console, run: Run) -> None:
        self._console, self._run = console, run
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[score]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._done = len(run.history) * len(run.loader)
        self._task = self._bar.add_task("", total=run.settings.epochs * len(run.loader), completed=self._done, score="")
        self._began = self._epoch_began = time.perf_counter()

    def __enter__(self) -> Self:
        run, settings = self._run, self._run.settings
        weights = sum(p.size for p in run.model.parameters())
        self._print(f"{settings.data}: {len(run.loader.dataset):,} samples to train on, {len(run.tests.dataset):,} to test on")
        self._print(f"{Path(settings.model).name}: {weights:,} parameters, {settings.optimizer}, on {settings.device}")
        self._print("")
        self._print("".join(f"{name:>12}" for name in _COLUMNS), style="bold")
        for record in run.history:
            self._row(record, "")
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def batch(self, batch: int) -> None:
        """After a batch: move the bar."""
        run = self._run
        self._bar.update(
            self._task,
            description=f"epoch {run.epoch}/{run.settings.epochs}",
            completed=(run.epoch - 1) * len(run.loader) + batch,
            score=f"loss {run.score.loss:.4f}  accuracy {run.score.accuracy:.2%}",
        )

    def epoch(self, record: Mapping[str, Any]) -> None:
        """After an epoch: its line."""
        now = time.perf_counter()
        self._row(record, f"{now - self._epoch_began:.2f}")
        self._epoch_began = now

    def summary(self, files: Sequence[Path], notes: Sequence[str]) -> None:
        """After the run: what came of it, and where it is."""
        last, best = self._run.history[-1], max(self._run.history, key=lambda record: record["test_accuracy"])
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_row(
            "test accuracy",
            f"[bold]{last['test_accuracy']:.2%}[/], at best {best['test_accuracy']:.2%} after epoch {best['epoch']}",
        )
        table.add_row("test loss", f"{last['test_loss']:.4f}")
        table.add_row("time", f"{time.perf_counter() - self._began:.1f} s")
        self._print("")
        self._console.print(table)
        self._print("")
        for file in files:
            self._print(str(file))
        for note in notes:
            self._print(note)

    def _row(self, record: Mapping[str, Any], seconds: str) -> None:
        cells = [
            f"{record['epoch']}/{self._run.settings.epochs}",
            f"{record['train_loss']:.4f}",
            f"{record['train_accuracy']:.2%}",
            f"{record['test_loss']:.4f}",
            f"{record['test_accuracy']:.2%}",
            seconds,
        ]
        self._print("".join(f"{cell:>12}" for cell in cells))

    def _print(self, line: str, style: str | None = None) -> None:
        self._console.print(line, style=style, soft_wrap=True, markup=False, highlight=False)
