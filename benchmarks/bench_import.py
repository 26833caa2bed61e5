"""What importing the core costs above NumPy. Each round is a fresh interpreter; the time is taken inside of it."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

IMPORT = "import numpy, time; t = time.perf_counter(); import needle_core; print(time.perf_counter() - t)"


def test_import_above_numpy(benchmark: Any, tmp_path: Path) -> None:
    seconds: list[float] = []
    compiled = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path)}  # as once installed

    def fresh() -> None:
        run = subprocess.run([sys.executable, "-c", IMPORT], env=compiled, capture_output=True, text=True, check=True)
        seconds.append(float(run.stdout))

    benchmark.pedantic(fresh, rounds=15, warmup_rounds=2)
    benchmark.extra_info["median_above_numpy_ms"] = round(statistics.median(seconds) * 1e3, 1)
    print(f"\nimport needle_core: {statistics.median(seconds) * 1e3:.1f} ms above import numpy (median of {len(seconds)})")
