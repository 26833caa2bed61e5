"""Memory of training steps: that it stays flat over 10,000, and the peak of one."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path

import pytest

import needle_core as ndl
from needle_core.benchmark.workloads import WORKLOADS

STATUS = Path("/proc/self/status")


@pytest.mark.skipif(not STATUS.exists(), reason="reads resident memory from /proc")
@pytest.mark.parametrize("name", ["mlp", "mlpresnet"])
def test_memory_stays_flat(name: str) -> None:
    step = WORKLOADS[name]()
    resident = {}
    for i in range(1, 10_001):
        step()
        if i in (100, 10_000):
            gc.collect()
            resident[i] = _resident()
    growth = resident[10_000] - resident[100]
    print(f"\n{name}: resident after 100 steps {resident[100] / 2**20:.1f} MB, after 10,000 {growth / 2**20:+.2f} MB")
    assert growth < 2**20


@pytest.mark.parametrize("name", WORKLOADS)
def test_peak_of_a_step(name: str) -> None:
    """The arrays that NumPy allocates, model, optimizer and batch included; a compiled step needs no more than an eager one."""
    peaks = {}
    for wrap in (lambda step: step, ndl.compile):
        tracemalloc.start()
        step = wrap(WORKLOADS[name]())
        for _ in range(3):
            step()
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        step()
        _, peaks[wrap] = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        kind = "compiled" if wrap is ndl.compile else "eager"
        print(f"\n{name}, {kind}: {before / 2**20:.2f} MB between steps, {peaks[wrap] / 2**20:.2f} MB at most")
        del step
        gc.collect()
    eager, compiled = peaks.values()
    print(f"{name}: {compiled / eager:.3f} of the eager peak")


def _resident() -> int:
    """Bytes of memory that this process holds."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024
