"""What an op, a backend or an optimizer is proved right with: declarations, and the checks that follow from them.

A plugin's own tests take five lines:

    import pytest
    from needle_core.testing import checks

    @pytest.mark.parametrize("check", checks("extra_ops"), ids=str)
    def test_conformance(check): check()

    samples        the language in which an op is declared: samples, references, refusals
    trajectories   the language in which an optimizer is declared
    FAMILY         what is declared of the core's ops, one module for each family; layers, of the layers
    check          which checks an op gets; bounds, values, memory, gradients and refusals hold them
    promises       how many checks there must be
    transfers      the checks of a backend apart from its ops
    optimizers     the checks of an optimizer
    modules        the checks of modules
    compilation    the checks of compiled functions
    programs       random programs
    interpreter    plans run in poisoned memory
    suite          all checks of one plugin, on its devices
    report         running and counting them
    evidence       the results of former runs
    usage          which ops a program uses
    loopback       a device that behaves like an accelerator on any machine

Importing this package imports none of them, because the loopback device stands here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from needle_core.testing.samples import CASES, Case, Check, MismatchError
    from needle_core.testing.suite import checks

__all__ = ["CASES", "Case", "Check", "MismatchError", "checks"]

_HOMES = {"CASES": "samples", "Case": "samples", "Check": "samples", "MismatchError": "samples", "checks": "suite"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "CASES":
        _declare_families()
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def _declare_families() -> None:
    """Import what is declared of each family of the core's ops."""
    from needle_core.op import OPS

    for family in sorted({op.family for op in OPS.values() if op.__module__.startswith("needle_core.ops.")}):
        import_module(f"{__name__}.{family}")
