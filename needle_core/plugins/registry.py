"""Where backends, ops and optimizers of plugins are found by name; the only place that remembers plugins.

Nothing happens at import. The first question reads the entry points; the first question for a name activates the one plugin
that claims it. What failed is remembered, so that asking again raises the same error without trying again.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from needle_core.errors import DeviceUnavailableError, NeedleError, PluginError, warn
from needle_core.op import OPS, lock, register_kernels, register_op
from needle_core.plugins.environment import flag

if TYPE_CHECKING:
    from needle_core.op import Op
    from needle_core.plugins.activation import Activation
    from needle_core.plugins.manifest import Group, Manifest, Plugin

State: TypeAlias = Literal["active", "unavailable", "not loaded yet", "broken", "stale", "conflict", "blocked"]


@dataclass(frozen=True)
class Failure:
    """Why `plugin` could not be activated: the `phase` that it reached, and the `cause` that it raised there."""

    plugin: Plugin
    phase: str
    cause: BaseException

    @property
    def reason(self) -> str:
        return _reason(self.cause)

    @property
    def state(self) -> State:
        return "stale" if self.plugin.is_named_by(self.cause) else "broken"

    @property
    def command(self) -> str:
        if self.state == "stale":
            return _removal(self.plugin)
        if isinstance(self.cause, NeedleError) and (self.cause.hint or "").startswith("pip "):
            return str(self.cause.hint)
        return f"needle plugins why {self.plugin.distribution}"

    def error(self) -> PluginError:
        details = {"plugin": self.plugin.place}
        if isinstance(self.cause, NeedleError) and self.cause.hint and self.cause.hint != self.command:
            details["for its author"] = self.cause.hint
        return PluginError(f"{self.plugin}: {self.phase}: {self.reason}", details=details, hint=f"`{self.command}`")


@dataclass(frozen=True)
class Status:
    """What is known of one installed plugin; `phase`, `reason`, `command` (the next to type) and `cause` say what is wrong."""

    distribution: str
    version: str
    module: str
    offers: dict[str, list[str]]
    state: State
    phase: str | None = None
    reason: str | None = None
    command: str | None = None
    cause: BaseException | None = None


@dataclass
class _Memory:
    """Everything that is remembered."""

    manifest: Manifest | None = None
    active: dict[Plugin, Activation] = field(default_factory=dict)
    failures: dict[Plugin, Failure] = field(default_factory=dict)
    activating: list[Plugin] = field(default_factory=list)


_memory = _Memory()


def find(group: Group, name: str) -> Any:
    """The backend, op or optimizer that an installed plugin offers as `name`, or None if none claims the name.

    Raises PluginError if the plugin that claims it is broken, in conflict with another, stale, or blocked by NEEDLE_PLUGINS.
    """
    with lock:
        plugin = provider(group, name)
        return None if plugin is None else _memory.active[plugin].staged[group][name]


def provider(group: Group, name: str) -> Plugin | None:
    """The plugin that offers `name`, activated, or None if none claims the name. Raises PluginError as `find` does."""
    with lock:
        manifest = _ready()
        claimants = manifest.claimants(group, name)
        if not claimants:
            blocked = [p for p in manifest.plugins if name in p.offers.get(group, ())]
            if blocked:
                raise _blocked(blocked[0], f"{group[:-1]} {name!r}", manifest)
            return None
        if len(claimants) > 1:
            raise _conflict(group, name, claimants)
        _activate(claimants[0])
        return claimants[0]


def names(group: Group) -> list[str]:
    """The names that selected plugins promise in `group`, sorted; no plugin is imported."""
    with lock:
        return _ready().names(group)


def activated(name: str) -> list[Activation]:
    """The selected plugins that answer to `name`, activated; none if no plugin does. Raises PluginError if one is broken."""
    with lock:
        return [_activate(plugin) for plugin in _ready().selected if plugin.answers_to(name)]


def activate_home(op: Op[..., Any]) -> None:
    """Activate the plugin that offers `op`, if it is the one that `op` was imported from."""
    with lock:
        for plugin in _ready().claimants("ops", op.name):
            if op.__module__.partition(".")[0] == plugin.package and plugin not in _memory.activating:
                _activate(plugin)
                if op.is_primitive:
                    find("ops", op.name)  # in a conflict its kernels are not taken, and this says so


def maker_of(module: str) -> Plugin | None:
    """The active plugin that `module` belongs to."""
    with lock:
        return next((plugin for plugin in _memory.active if plugin.package == module.partition(".")[0]), None)


def maker_of_kernel(op: str, backend: str) -> Plugin | None:
    """The active plugin that brought a kernel for `op` to `backend`, if it is not the backend's own."""
    with lock:
        return next((p for p, activation in _memory.active.items() if op in activation.kernels.get(backend, ())), None)


