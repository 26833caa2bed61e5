"""The conformance kit on the simulated device, in a process of its own: the part that compiles random programs and whole steps.

All of it: needle conform cuda --simulated
"""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.once


def test_compiled_programs_and_steps_conform() -> None:
    program = "from needle_core.cli import main; main()"
    options = ["conform", "cuda", "--quick", "--simulated", "--case", "compile/*"]
    done = subprocess.run([sys.executable, "-c", program, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "needle-cuda-backend" in done.stdout
    assert "cuda:0, simulated: quick conformance" in done.stdout
    assert "30 checks held" in done.stdout
