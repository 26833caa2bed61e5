"""The training steps of steps.py beside those of the peers, in turn: python compare.py [--peer-python PYTHON] [--limit 300]

Every step runs in a process of its own. Ours starts alone, for it chooses algorithms by time; the peers then start together,
which is bound by their compilers. When all are warm they run in turn (A B C A B C ...), so that noise hits all alike.

Prints a JSON object a line, as soon as it is known: peers that there are or why not, first steps, times. What is not known
when the limit is reached is left out. The exit status is 1 if a step of ours has no times.
"""

from __future__ import annotations

import argparse
import json
import math
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CLASSES = {"mlpresnet": 10, "resnet9": 10, "resnet9_bf16": 10, "lstm": 10_000, "gpt_bf16": 65}
"""The workloads, and how many classes their losses are over."""
SMALL_CLASSES = {**CLASSES, "lstm": 100}
PEERS = ("eager", "compile", "reduce-overhead", "graph", "graph-compile", "jax")
"""JAX, and the modes of torch_steps.py."""

VERSIONS = {
    "torch": "import torch; assert {cpu} or torch.cuda.is_available(), 'it sees no GPU'; print(torch.__version__, 'CUDA', "
    "torch.version.cuda, 'cuDNN', torch.backends.cudnn.version())",
    "jax": "import jax; jax.devices('{device}'); print(jax.__version__, jax.devices('{device}')[0].client.platform_version)",
}
"""Programs that print the version of a package, or fail if it cannot compute on the device."""


class FailedError(Exception):
    """A worker ended, or did not answer in time."""


class Worker:
    """A step in a process of its own, driven over its standard input."""

    def __init__(self, command: list[str]) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed by `close`
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True)
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def answer(self, until: float) -> list[float]:
        """The numbers of the next line."""
        try:
            line = self._lines.get(timeout=max(until - time.monotonic(), 0.01))
        except queue.Empty:
            raise FailedError("it did not answer in time") from None
        if not line:
            self._errors.seek(0)
            told = self._errors.read().strip().splitlines()[-3:]
            raise FailedError("\n".join(told) or f"ended with status {self._process.wait()}")
        return [float(x) for x in line.split() if x != "ready"]

    def run(self, steps: int, until: float) -> float:
        """Seconds for each of so many steps."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{steps}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended, and `answer` says why
        return self.answer(until)[0] / steps

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for file in (self._process.stdin, self._errors):
            if file is not None:
                file.close()


def tell(kind: str, **what: Any) -> None:
    print(json.dumps({"kind": kind, **what}), flush=True)


def peers_of(python: str | None, wanted: list[str], is_small: bool) -> dict[str, list[str]]:
    """The commands of the peers that there are; of the others is told why not."""
    found: dict[str, list[str]] = {}
    needed = {peer: "jax" if peer == "jax" else "torch" for peer in wanted}
    for package in dict.fromkeys(needed.values()):
        program = VERSIONS[package].format(cpu=is_small, device="cpu" if is_small else "gpu")
        command = [python or sys.executable, "-c", program]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            why = "" if not done.returncode else (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        except (OSError, subprocess.TimeoutExpired) as cause:
            why = str(cause)
        tell("peer", package=package, python=command[0], why=why, version="" if why else " ".join(done.stdout.split()))
        if not why:
            file = HERE / f"{package}_steps.py"
            modes = {peer: ["--mode", peer] if package == "torch" else [] for peer in wanted if needed[peer] == package}
            found |= {peer: [command[0], str(file), *mode] for peer, mode in modes.items()}
    return found


class Comparison:
    """A workload in turn on ours and the peers."""

    def __init__(self, workload: str, classes: int, until: float) -> None:
        self.workload, self.classes, self.until = workload, classes, until
        self.workers: dict[str, Worker] = {}

    def start(self, commands: dict[str, list[str]], spare: float) -> None:
        """Start workers together, and wait until they are warm, or until no more than `spare` seconds are left."""
        new = {who: Worker([*command, self.workload]) for who, command in commands.items()}
        self.workers |= new
        for who, worker in new.items():
            try:
                seconds, loss = worker.answer(self.until - spare)
            except FailedError as error:
                self._drop(who, str(error))
                continue
            tell("first", workload=self.workload, who=who, seconds=seconds, loss=loss)
            expected = math.log(self.classes)
            if not 0.3 * expected < loss < 3 * expected:  # before it has learned, it gives each class about the same
                self._drop(who, f"its first loss is {loss}, and of {self.classes} classes about {expected:.2f}")

    def measure(self, rounds: int, slot: float) -> None:
        """Run in turn, about so many seconds each time."""
        counts: dict[str, int] = {}
        seconds: dict[str, list[float]] = {who: [] for who in self.workers}
        for turn in range(rounds + 1):
            for who, worker in list(self.workers.items()):
                try:
                    if turn:
                        seconds[who].append(worker.run(counts[who], self.until))
                    else:
                        worker.run(2, self.until)
                        counts[who] = max(1, round(slot / worker.run(3, self.until)))
                except FailedError as error:
                    self._drop(who, str(error))
        for who in self.workers:
            tell("times", workload=self.workload, who=who, seconds=seconds[who], median=statistics.median(seconds[who]))

    @property
    def has_ours(self) -> bool:
        return "needle" in self.workers

    def _drop(self, who: str, why: str) -> None:
        tell("trouble", workload=self.workload, who=who, why=why)
        self.workers.pop(who).close()

    def close(self) -> None:
        for worker in self.workers.values():
            worker.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="the Python of the peers (default: this one)")
    parser.add_argument("--peers", default=",".join(PEERS), help="a list with commas; empty for none")
    parser.add_argument("--workloads", default=",".join(CLASSES))
    parser.add_argument("--rounds", type=int, default=7, help="0 measures first steps alone")
    parser.add_argument("--slot", type=float, default=0.3, help="seconds of each turn")
    parser.add_argument("--limit", type=float, default=300, help="seconds for all")
    parser.add_argument("--device", default="cuda:0", help="ours; the peers are on the GPU")
    parser.add_argument("--small", action="store_true", help="small steps, the peers on the CPU: to try this program")
    args = parser.parse_args()
    until = time.monotonic() + args.limit
    wanted = [peer for peer in args.peers.split(",") if peer]
    small = ["--small"] if args.small else []
    peers = {
        who: [*command, *(["--device", "cpu"] if args.small else []), *small]
        for who, command in peers_of(args.peer_python, wanted, args.small).items()
    }
    ours = {"needle": [sys.executable, str(HERE / "steps.py"), "--device", args.device, *small]}
    workloads, is_complete = args.workloads.split(","), True
    for i, workload in enumerate(workloads):
        now = time.monotonic()
        share = now + (until - now) / (len(workloads) - i)
        comparison = Comparison(workload, (SMALL_CLASSES if args.small else CLASSES)[workload], share)
        try:
            turns = (args.rounds + 2) * args.slot * (len(peers) + 1)
            comparison.start(ours, turns)
            if args.rounds and comparison.has_ours:
                comparison.start(peers, min(1.5 * turns + 2, (share - now) / 2))
                comparison.measure(args.rounds, args.slot)
            is_complete &= comparison.has_ours
        finally:
            comparison.close()
    sys.exit(not is_complete)


if __name__ == "__main__":
    main()
