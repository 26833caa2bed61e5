"""The kit against planted bugs, and against honest code."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from needle_core import nn
from needle_core.plugins import registry
from needle_core.testing import CASES, Check
from needle_core.testing.check import checks_of_backend, checks_of_op
from needle_core.testing.modules import checks_of_modules
from needle_core.testing.optimizers import OptimizerCase, checks_of_optimizer
from needle_core.testing.suite import on, strictly, suite
from tests.mutants import backend, late, modules, networks, ops, optimizers
from tests.mutants.planting import Mutant

MUTANTS: list[Mutant] = [mutant for part in (backend, late, ops, networks, optimizers, modules) for mutant in part.MUTANTS]


@dataclass(frozen=True)
class Catch:
    """How a bug was found: by which check, the first that failed, after how many, in how many seconds."""

    check: str
    number: int
    seconds: float
    failure: Exception


def optimizer_cases() -> dict[str, OptimizerCase]:
    """What is declared of the optimizers of needle-optimizers."""
    return {name: case for a in registry.activated("optimizers") for name, case in a.declarations().optimizers.items()}


def checks_of(subjects: Iterable[str]) -> Iterator[Check]:
    """All checks of ops, optimizers and layers by name, of "backend", and of "modules": what all modules have in common."""
    for subject in subjects:
        if subject == "backend":
            yield from checks_of_backend()
        elif subject in CASES:
            yield from checks_of_op(CASES[subject])
        elif subject == "modules" or hasattr(nn, subject):
            yield from (check for check in checks_of_modules() if check.id.startswith(f"{subject}/"))
        else:
            yield from checks_of_optimizer(optimizer_cases()[subject])


def caught(mutant: Mutant) -> Catch | None:
    """Plant the bug and run the checks until one fails that passes on honest code; None if none does."""
    start = time.perf_counter()
    with on(mutant.device):
        rest = enumerate(checks_of(mutant.subjects), 1)
        while True:
            with mutant.plant():
                hit = next(((number, check, f) for number, check in rest if (f := failure_of(check)) is not None), None)
            if hit is None:
                return None
            number, check, failure = hit
            if failure_of(check) is None:
                return Catch(check.id, number, time.perf_counter() - start, failure)


def alarms(seed: int) -> tuple[int, list[str]]:
    """How many checks the quick kit runs on honest plugins with values drawn from `seed`, and what it finds wrong."""
    planned = [p for name in honest_plugins() for p in suite(name, seed, quick=True).checks]
    return len(planned), [f"{p.id}: {failure}" for p in planned if (failure := failure_of(p)) is not None]


def honest_plugins() -> list[str]:
    """The plugins of this repository that have something to check."""
    offered = registry.names("backends") + registry.names("optimizers") + registry.names("ops")
    return sorted({a.plugin.distribution for name in offered for a in registry.activated(name)})


def failure_of(check: Callable[[], object]) -> Exception | None:
    """What a check raises, or None; a numerical warning is an error, as in a suite."""
    try:
        with strictly():
            check()
    except Exception as failure:
        return failure
    return None
