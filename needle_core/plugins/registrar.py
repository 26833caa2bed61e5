"""The object that a plugin talks to in its hooks: it checks what comes, and holds it back until all hooks are through."""

from __future__ import annotations

import keyword
from abc import ABCMeta
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

from needle_core.backend import Backend, public_functions
from needle_core.errors import ArgumentError
from needle_core.op import OPS, Kernel, Op

if TYPE_CHECKING:
    from needle_core.optim import Optimizer


class Registrar:
    """Takes what a plugin offers; each method belongs to one hook, and works only while that hook is being called.

    A name that is no identifier, is taken, or is registered twice is an ArgumentError, raised where it was registered.
    """

    def __init__(self) -> None:
        self._hook: str | None = None
        self._kernels: dict[str, Kernel] = {}
        self.staged: dict[str, dict[str, Any]] = {"backends": {}, "ops": {}, "optimizers": {}}

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


def _check_class(taker: str, cls: object, base: type) -> None:
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise ArgumentError(f"{taker} takes a subclass of {base.__name__}, not {cls!r}")
    if isinstance(cls, ABCMeta) and cls.__abstractmethods__:
        raise ArgumentError(f"{cls.__name__} does not define {', '.join(sorted(cls.__abstractmethods__))}")