def kernels(backend: str) -> dict[str, Callable[..., Any]]:
    """The kernels of plugins for `backend`, which is being opened; a plugin that fails is warned of, and the backend opens."""
    with lock:
        manifest = _ready()
        found: dict[str, Callable[..., Any]] = {}
        for group, name in manifest.conflicts():
            if group == "kernels" and name.partition(".")[0] == backend:
                warn(str(_conflict(group, name, manifest.claimants(group, name))))
        asked: set[Plugin] = set()
        while waiting := [p for p in _concerned(backend) if p not in asked]:  # anew, for one plugin may activate another
            asked.add(waiting[0])
            try:
                found |= _kernels_of(waiting[0], backend)
            except PluginError as error:
                if flag("NEEDLE_STRICT"):
                    raise
                warn(str(error))
        return found


def report(*, load: bool = False) -> list[Status]:
    """The status of every installed plugin; without `load`, none is imported for it."""
    with lock:
        plugins = _read().plugins
        return [_status(plugin) for plugin in (_tried(plugins) if load else plugins)]


def why(name: str) -> list[Status]:
    """The status of the plugins that answer to `name`, after loading them, opening their backends, and asking for kernels."""
    with lock:
        asked = [p for p in _read().plugins if p.answers_to(name)]
        if not asked:
            raise unknown(name)
        return [_opened(plugin) for plugin in _tried(asked)]


def unknown(name: str) -> PluginError:
    """The error for a `name` that no installed plugin answers to; it tells of a distribution that meant to."""
    from difflib import get_close_matches

    from needle_core.plugins.manifest import GROUPS
    from needle_core.plugins.metadata import groups_of

    known = [f"needle_core.{group}" for group in GROUPS]
    for distribution, groups in groups_of(name).items():
        if not set(known).isdisjoint(groups):
            continue  # a plugin, which is called otherwise
        near = [close for group in groups for close in get_close_matches(group, known, n=1, cutoff=0.8)]
        return PluginError(
            f"{distribution} is installed, but is no plugin: it has entry points in {', '.join(groups) or 'no group'}",
            details={"groups of Needle": ", ".join(known)},
            hint=f'did you mean [project.entry-points."{near[0]}"]? Install it again after the change' if near else None,
        )
    return PluginError(f"no installed plugin is called {name!r}", hint="`needle plugins` lists what is installed")


def check_kernels(distribution: str) -> None:
    """Raise the PluginError of a plugin of `distribution` that is active, and whose kernels for a backend failed."""
    with lock:
        for plugin in _memory.active:
            if plugin.distribution == distribution and plugin in _memory.failures:
                raise _memory.failures[plugin].error() from _memory.failures[plugin].cause


def forget() -> None:
    """Forget all plugins, for tests; ops are withdrawn, opened backends and kernels in their table stay."""
    global _memory
    with lock:
        for activation in _memory.active.values():
            for name, op in activation.staged["ops"].items():
                if OPS.get(name) is op:
                    del OPS[name]
        _memory = _Memory()


# -- reading and activating ---------------------------------------------------------------------------------------------


def _read() -> Manifest:
    """The manifest, read when first needed."""
    if _memory.manifest is None:
        from needle_core.plugins.manifest import Manifest

        _memory.manifest = Manifest()
        unreadable = [(p, p.unreadable) for p in _memory.manifest.plugins if p.unreadable]
        _memory.failures = {p: Failure(p, "manifest", cause) for p, cause in unreadable}
    return _memory.manifest


def _ready() -> Manifest:
    """The manifest; in strict mode, all plugins are activated by then and nothing is wrong with any."""
    manifest = _read()
    if flag("NEEDLE_STRICT") and not _memory.activating:
        for group, name in manifest.conflicts():
            raise _conflict(group, name, manifest.claimants(group, name))
        for plugin in manifest.selected:
            _activate(plugin)
    return manifest


def _activate(plugin: Plugin) -> Activation:
    """Activate `plugin` unless it is active; what it registers takes effect at once, or not at all."""
    if plugin in _memory.active:
        return _memory.active[plugin]
    if plugin in _memory.failures:
        raise _memory.failures[plugin].error() from _memory.failures[plugin].cause
    if plugin in _memory.activating:
        raise PluginError(f"{plugin} needs itself while it is being activated", details={"plugin": plugin.value})
    from needle_core.backend import opened_backends
    from needle_core.plugins.activation import Activation

    activation = Activation(plugin)
    _memory.activating.append(plugin)
    try:
        _attempt(activation, lambda: activation.run(opened_backends()))
    finally:
        _memory.activating.remove(plugin)
    for name, op in activation.staged["ops"].items():
        if _is_sole("ops", name):
            register_op(op)
    for backend in activation.kernels:
        register_kernels(backend, _sole_kernels(activation, backend))
    _memory.active[plugin] = activation
    return activation


