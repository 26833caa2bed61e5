"""The hooks: what a plugin may implement, in the order of a plugin's life.

A plugin is a module (or an object) named by an entry point, with `needle_api` and some of the hooks below:

    [project.entry-points."needle_core.backends"]         # pyproject.toml: the promise
    numpy = "needle_numpy_backend"

    from needle_core.plugins import hookimpl              # needle_numpy_backend/__init__.py: what keeps it

    needle_api = 1

    @hookimpl
    def needle_register_backends(registrar):
        from needle_numpy_backend.backend import NumpyBackend
        registrar.backend(NumpyBackend)

The entry points are read without importing anything; the module is imported when one of its names is first wanted. Then the
hooks `needle_register_...` are called once, in this order, and what they register must be exactly what the entry points
promise. It takes effect when all are through; a plugin that fails on the way registers nothing. The last two hooks are for
those who check the plugin, and are called by nobody else. The names of functions in a plugin that begin with `needle_` are
reserved for hooks. A hook takes exactly the parameters below and returns nothing; what it may register grows on the
registrar, not in the signatures. While a plugin is imported and its hooks run, what it prints goes to standard error under its
name, what it puts on sys.path goes behind what was there, and it cannot change the filters of warnings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pluggy import HookimplMarker, HookspecMarker

if TYPE_CHECKING:
    from needle_core.plugins.registrar import Registrar

API: Final = 1
"""The number that a plugin declares as `needle_api`. It changes when a hook changes in a way that breaks plugins."""

hookspec = HookspecMarker("needle")
hookimpl = HookimplMarker("needle")


@hookspec
def needle_register_backends(registrar: Registrar) -> None:
    """Register classes of backends.

    Called:    once, when one of the plugin's names is first wanted
    Registers: `registrar.backend(cls)`, a concrete subclass of `needle_core.backend.Backend`; making an instance opens it, so
               a missing library or driver is no reason to fail here
    Promise:   group `needle_core.backends`, entry name `cls.name`
    """


@hookspec
def needle_register_ops(registrar: Registrar) -> None:
    """Register ops.

    Called:    once, after needle_register_backends
    Registers: `registrar.op(op)`, made by `primitive`, `composite` or as a `TensorOp`, under a name that no other op has
    Promise:   group `needle_core.ops`, entry name `op.name`
    """


@hookspec
def needle_register_kernels(registrar: Registrar, backend: str) -> None:
    """Register kernels for a backend that is not the plugin's own, or for ops of this plugin.

    Called:    once for each backend: when it opens, if the plugin is active by then or promises kernels for it; after
               needle_register_ops for the backends that are open already
    Registers: `registrar.kernels(source)`, a mapping from names of ops to functions, or a module whose public functions bear
               the names of ops; they come before the backend's own
    Promise:   group `needle_core.kernels`, entry name `BACKEND.op`; kernels for the plugin's own ops need none
    """


@hookspec
def needle_register_optimizers(registrar: Registrar) -> None:
    """Register classes of optimizers.

    Called:    once, after needle_register_ops and needle_register_kernels
    Registers: `registrar.optimizer(cls)`, a concrete subclass of `needle_core.optim.Optimizer`
    Promise:   group `needle_core.optimizers`, entry name `cls.__name__`
    """


@hookspec
def needle_conformance(registrar: Registrar) -> None:
    """Declare what the plugin is proved right with.

    Called:    by `needle conform`, `needle matrix` and `needle_core.testing.checks`, after activation; never otherwise
    Registers: `registrar.case(name, reference, samples, ...)` for each op of the plugin; `registrar.optimizer_case(case)` for
               each of its optimizers; `registrar.roundoff(op, dtype, u, reason)`, an op whose kernels round more than their
               dtype does; `registrar.expect_failure(pattern, reason, until)`, checks that are known to fail
    Promise:   none; but an op or optimizer without a case does not conform
    """


@hookspec
def needle_doctor(registrar: Registrar) -> None:
    """Offer probes of the installation: is the library there, does the driver fit.

    Called:    by `needle doctor`, in a process of its own, after activation; never otherwise
    Registers: `registrar.probe(name, function)`; called without arguments, it returns a line to show, or raises
    Promise:   none
    """
