"""The folder of a training run, from which it resumes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Self

from needle_core import checkpoint
from needle_core.errors import ArgumentError, CheckpointError
from needle_core.training.run import Run, Settings

_CHECKPOINT: Final = "checkpoint.safetensors"


class RunFolder:
    """The files of a run, each replaced in one step, so that a process may be killed at any moment.

    checkpoint.safetensors   the whole state; a run exists from the moment that this file does
    settings.json            what was asked for, for people to read
    metrics.jsonl            one line an epoch: loss and accuracy in training and in testing
    curves.png               the same as a plot, once the run is finished
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoint = path / _CHECKPOINT
        self.settings = path / "settings.json"
        self.metrics = path / "metrics.jsonl"
        self.curves = path / "curves.png"

    @classmethod
    def begin(cls, run: Run, path: Path | None = None) -> RunFolder:
        """A folder for a run that begins: `path`, or else the first of runs/DATA-MODEL-1, -2, ... that does not exist.

        Raises:   ArgumentError if there is something in it
        """
        if path is None:
            model = Path(run.settings.model).name.replace(":", "-")
            path = _unused(Path("runs"), f"{run.settings.data}-{model}")
        elif path.exists() and (not path.is_dir() or any(not entry.name.startswith(".") for entry in path.iterdir())):
            resumes = path / _CHECKPOINT
            hint = f"needle train --resume {path} goes on with the run in it" if resumes.exists() else None
            raise ArgumentError(f"{path} exists, and a new run overwrites nothing", hint=hint)
        else:
            path.mkdir(parents=True, exist_ok=True)
        return cls(path)._keep(run)

    @classmethod
    def resume(cls, path: Path, given: Mapping[str, Any]) -> tuple[Run, RunFolder]:
        """The run in the folder `path`, where it was last saved. `given` are settings that it must have; `epochs` may be more.

        Raises:   CheckpointError if there is no run, ArgumentError if its settings are others
        """
        folder = cls(path)
        if not folder.checkpoint.exists():
            raise CheckpointError(f"{path} holds no run that could go on", details={"missing": folder.checkpoint})
        state = checkpoint.load(folder.checkpoint)
        if not isinstance(state, dict) or "settings" not in state:
            raise CheckpointError(f"{folder.checkpoint}: the checkpoint of something else than a training run")
        run = Run(Settings(**state["settings"]).extended(given))
        run.load_state_dict(state)
        return run, folder._keep(run)

    def _keep(self, run: Run) -> Self:
        self.save(run)
        checkpoint.replace_file(self.settings, (json.dumps(asdict(run.settings), indent=2) + "\n").encode())
        return self

    def save(self, run: Run) -> None:
        """Write the checkpoint, and the metrics that follow from it."""
        checkpoint.save(self.checkpoint, run.state_dict())
        lines = [json.dumps(record) + "\n" for record in run.history]
        checkpoint.replace_file(self.metrics, "".join(lines).encode())


def _unused(parent: Path, stem: str) -> Path:
    """A new folder `stem-N` in `parent`, with the first N that is free."""
    parent.mkdir(parents=True, exist_ok=True)
    n = 1
    while True:
        path = parent / f"{stem}-{n}"
        try:
            path.mkdir()
            return path
        except FileExistsError:
            n += 1
