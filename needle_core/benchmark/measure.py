"""Measuring several devices in turn, and what can be concluded from it.

Machines are shared, and their speed drifts: what is compared are the two times of one turn, and what is told is the median of
their ratios with an interval that holds it in 95 of 100 cases whatever the distribution is (that of the sign test).
"""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Self, TypeAlias

import numpy as np

import needle_core as ndl
from needle_core.autograd import no_grad
from needle_core.benchmark.workloads import WORKLOADS
from needle_core.errors import NeedleError
from needle_core.spec import Device
from needle_core.testing.lockstep import Lockstep, lockstep
from needle_core.testing.suite import on

MARGIN: Final = 0.02  # differences below it are nobody's business
CONFIDENCE: Final = 0.95
LEAST_ROUNDS: Final = 6  # with fewer there is no such interval
AGREEMENT: Final = 1e-3  # relative difference of the first losses that rounding may make
PAUSE: Final = 0.1  # seconds before a device's turn, in which the threads of another's library go to sleep

Timer: TypeAlias = Callable[[int], float]
"""Runs something so many times, and gives the seconds that all of them took."""


@dataclass
class Row:
    """What was measured of one thing: for each device the seconds for one run, turn by turn, and how many runs a turn has.

    `first` are the seconds of the first run, where that is another thing. `trouble` says why a device has no times.
    """

    group: str
    name: str
    seconds: dict[str, list[float]] = field(default_factory=dict)
    runs: dict[str, int] = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)
    trouble: dict[str, str] = field(default_factory=dict)

    def verdict(self, device: str, base: str) -> Verdict:
        """How a device compares with another. Both must have been measured."""
        return Verdict.of([b / d for b, d in zip(self.seconds[base], self.seconds[device], strict=True)])


@dataclass(frozen=True)
class Verdict:
    """How many times as fast something is: the median of turns, and the interval in which it lies."""

    speed: float
    low: float
    high: float

    @classmethod
    def of(cls, ratios: Sequence[float]) -> Self:
        """From the ratio of each turn; ratios are sorted, and as many left out at each end as the sign test allows."""
        ordered, out = sorted(ratios), 0
        while 2 * sum(math.comb(len(ordered), i) for i in range(out + 1)) / 2 ** len(ordered) <= 1 - CONFIDENCE:
            out += 1
        if not out:
            return cls(statistics.median(ordered), 0.0, math.inf)
        return cls(statistics.median(ordered), ordered[out - 1], ordered[-out])

    def __str__(self) -> str:
        if self.low > 1 + MARGIN:
            return "faster"
        return "slower" if self.high < 1 / (1 + MARGIN) else "inconclusive"


def in_turn(timers: Sequence[Mapping[str, Timer]], rows: Sequence[Row], *, rounds: int, slot: float) -> None:
    """Measure things, each on its devices, and enter the times into their rows: about `slot` seconds for each turn."""
    devices = list(dict.fromkeys(d for timer in timers for d in timer))
    for turn in range(rounds + 1):
        for device in devices:
            time.sleep(PAUSE)
            for row, timer in zip(rows, timers, strict=True):
                if device not in timer:
                    continue
                if not turn:
                    row.runs[device], row.seconds[device] = _count(timer[device], slot), []
                else:
                    row.seconds[device].append(timer[device](row.runs[device]) / row.runs[device])


def _count(timer: Timer, slot: float) -> int:
    """How many runs take about `slot` seconds, once the first has prepared what the others use."""
    timer(1)
    runs = 1
    while (took := timer(runs)) < slot / 4:
        runs *= 2
    return max(1, round(runs * slot / took))


