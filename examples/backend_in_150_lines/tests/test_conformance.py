"""The quick part of the conformance kit, check by check; `needle conform tiny` runs all of it."""

import pytest
from needle_core.testing import Check, checks


@pytest.mark.parametrize("check", checks("tiny", quick=True), ids=str)
def test_conformance(check: Check) -> None:
    check()
