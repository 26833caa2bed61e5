"""Runs one training step many times, on demand: python benchmarks/worker.py [--device numpy] [--threads 2] [--compile] WORKLOAD

Prints `ready SECONDS`, the time of the first step, once it is warm. Then for each line `N` on standard input it runs N steps
and prints `SECONDS LOSS`: the wall time of them all with all work finished, and the loss of the last. Ends at the end of input.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload", help="scaleadd, mlp, mlpresnet, resnet9, lstm or gpt")
    parser.add_argument("--device", help="where to run (default: the default device)")
    parser.add_argument("--threads", type=int, default=2, help="threads of the linear algebra library (default: 2)")
    parser.add_argument("--compile", action="store_true", help="compile the step with ndl.compile")
    args = parser.parse_args()
    for library in ("OMP", "OPENBLAS", "MKL"):  # read when NumPy is imported
        os.environ[f"{library}_NUM_THREADS"] = str(args.threads)

    from workloads import WORKLOADS

    import needle_core as ndl

    if args.workload not in WORKLOADS:
        parser.error(f"no workload {args.workload!r}; there are {', '.join(WORKLOADS)}")
    if args.device:
        ndl.set_default_device(args.device)
    device = ndl.default_device()
    step: Callable[[], ndl.Tensor] = WORKLOADS[args.workload]()
    if args.compile:
        step = ndl.compile(step)
    start = time.perf_counter()
    float(step())
    first = time.perf_counter() - start
    for _ in range(5):
        step()
    device.backend.synchronize(device)
    print("ready", first, flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            loss = step()
        device.backend.synchronize(device)
        print(time.perf_counter() - start, float(loss), flush=True)


if __name__ == "__main__":
    main()
