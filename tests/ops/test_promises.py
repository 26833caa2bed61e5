"""There are as many checks as the declarations promise, and whoever makes fewer is noticed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from needle_core.testing import CASES, Case, check, transfers
from needle_core.testing.check import checks_of_backend, checks_of_op
from needle_core.testing.modules import promised_by_modules
from needle_core.testing.promises import promised_by_backend, promised_by_op
from needle_core.testing.samples import COMPLEX, at, mask, real, sample, whole
from needle_core.testing.suite import suite
from needle_core.testing.transfers import counts_memory

HELPERS: dict[str, Any] = {
    "_dtypes": [], "_layouts": [], "_reals": 0, "_smooth": [], "_plantable": [], "_floating": [], "_sizes": (None, []),
    "_pairs": [], "_many": [], "_mixtures": [],
}  # fmt: skip
"""Of check.py, with what says nothing."""


def came(case: Case, **options: Any) -> Counter[str]:
    return Counter(c.id.split("/")[1] for c in checks_of_op(case, **options))


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_as_many_checks_as_promised_whatever_the_seed(name: str, quick: bool) -> None:
    made = [[c.id for c in checks_of_op(CASES[name], seed, quick=quick)] for seed in (0, 1)]
    assert made[0] == made[1]
    assert len(set(made[0])) == len(made[0])
    assert Counter(i.split("/")[1] for i in made[0]) == promised_by_op(CASES[name], quick=quick)
    assert {i.split("/")[0] for i in made[0]} == {name}


@pytest.mark.parametrize("quick", [True, False])
def test_as_many_checks_of_a_backend_as_promised(quick: bool) -> None:
    ids = [c.id for c in checks_of_backend(quick=quick)]
    assert len(set(ids)) == len(ids)
    assert Counter(i.split("/")[1] for i in ids) == promised_by_backend(quick=quick, counts_memory=counts_memory())


@pytest.mark.parametrize("helper", HELPERS)
def test_a_generator_that_gives_nothing_is_noticed(monkeypatch: pytest.MonkeyPatch, helper: str) -> None:
    assert all(came(case) == promised_by_op(case) for case in CASES.values())
    monkeypatch.setattr(check, helper, lambda *_: HELPERS[helper])
    assert any(came(case) != promised_by_op(case) for case in CASES.values())


def test_a_backend_without_shapes_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers, "_shapes", lambda quick: ())
    ids = [c.id for c in checks_of_backend()]
    assert Counter(i.split("/")[1] for i in ids) != promised_by_backend(counts_memory=counts_memory())


# -- numbers, counted by hand -----------------------------------------------------------------------------------------------


def test_checks_of_a_pointwise_op() -> None:
    samples = [sample(real(), real(2)), sample(real(3), real(0)), at([1.0], [2.0]), whole([1], [2])]
    case = replace(CASES["add"], samples=samples, refusals=[], kinks=[], gradient=COMPLEX)
    assert promised_by_op(case) == {
        "declaration": 1, "forward": 8 + 8 + 4 + 1 + 4 * 6, "body": 0, "special": 4, "empty": 1, "broadcast": 16, "large": 1,
        "undeclared": 0, "scalars": 2, "memory": 4, "repeat": 1, "gradient": 2, "gradient dtypes": 4, "second order": 2,
        "kink": 0, "refusal": 0, "arguments": 1, "devices": 1,
    }  # fmt: skip
    assert promised_by_op(case, quick=True) == {
        "declaration": 1, "forward": 2 + 2 + 2 + 1 + 4 * 3, "body": 0, "special": 2, "empty": 1, "broadcast": 4, "large": 0,
        "undeclared": 0, "scalars": 2, "memory": 4, "repeat": 1, "gradient": 2, "gradient dtypes": 2, "second order": 2,
        "kink": 0, "refusal": 0, "arguments": 1, "devices": 1,
    }  # fmt: skip


def test_checks_of_a_reduction() -> None:
    samples = [sample(real(3, 4), axis=0), sample(real(0, 3), axis=0), at([1.0, 2.0])]
    case = replace(
        CASES["sum"], samples=samples, refusals=[], kinks=[], large=[sample(real(10**5))], dtypes=("float32", "int32")
    )
    assert promised_by_op(case) == {
        "declaration": 1, "forward": 2 + 2 + 1 + 3 * 5, "body": 0, "special": 1, "empty": 2, "broadcast": 0, "large": 1,
        "undeclared": 6, "scalars": 0, "memory": 3, "repeat": 1, "gradient": 2, "gradient dtypes": 2, "second order": 2,
        "kink": 0, "refusal": 0, "arguments": 1, "devices": 0,
    }  # fmt: skip


def test_checks_of_a_composite_with_a_mask() -> None:
    case = replace(CASES["where"], samples=[sample(mask(2), real(2), real())], refusals=[], kinks=[], gradient=None)
    assert promised_by_op(replace(case, name="mean"), alone=True) == {
        "declaration": 1, "forward": 8 + 6, "body": 8, "special": 4, "empty": 1, "broadcast": 16, "large": 1, "undeclared": 0,
        "scalars": 2, "memory": 1, "repeat": 1, "gradient": 0, "gradient dtypes": 0, "second order": 0, "kink": 0,
        "refusal": 0, "arguments": 1, "devices": 0,
    }  # fmt: skip


def test_checks_of_a_backend() -> None:
    assert promised_by_backend() == {
        "transfer": 392, "view": 48, "devices": 8, "empty": 8, "dlpack": 98, "random": 30, "leaks": 1, "threads": 1,
        "synchronize": 1,
    }  # fmt: skip
    assert promised_by_backend(quick=True, alone=True, counts_memory=False) == {
        "transfer": 112, "view": 48, "devices": 0, "empty": 8, "dlpack": 28, "random": 30, "leaks": 0, "threads": 1,
        "synchronize": 1,
    }  # fmt: skip


def test_checks_of_modules() -> None:
    assert promised_by_modules().items() >= {"layer": 200, "layer gradient": 100, "state": 100, "seed": 1, "move": 1}.items()


def test_nothing_is_lost_of_a_whole_backend() -> None:
    least = Counter({
        "forward": 22457, "body": 9907, "special": 3576, "empty": 448, "broadcast": 400, "large": 94, "undeclared": 18,
        "scalars": 50, "memory": 1743, "repeat": 165, "gradient": 1394, "gradient dtypes": 2788, "second order": 1394,
        "kink": 12, "refusal": 316, "arguments": 165, "devices": 72, "declaration": 165, "count": 167, "transfer": 392,
        "layer": 200, "program": 200, "step": 6, "state": 2,
    })  # fmt: skip
    made = suite("loopback")
    assert Counter(planned.kind for planned in made.checks) == made.promised
    assert made.promised >= least, made.promised
