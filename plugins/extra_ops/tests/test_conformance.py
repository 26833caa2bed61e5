import pytest

from needle_core.testing import checks


@pytest.mark.parametrize("check", checks("extra_ops"), ids=str)
def test_conformance(check):
    check()
