"""Every op of the core against its declaration in needle_core.testing, on the default device.

These are all checks of its backend. Of the loopback device they are the quick ones: its kernels are those of a host, where all
are made, and more dtypes, layouts and elements tell nothing more of its memory.
"""

from __future__ import annotations

import pytest

import needle_core as ndl
from needle_core.testing import CASES
from needle_core.testing.loopback import LoopbackBackend
from needle_core.testing.report import run
from needle_core.testing.suite import core_ops, suite

BACKEND = ndl.default_device().backend
SUITE = suite(BACKEND.name, quick=isinstance(BACKEND, LoopbackBackend))
SUBJECTS = sorted({planned.subject for planned in SUITE.checks})


def test_every_op_of_the_core_is_declared() -> None:
    assert set(CASES) == {op.name for op in core_ops()}


def test_every_declaration_has_samples() -> None:
    assert not [name for name, case in CASES.items() if len(case.samples) < 3]


@pytest.mark.parametrize("subject", SUBJECTS)
def test_conforms(subject: str) -> None:
    failures = run(SUITE, [planned for planned in SUITE.checks if planned.subject == subject]).failures()
    assert not failures, "\n".join(f"{f.first.planned.id}: {f.first.text}\n  {f.repeats[0]}" for f in failures)
