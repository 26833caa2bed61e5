"""Runs one training step many times, on demand: python -m needle_core.benchmark.worker [--device numpy] [--compile] WORKLOAD

Prints `ready SECONDS LOSS ...`, the time of the first step and the losses of the first six, once it is warm. Then for each
line `N` on standard input it runs N steps and prints `SECONDS LOSS`: the wall time of them all with all work finished, and the
loss of the last. Ends at the end of input.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence

import needle_core as ndl
from needle_core.benchmark.workloads import WORKLOADS

WARMING = 6


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("--device", help="where to run (default: the default device)")
    parser.add_argument("--compile", action="store_true", help="compile the step with ndl.compile")
    args = parser.parse_args(arguments)
    if args.device:
        ndl.set_default_device(args.device)
    device = ndl.default_device()
    step: Callable[[], ndl.Tensor] = WORKLOADS[args.workload]()
    if args.compile:
        step = ndl.compile(step)
    start = time.perf_counter()
    losses = [float(step())]
    first = time.perf_counter() - start
    losses += [float(step()) for _ in range(WARMING - 1)]
    print("ready", first, *losses, flush=True)
    serve(step, device)


def serve(step: Callable[[], ndl.Tensor], device: ndl.Device) -> None:
    """Run a step as often as each line of standard input says; print the seconds that this takes on a device, and the loss."""
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            loss = step()
        device.backend.synchronize(device)
        print(time.perf_counter() - start, float(loss), flush=True)


if __name__ == "__main__":
    main()
