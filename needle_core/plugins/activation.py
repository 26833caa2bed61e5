"""From an entry point to a staged plugin, phase by phase; whatever fails on the way leaves no trace.

    import                    the module or object that the entry point names
    check                     its needle_api; its hooks against the specifications
    needle_register_...       its hooks, in their order, with a registrar that holds everything back
    promises                  what came, against what the entry points promise

The registry commits what is staged. After that, `declarations` and `probes` ask an active plugin the hooks for its checkers.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from pluggy import PluginManager

from needle_core.errors import PluginError
from needle_core.op import OPS, Kernel, lock
from needle_core.plugins import hookspecs, registry
from needle_core.plugins.declarations import Declarations, Probe
from needle_core.plugins.hookspecs import API
from needle_core.plugins.isolation import isolated
from needle_core.plugins.manifest import Plugin
from needle_core.plugins.registrar import Registrar


class Activation:
    """The activation of one plugin: `phase` says how far it came, `staged` and `kernels` what it registered."""

    def __init__(self, plugin: Plugin) -> None:
        self.plugin = plugin
        self.phase = "import"
        self.kernels: dict[str, dict[str, Kernel]] = {}
        self._registrar = Registrar()
        self._hooks: Any = None  # pluggy's relay, once the hooks are checked

    @property
    def staged(self) -> dict[str, dict[str, Any]]:
        """Backends, ops and optimizers by group and name."""
        return self._registrar.staged

    def run(self, opened_backends: Iterable[str]) -> None:
        """Import, check, call the hooks, and compare with the promises; raises whatever the plugin raises."""
        target = self.plugin.load()
        self.phase = "check"
        _check_api(target, self.plugin.distribution)
        self._hooks = _checked_hooks(target)
        self._call("needle_register_backends")
        self._call("needle_register_ops")
        for backend in opened_backends:
            self.call_kernels(backend)
        self._call("needle_register_optimizers")
        self.phase = "promises"
        for group, came in self.staged.items():
            _compare(group, set(came), set(self.plugin.offers.get(group, ())))

    def call_kernels(self, backend: str) -> None:
        """Take the plugin's kernels for `backend`."""
        kernels = self._call("needle_register_kernels", backend=backend)
        own = set(self.staged["ops"])
        unknown = [op for op in kernels if op not in own and op not in OPS and registry.find("ops", op) is None]
        if unknown:
            near = get_close_matches(unknown[0], own | OPS.keys(), n=1)
            raise PluginError(f"no op is called {unknown[0]!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        promised = self.plugin.kernels_for(backend)
        if "" in promised:
            raise PluginError(f"the entry point {backend!r} in needle_core.kernels names no op", hint=f"{backend}.matmul = ...")
        _compare("kernels", (set(kernels) - own) | (set(kernels) & promised), promised)
        self.kernels[backend] = kernels

    def declarations(self) -> Declarations:
        """What the active plugin says in `needle_conformance`. Raises PluginError for whatever fails there."""
        declared = self._ask("needle_conformance").declarations
        for group, cases in (("ops", set(declared.cases)), ("optimizers", set(declared.optimizers))):
            if foreign := sorted(cases - set(self.staged[group])):
                wrong = PluginError(f"a case is declared for {foreign[0]!r}, which is no {group[:-1]} of this plugin")
                raise self._refused("needle_conformance", wrong) from wrong
        return declared

    def probes(self) -> dict[str, Probe]:
        """What the active plugin offers in `needle_doctor`. Raises PluginError for whatever fails there."""
        return self._ask("needle_doctor").probes

    def _ask(self, hook: str) -> Registrar:
        """Call a hook for checkers; its failure is raised, and leaves the plugin as active as it was."""
        registrar = Registrar()
        try:
            with lock, isolated(self.plugin):
                self._call(hook, registrar)
        except KeyboardInterrupt:
            raise
        except BaseException as cause:
            raise self._refused(hook, cause) from cause
        return registrar

    def _refused(self, hook: str, cause: BaseException) -> PluginError:
        error = registry.Failure(self.plugin, hook, cause).error()
        command = "conform" if hook == "needle_conformance" else "doctor"
        error.hint = f"`NEEDLE_TRACEBACK=1 needle {command} {self.plugin.distribution}` shows where"
        return error

    def _call(self, hook: str, registrar: Registrar | None = None, **arguments: str) -> dict[str, Kernel]:
        self.phase = " for ".join([hook, *arguments.values()])
        registrar = registrar or self._registrar
        with registrar.during(hook) as kernels:
            junk = getattr(self._hooks, hook)(registrar=registrar, **arguments)
        if junk:
            raise PluginError(f"the hook returned {junk[0]!r}; hooks register and return nothing")
        return kernels


def _check_api(target: object, distribution: str) -> None:
    api = getattr(target, "needle_api", None)
    if type(api) is int and api != API:
        newer = distribution if api < API else "needle-core"
        raise PluginError(f"needle_api is {api}, and this needle-core speaks {API}", hint=f"pip install --upgrade {newer}")
    if type(api) is not int:
        raise PluginError(f"needle_api is {api!r}" if api is not None else "needle_api is missing", hint=f"needle_api = {API}")


def _checked_hooks(target: object) -> Any:
    """The hooks of `target`, as a pluggy relay; unknown ones, undecorated ones and wrong parameters are errors."""
    manager = PluginManager("needle")
    manager.add_hookspecs(hookspecs)
    manager.register(target)
    manager.check_pending()
    for name in dir(target):
        is_function = name.startswith("needle_") and inspect.isroutine(inspect.getattr_static(target, name, None))
        if is_function and manager.parse_hookimpl_opts(target, name) is None:
            raise PluginError(f"{name} is a function without @hookimpl", hint="the prefix needle_ is kept for hooks")
    for caller in manager.get_hookcallers(target) or []:
        for implementation in caller.get_hookimpls():
            expected = caller.spec.argnames if caller.spec else implementation.argnames
            if set(implementation.argnames) != set(expected) or implementation.kwargnames:
                written = ", ".join([*implementation.argnames, *(f"{name}=..." for name in implementation.kwargnames)])
                raise PluginError(
                    f"{caller.name}({written}) has the wrong parameters", hint=f"{caller.name}({', '.join(expected)})"
                )
    return manager.hook


def _compare(group: str, came: set[str], promised: set[str]) -> None:
    if missing := sorted(promised - came):
        raise PluginError(f"the entry points promise {group[:-1]} {missing[0]!r}, but it was not registered")
    if unexpected := sorted(came - promised):
        raise PluginError(
            f"{group[:-1]} {unexpected[0]!r} was registered, but no entry point promises it",
            hint=f'[project.entry-points."needle_core.{group}"] in its pyproject.toml lacks {unexpected[0]}',
        )
