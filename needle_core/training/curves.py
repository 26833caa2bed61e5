"""The plot of a run's curves. Needs matplotlib, the extra `plot`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

_COLORS = {"train": "#8da0cb", "test": "#d95f02"}


def draw(history: Sequence[Mapping[str, Any]], title: str, path: str | os.PathLike[str]) -> None:
    """Write a picture of loss and accuracy over the epochs of `history` to `path`.

    Raises:   ModuleNotFoundError if matplotlib is not installed
    """
    from matplotlib.figure import Figure  # without pyplot: no display, no window, no global state
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure = Figure(figsize=(10, 4), dpi=150, layout="constrained")
    figure.suptitle(title)
    loss, accuracy = figure.subplots(1, 2)
    epochs = [record["epoch"] for record in history]
    for axes, quantity in ((loss, "loss"), (accuracy, "accuracy")):
        for part, color in _COLORS.items():
            values = [record[f"{part}_{quantity}"] for record in history]
            axes.plot(epochs, values, color=color, marker="o", markersize=3, label=part)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    loss.set_ylabel("cross entropy [nats per sample]")
    loss.set_yscale("log")
    accuracy.set_ylabel("accuracy [%]")
    accuracy.yaxis.set_major_formatter(PercentFormatter(xmax=1, symbol=""))
    best = max(history, key=lambda record: record["test_accuracy"])
    accuracy.axhline(best["test_accuracy"], color=_COLORS["test"], linewidth=0.8, linestyle=":")
    accuracy.set_title(f"best in testing: {best['test_accuracy']:.2%} after epoch {best['epoch']}", fontsize=9, loc="right")
    figure.savefig(path)
