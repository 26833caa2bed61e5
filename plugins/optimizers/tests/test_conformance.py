"""The conformance kit on these optimizers: trajectories, states, groups, schedules, errors."""

from __future__ import annotations

import pytest

from needle_core.testing import Check, checks


@pytest.mark.parametrize("check", checks("optimizers", quick=True), ids=str)
def test_conformance(check: Check) -> None:
    check()
