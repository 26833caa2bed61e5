"""What fifty installed plugins cost, five of them broken, and what dispatch adds to a kernel.

Each round of the first two is a fresh interpreter, which takes the time inside: processor time, which busy neighbours disturb
least. Rounds with and without alternate.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import needle_core as ndl
from needle_core.op import KERNELS
from needle_core.tensor import tensor_of

ROUNDS = 15
CLOCK = "import numpy, time; t = time.process_time(); {what}; print(time.process_time() - t)"
IMPORT = CLOCK.format(what="import needle_core")
OPEN = "import needle_core; " + CLOCK.format(what="needle_core.device('numpy')")
OWN = "import needle_core, needle_core.backend, needle_core.doors; " + CLOCK.format(
    what="from needle_numpy_backend.backend import NumpyBackend; NumpyBackend()"
)
DIRECT = 'tensor_of(spec, kernels["add", "numpy"](a.buffer, b.buffer))'

PLUGIN = """
from needle_core.doors import elementwise
from needle_core.op import composite
from needle_core.plugins import hookimpl

needle_api = 1

@composite(elementwise)
def op_{i}(x):
    return x

@hookimpl
def needle_register_ops(registrar):
    registrar.op(op_{i})
"""


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site with fifty plugins: 45 sound, one that raises, one that exits, one without a module, two with one name."""
    site = tmp_path_factory.mktemp("site")
    for i in range(50):
        info = site / f"needle_{i}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: needle-{i}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[needle_core.ops]\nop_{min(i, 48)} = needle_{i}\n")
        (site / f"needle_{i}.py").write_text(PLUGIN.format(i=min(i, 48)))
    (site / "needle_45.py").write_text("raise RuntimeError")
    (site / "needle_46.py").write_text("raise SystemExit")
    (site / "needle_47.py").unlink()
    return site


@pytest.fixture(scope="module")
def seconds(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., float]:
    """A function that runs a program in a fresh interpreter, its modules compiled, and gives what it prints."""
    cache = str(tmp_path_factory.mktemp("compiled"))

    def run(program: str, *sites: Path) -> float:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("NEEDLE_", "PYTHON"))}
        environment |= {"PYTHONPYCACHEPREFIX": cache, "PYTHONPATH": os.pathsep.join(map(str, sites))}
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
        return float(done.stdout)

    return run


def in_turn(benchmark: Any, first: Callable[[], float], second: Callable[[], float]) -> tuple[list[float], list[float]]:
    """The seconds of the two, which take turns."""
    taken: tuple[list[float], list[float]] = ([], [])

    def both() -> None:
        for run, times in zip((first, second), taken, strict=True):
            times.append(run())

    benchmark.pedantic(both, rounds=ROUNDS, warmup_rounds=2)
    return taken[0][-ROUNDS:], taken[1][-ROUNDS:]


def tell(benchmark: Any, what: str, unit: str, scale: float, limit: float, times: tuple[list[float], list[float]]) -> None:
    """Print the difference of the two, by medians and by minima, beside what it may be."""
    median, least = (scale * (of(times[1]) - of(times[0])) for of in (statistics.median, min))
    benchmark.extra_info.update(median=round(median, 3), least=round(least, 3), unit=unit, limit=limit)
    print(f"\n{what}: {median:+.3f} {unit} by medians, {least:+.3f} by minima (at most {limit})")


def test_import_with_fifty_plugins(benchmark: Any, crowd: Path, seconds: Callable[..., float]) -> None:
    times = in_turn(benchmark, lambda: seconds(IMPORT), lambda: seconds(IMPORT, crowd))
    tell(benchmark, "import of the core with 50 plugins above that with none", "ms", 1e3, 1, times)


def test_first_use_of_a_backend_among_fifty_plugins(benchmark: Any, crowd: Path, seconds: Callable[..., float]) -> None:
    times = in_turn(benchmark, lambda: seconds(OWN), lambda: seconds(OPEN, crowd))
    tell(benchmark, "first use of a backend among 50 plugins above its own import", "ms", 1e3, 25, times)


@pytest.mark.parametrize("written", ["op(a, b)", "a + b"])
def test_dispatch_above_the_kernel(benchmark: Any, written: str) -> None:
    device = ndl.device("numpy")
    a, b = ndl.ones(8, device=device), ndl.ones(8, device=device)
    bound = device.backend.bind(KERNELS["add", "numpy"], {}, (a.spec, b.spec), a.spec)
    names = {"a": a, "b": b, "op": ndl.add, "kernels": {("add", "numpy"): bound}, "tensor_of": tensor_of, "spec": a.spec}
    direct = timeit.Timer(DIRECT, globals=names)
    dispatched = timeit.Timer(written, globals=names)
    n = 4_000

    def least(timer: timeit.Timer) -> float:
        return min(timer.repeat(20, n)) / n

    times = in_turn(benchmark, lambda: least(direct), lambda: least(dispatched))
    tell(benchmark, f"{written} above {DIRECT}", "us", 1e6, 0.3, times)
