"""The object that a plugin talks to in its hooks: it checks what comes, and holds it back until the hooks are through."""

from __future__ import annotations

import keyword
from abc import ABCMeta
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from types import ModuleType
from typing import TYPE_CHECKING, Any

from needle_core.backend import Backend, public_functions
from needle_core.errors import ArgumentError
from needle_core.op import OPS, Kernel, Op
from needle_core.plugins.declarations import Declarations, ExpectedFailure, Limit, Probe

if TYPE_CHECKING:
    from needle_core.optim import Optimizer
    from needle_core.testing.optimizers import OptimizerCase
    from needle_core.testing.samples import Reference, Sample


class Registrar:
    """Takes what a plugin offers; each method belongs to one hook, and works only while that hook is being called.

    A name that is no identifier, is taken, or is registered twice is an ArgumentError, raised where it was registered.
    """

    def __init__(self) -> None:
        self._hook: str | None = None
        self._kernels: dict[str, Kernel] = {}
        self.staged: dict[str, dict[str, Any]] = {"backends": {}, "ops": {}, "optimizers": {}}
        self.declarations = Declarations()
        self.probes: dict[str, Probe] = {}

    # -- what the plugin offers -----------------------------------------------------------------------------------------

    def backend(self, cls: type[Backend]) -> None:
        """Offer a backend under `cls.name`."""
        self._belongs_to("needle_register_backends")
        _check_class("registrar.backend", cls, Backend)
        self._stage("backends", getattr(cls, "name", None), cls)

    def op(self, op: Op[..., Any]) -> None:
        """Offer an op under `op.name`."""
        self._belongs_to("needle_register_ops")
        if not isinstance(op, Op):
            hint = (
                f"registrar.op({op.__name__}()) registers an instance" if isinstance(op, type) and issubclass(op, Op) else None
            )
            raise ArgumentError(f"registrar.op takes an op, not {op!r}", hint=hint)
        if op.name in OPS:
            raise ArgumentError(f"an op is already called {op.name!r}")
        self._stage("ops", op.name, op)

    def kernels(self, source: ModuleType | Mapping[str, Kernel]) -> None:
        """Offer kernels for the hook's `backend`: a mapping from names of ops, or a module of functions that bear them."""
        self._belongs_to("needle_register_kernels")
        if not isinstance(source, ModuleType | Mapping):
            raise ArgumentError(f"registrar.kernels takes a module or a mapping, not {source!r}")
        for name, kernel in (public_functions(source) if isinstance(source, ModuleType) else source).items():
            if not callable(kernel):
                raise ArgumentError(f"the kernel for {name!r} cannot be called: {kernel!r}")
            if name in self._kernels:
                raise ArgumentError(f"a kernel for {name!r} is registered twice")
            self._kernels[name] = kernel

    def optimizer(self, cls: type[Optimizer]) -> None:
        """Offer an optimizer under the name of its class."""
        from needle_core.optim import Optimizer

        self._belongs_to("needle_register_optimizers")
        _check_class("registrar.optimizer", cls, Optimizer)
        self._stage("optimizers", cls.__name__, cls)

    # -- what is declared of it -----------------------------------------------------------------------------------------

    def case(self, name: str, reference: Reference, samples: Sequence[Sample], **fields: Any) -> None:
        """Declare the op called `name`, of this plugin; `fields` are those of `needle_core.testing.Case`."""
        from needle_core.testing.samples import Case

        self._belongs_to("needle_conformance")
        self._declare(self.declarations.cases, name, Case(name, reference, samples, **fields))

    def optimizer_case(self, case: OptimizerCase) -> None:
        """Declare an optimizer of this plugin."""
        from needle_core.testing.optimizers import OptimizerCase

        self._belongs_to("needle_conformance")
        if not isinstance(case, OptimizerCase):
            raise ArgumentError(f"registrar.optimizer_case takes an OptimizerCase, not {case!r}")
        self._declare(self.declarations.optimizers, case.name, case)

    def roundoff(self, op: str, dtype: str, u: float, reason: str) -> None:
        """Declare that kernels of `op` round with unit roundoff `u` where the dtype's own is less; reports show it."""
        from needle_core.testing.bounds import ROUNDOFF

        self._belongs_to("needle_conformance")
        if op not in OPS:
            raise ArgumentError(f"no op is called {op!r}")
        if dtype not in ROUNDOFF or not u > ROUNDOFF[dtype]:
            known = ", ".join(f"{name} {own:.2g}" for name, own in ROUNDOFF.items())
            raise ArgumentError(f"u is {u!r}, and must be more than the roundoff of {dtype!r}", details={"roundoffs": known})
        _check_reason(reason)
        self.declarations.limits.append(Limit(op, dtype, u, reason))

    def expect_failure(self, pattern: str, reason: str, until: str) -> None:
        """Declare that checks whose ids match `pattern` fail until the date YYYY-MM-DD; one that passes fails the run."""
        self._belongs_to("needle_conformance")
        _check_reason(reason)
        try:
            end = date.fromisoformat(until)
        except (TypeError, ValueError):
            raise ArgumentError(f"until is {until!r}", hint='until="2027-06-30"') from None
        self.declarations.expected.append(ExpectedFailure(pattern, reason, end))

    def probe(self, name: str, function: Probe) -> None:
        """Offer a function that `needle doctor` calls: it returns a line about the installation, or raises."""
        self._belongs_to("needle_doctor")
        if not callable(function):
            raise ArgumentError(f"the probe {name!r} cannot be called: {function!r}")
        self._declare(self.probes, name, function)

    # -- order ----------------------------------------------------------------------------------------------------------

    @contextmanager
    def during(self, hook: str) -> Iterator[dict[str, Kernel]]:
        """Take registrations that belong to `hook`; gives the kernels that come meanwhile."""
        self._hook, self._kernels = hook, {}
        try:
            yield self._kernels
        finally:
            self._hook = None

    def _belongs_to(self, hook: str) -> None:
        if self._hook != hook:
            now = f"in {self._hook}" if self._hook else "after the hooks were through"
            raise ArgumentError(f"this registration belongs in {hook}, and came {now}")

    def _stage(self, group: str, name: object, value: object) -> None:
        if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
            raise ArgumentError(f"{value!r} has the name {name!r}, which is no identifier")
        if name in self.staged[group]:
            raise ArgumentError(f"{group[:-1]} {name!r} is registered twice")
        self.staged[group][name] = value

    def _declare(self, place: dict[str, Any], name: str, value: object) -> None:
        if name in place:
            raise ArgumentError(f"{name!r} is declared twice")
        place[name] = value


def _check_reason(reason: object) -> None:
    if not isinstance(reason, str) or not reason.strip():
        raise ArgumentError("a reason is needed, for whoever reads the report")


def _check_class(taker: str, cls: object, base: type) -> None:
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise ArgumentError(f"{taker} takes a subclass of {base.__name__}, not {cls!r}")
    if isinstance(cls, ABCMeta) and cls.__abstractmethods__:
        raise ArgumentError(f"{cls.__name__} does not define {', '.join(sorted(cls.__abstractmethods__))}")