def _tried(plugins: list[Plugin]) -> list[Plugin]:
    """The `plugins`, after an attempt to activate those that are selected."""
    for plugin in plugins:
        if plugin in _read().selected:
            with suppress(PluginError):  # it is remembered, and part of the status
                _activate(plugin)
    return plugins


def _concerned(backend: str) -> list[Plugin]:
    """The plugins whose hook for kernels is to be called when `backend` opens."""
    return [p for p in _read().selected if p in _memory.active or p.kernels_for(backend)]


def _kernels_of(plugin: Plugin, backend: str) -> dict[str, Callable[..., Any]]:
    """The kernels of `plugin`, activated if need be, for `backend`."""
    activation = _activate(plugin)
    if plugin in _memory.failures:  # active, but its kernels for another backend failed
        raise _memory.failures[plugin].error() from _memory.failures[plugin].cause
    _attempt(activation, lambda: activation.call_kernels(backend))
    return _sole_kernels(activation, backend)


def _attempt(activation: Activation, step: Callable[[], None]) -> None:
    """Do `step`; what it raises, even SystemExit, is remembered as the plugin's failure and raised as PluginError."""
    from needle_core.plugins.isolation import isolated

    try:
        with isolated(activation.plugin):
            step()
    except KeyboardInterrupt:
        raise
    except BaseException as cause:
        failure = Failure(activation.plugin, activation.phase, cause)
        _memory.failures[activation.plugin] = failure
        raise failure.error() from cause


def _is_sole(group: Group, name: str) -> bool:
    return len(_read().claimants(group, name)) <= 1


def _sole_kernels(activation: Activation, backend: str) -> dict[str, Callable[..., Any]]:
    """The kernels that no other plugin claims as well."""
    found = activation.kernels[backend].items()
    return {op: kernel for op, kernel in found if _is_sole("kernels", f"{backend}.{op}") and _is_sole("ops", op)}


# -- what is wrong --------------------------------------------------------------------------------------------------------


def _status(plugin: Plugin) -> Status:
    manifest = _read()
    known = (plugin.distribution, plugin.version, plugin.value, plugin.offers)
    if failure := _memory.failures.get(plugin):
        return Status(*known, failure.state, failure.phase, failure.reason, failure.command, failure.cause)
    if plugin not in manifest.selected:
        return Status(*known, "blocked", "selection", f"NEEDLE_PLUGINS={manifest.selection.setting}", "unset NEEDLE_PLUGINS")
    for group, name in manifest.conflicts():
        others = [p for p in manifest.claimants(group, name) if p is not plugin]
        if name in plugin.offers.get(group, ()):
            reason = f"{group[:-1]} {name!r} is claimed by {' and '.join(map(str, others))} too"
            return Status(*known, "conflict", "manifest", reason, f"pip uninstall {plugin.distribution}")
    if plugin in _memory.active:
        return Status(*known, "active")
    if plugin.is_left_over:
        return Status(*known, "stale", "import", f"there is no module {plugin.package!r}", _removal(plugin))
    return Status(*known, "not loaded yet")


def _opened(plugin: Plugin) -> Status:
    """The status of `plugin` after opening its backends, and those that it may have kernels for, if it is active."""
    status = _status(plugin)
    if status.state != "active":
        return status
    from needle_core.backend import open_backend

    own = plugin.offers.get("backends", [])
    others = [name for name in names("backends") if name not in own] if plugin.may_have_kernels else []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of kernels that fail: those of this plugin are part of its status
        for name in own:
            try:
                open_backend(name)
            except DeviceUnavailableError as error:
                wrong = error.__cause__
                reason = _reason(wrong) if wrong is not None else error.summary
                return replace(
                    status, state="unavailable", phase=f"open {name}", reason=reason, command="needle doctor", cause=wrong
                )
        for name in others:
            with suppress(NeedleError):  # what is wrong with the backends of others is told of them
                open_backend(name)
    return _status(plugin)


def _conflict(group: Group, name: str, claimants: list[Plugin]) -> PluginError:
    first, *others = claimants
    return PluginError(
        f"{' and '.join(map(str, claimants))}: manifest: each claims the {group[:-1]} {name!r}, so it is taken from neither",
        details={str(plugin): plugin.place for plugin in claimants},
        hint=f"`pip uninstall {first.distribution}`, or NEEDLE_PLUGINS=-{first.distribution} keeps {others[0].distribution}",
    )


def _blocked(plugin: Plugin, thing: str, manifest: Manifest) -> PluginError:
    setting = manifest.selection.setting
    return PluginError(f"{plugin}: selection: {thing} is blocked by NEEDLE_PLUGINS={setting}", hint="`unset NEEDLE_PLUGINS`")


def _reason(cause: BaseException) -> str:
    """What went wrong, in one line."""
    if isinstance(cause, NeedleError):
        return cause.summary
    return " ".join(f"{type(cause).__name__}: {cause}".split()).removesuffix(":")


def _removal(plugin: Plugin) -> str:
    return f"pip uninstall {plugin.distribution}"