def busyness() -> str:
    """What to say if other programs were busy in the last minute, so that times tell little; else nothing."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return f"this machine was busy: {load:.1f} programs at a time on {processors} processors" if load > processors + 1 else ""


# -- whole steps ------------------------------------------------------------------------------------------------------------


class Worker:
    """A training step in a process of its own, so that no device is slowed down by another's threads."""

    def __init__(self, workload: str, device: str, *, compiled: bool) -> None:
        command = [
            sys.executable,
            "-m",
            "needle_core.benchmark.worker",
            workload,
            "--device",
            device,
            *["--compile"] * compiled,
        ]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed by `close`
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True)
        try:
            self.first, *self.losses = map(float, self._answer()[1:])
        except NeedleError:
            self.close()
            raise

    def _answer(self) -> list[str]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            told = self._errors.read().strip().splitlines()
            last = max((i for i, text in enumerate(told) if not text.startswith(" ")), default=0)  # the error, and its details
            raise NeedleError("\n".join(told[last:]) or f"ended with status {self._process.wait()}")
        return line.split()

    def __call__(self, runs: int) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{runs}\n")
        self._process.stdin.flush()
        return float(self._answer()[0])

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for file in (self._process.stdin, self._process.stdout, self._errors):
            if file is not None:
                file.close()


def measure_step(workload: str, devices: Sequence[str], *, compiled: bool, rounds: int, slot: float) -> Row:
    """A workload on devices; one whose first losses are not those of the first device is not timed."""
    row, workers = Row("compiled steps" if compiled else "eager steps", workload), dict[str, Worker]()
    try:
        for device in devices:
            try:
                workers[device] = Worker(workload, device, compiled=compiled)
            except NeedleError as error:
                row.trouble[device] = str(error)
        row.first.update({device: worker.first for device, worker in workers.items()})
        losses = {device: worker.losses for device, worker in workers.items()}
        for device in [*losses][1:]:
            reference = losses[next(iter(losses))]
            if not np.allclose(losses[device], reference, AGREEMENT, 1e-6):
                row.trouble[device] = f"computes something else: its losses are {losses[device]}, not {reference}"
        in_turn([{d: w for d, w in workers.items() if d not in row.trouble}], [row], rounds=rounds, slot=slot)
    finally:
        for worker in workers.values():
            worker.close()
    return row


# -- their ops --------------------------------------------------------------------------------------------------------------


def measure_ops(workload: str, devices: Sequence[Device], *, rounds: int, slot: float) -> list[Row]:
    """The ops of an eager step of a workload, each with the operands that it has there, on devices.

    One that is out of its bound on a device is not timed there. The most costly on the first device come first.
    """
    rows, timers = dict[str, Row](), dict[str, dict[str, Timer]]()
    for device in devices[1:]:
        session = _stepped(workload, devices[0], device)
        for told, runs in zip(session.compared, session.runs, strict=True):
            if told.within:
                continue
            name = f"{told.op}({told.operands})"
            row = rows.setdefault(name, Row(f"ops of {workload}", name))
            known = timers.setdefault(name, {devices[0].name: _timer(runs[0], devices[0])})
            if told.is_out_of_bounds:
                row.trouble[device.name] = f"computes something else: {told.worst}"
                known.pop(device.name, None)
            elif device.name not in row.trouble:
                known.setdefault(device.name, _timer(runs[1], device))
    with no_grad():
        in_turn([*timers.values()], [*rows.values()], rounds=rounds, slot=slot)
    return sorted(rows.values(), key=lambda row: -statistics.median(row.seconds[devices[0].name]))


def _stepped(workload: str, first: Device, second: Device) -> Lockstep:
    """A step of a workload, the second, on two devices."""
    with on(first.name):
        ndl.manual_seed(0)
        step = WORKLOADS[workload]()
        step()
        with lockstep(first, second) as session:
            step()
    return session


def _timer(run: Callable[[], object], device: Device) -> Timer:
    def timed(runs: int) -> float:
        with on(device.name):
            start = time.perf_counter()
            for _ in range(runs):
                run()
            device.backend.synchronize(device)
            return time.perf_counter() - start

    return timed
