"""The process in which a probe runs, and what is left of it: what it told, what was printed, and how it ended."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

_GRACE: Final = 2.0  # seconds in which a process may say where it hangs, before it is killed
_DUMP: Final = re.compile(r"^(Fatal Python error|Timeout \().*", re.MULTILINE | re.DOTALL)  # of faulthandler


class Process:
    """A probe that has run to its end, or to `timeout` seconds. `told` are its lines, each with its phase."""

    def __init__(self, distribution: str, device: str, timeout: float) -> None:
        self._timeout = timeout
        with TemporaryDirectory() as folder:
            report, output = Path(folder, "report"), Path(folder, "output")
            report.touch()
            with output.open("wb") as file:
                self._status = self._run([str(report), distribution, device, str(timeout)], file)
            lines = [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()]
            self._printed = output.read_bytes()
        self._phases = [line for line in lines if "phase" in line]
        self._done = any("done" in line for line in lines)
        self.told = list(_with_phases(lines))

    def _run(self, arguments: list[str], output: Any) -> int | None:
        """The exit status; None if the time was up."""
        process = subprocess.Popen(
            [sys.executable, "-P", "-X", "faulthandler", "-m", "needle_core.diagnosis.probe", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={name: value for name, value in os.environ.items() if name != "NEEDLE_STRICT"},  # it is about one plugin
        )
        try:
            return process.wait(self._timeout + _GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return None

    @property
    def _ended_well(self) -> bool:
        return self._status == 0 and self._done

    def printed(self) -> Iterator[tuple[str, str]]:
        """What was printed, by phase; what is printed in a last phase that ends badly is part of the fault."""
        marks = [*self._phases, {"printed": len(self._printed)}] if self._ended_well else self._phases
        for begun, ended in pairwise(marks):
            text = self._printed[begun["printed"] : ended["printed"]].decode(errors="replace").strip()
            if begun["phase"] and text:
                yield begun["phase"], text

    def fault(self) -> tuple[str, str, list[str]] | None:
        """Phase, description and trace, if the process crashed, hung, or left without a word."""
        if self._ended_well:
            return None
        phase = self._phases[-1]["phase"] if self._phases else "start of the process"
        if self._status is None:
            ending = f"no answer within {self._timeout:g} s"
        elif self._status < 0:
            ending = f"killed by {signal.Signals(-self._status).name}"
        else:
            ending = f"the process ended by itself, with status {self._status}"
        dump = _DUMP.search(self._printed.decode(errors="replace"))
        trace = dump[0].splitlines(keepends=True) if dump else []
        place = next((f"; {line.strip()}" for line in trace if line.startswith("  File ")), "")
        return phase or "end of the process", ending + place, trace


def _with_phases(lines: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line with the phase that it belongs to: the present one, or between phases the last."""
    phase = ""
    for line in lines:
        phase = line.get("phase") or phase
        yield phase, line
