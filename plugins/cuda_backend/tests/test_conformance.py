"""The conformance kit on this backend, its device simulated."""

from __future__ import annotations

import pytest

from needle_core.testing import Check, checks


def simulated() -> list[Check]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEEDLE_CUDA_SIMULATED", "1")
        return checks("cuda", quick=True)


@pytest.mark.parametrize("check", simulated(), ids=str)
def test_conformance(check: Check) -> None:
    check()
