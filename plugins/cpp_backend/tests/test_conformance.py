"""The conformance kit on this backend."""

from __future__ import annotations

import pytest

from needle_core.testing import Check, checks


@pytest.mark.parametrize("check", checks("cpp", quick=True), ids=str)
def test_conformance(check: Check) -> None:
    check()
