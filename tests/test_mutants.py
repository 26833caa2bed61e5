"""The conformance kit bites: every planted bug is caught by the checks of what it touches."""

from __future__ import annotations

import pytest

from tests.mutants.hunt import MUTANTS, caught
from tests.mutants.planting import Mutant

pytestmark = pytest.mark.once


def test_there_are_bugs_of_every_kind() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) > 100


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_planted_bug_is_caught(mutant: Mutant) -> None:
    found = caught(mutant)
    assert found is not None, mutant.wrong
