"""Plant every bug and print by which check it was caught; then look for false alarms on honest code with many seeds."""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

from tests.mutants.hunt import MUTANTS, alarms, caught
from tests.mutants.planting import Mutant


def main() -> int:
    """0 if every bug was caught and no alarm was false, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help="plant only bugs with one of these in their names")
    parser.add_argument("--quick", action="store_true", help="1 seed instead of 100")
    parser.add_argument("--seeds", type=int, metavar="N", help="seeds on honest code  [default: 100]")
    options = parser.parse_args()
    chosen = [m for m in MUTANTS if not options.names or any(name in m.name for name in options.names)]
    if not chosen:
        parser.error(f"no planted bug is called {' or '.join(options.names)}")
    seeds = options.seeds if options.seeds is not None else 0 if options.names else 1 if options.quick else 100
    escaped = plant(chosen)
    false = look_for_alarms(seeds) if seeds else 0
    return int(escaped + false > 0)


def plant(chosen: list[Mutant]) -> int:
    """Print a line for each bug, and the score; the number of bugs that escaped."""
    width = max(len(m.name) for m in chosen)
    escaped = 0
    for mutant in chosen:
        found = caught(mutant)
        escaped += found is None
        how = "ESCAPED: " + mutant.wrong if found is None else f"{found.seconds:5.2f} s  {found.check}"
        print(f"{mutant.name:{width}}  {how}", flush=True)
    print(f"\n{len(chosen) - escaped} of {len(chosen)} planted bugs caught\n")
    return escaped


def look_for_alarms(seeds: int) -> int:
    """Run the quick kit on honest code with seeds 0 ... seeds - 1, in several processes; the number of false alarms."""
    start, ran, false = time.perf_counter(), 0, 0
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        running = {pool.submit(alarms, seed): seed for seed in range(seeds)}
        for done, future in enumerate(as_completed(running), 1):
            number, found = future.result()
            ran, false = ran + number, false + len(found)
            for alarm in found:
                print(f"FALSE ALARM with seed {running[future]}: {alarm}", flush=True)
            if done % 10 == 0 or done == seeds:
                print(f"{done} of {seeds} seeds, {ran} checks, {time.perf_counter() - start:.0f} s", flush=True)
    print(f"\n{false} false alarms in {ran} checks of honest code with {seeds} seeds")
    return false


if __name__ == "__main__":
    sys.exit(main())
