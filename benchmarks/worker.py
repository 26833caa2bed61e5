"""The worker of needle_core.benchmark with a number of threads: python benchmarks/worker.py [--threads 2] ARGUMENTS

The libraries read it when they are loaded, so it is set before the first import.
"""

from __future__ import annotations

import argparse
import os


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--threads", type=int, default=2)
    args, rest = parser.parse_known_args()
    for library in ("OMP", "OPENBLAS", "MKL"):
        os.environ[f"{library}_NUM_THREADS"] = str(args.threads)

    from needle_core.benchmark import worker

    worker.main(rest)


if __name__ == "__main__":
    main()
