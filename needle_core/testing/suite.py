"""All checks of one plugin: which they are, on which devices, how many there must be, and which may fail.

    a backend        every op of the core, transfers, random bits, memory, modules and compilation, on its first device
    ops              every op of the plugin, on each device that can run it
    optimizers       every optimizer of the plugin, on the default device, and on the loopback device unless `quick`
    kernels          every op that the plugin has a kernel for, on the first device of that backend

That something is left out is a check as well, which fails: an op without a case, fewer checks than the declarations promise, a
pattern of expected failures that fits nothing.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial

from needle_core.backend import chosen_device, default_device, device as find_device, set_default_device
from needle_core.errors import ArgumentError, DeviceUnavailableError, PluginError
from needle_core.fallback import POLICIES
from needle_core.op import KERNELS, OPS, Op, find_op
from needle_core.plugins import registry
from needle_core.plugins.activation import Activation
from needle_core.plugins.declarations import Declarations, ExpectedFailure, Limit
from needle_core.plugins.environment import choice
from needle_core.plugins.manifest import GROUPS
from needle_core.spec import Device
from needle_core.tensor_op import TensorOp
from needle_core.testing import check, compilation, memory, modules, optimizers, promises, transfers
from needle_core.testing.samples import Case, Check, MismatchError


@dataclass(frozen=True)
class Planned:
    """A check on its device, where a numerical warning is an error.

    Called, it gives the reason of a failure that was expected, or None if all is well, or raises.
    """

    check: Check
    id: str
    device: str
    expectation: ExpectedFailure | None

    def __call__(self) -> str | None:
        known = self.expectation
        try:
            with on(self.device), strictly():
                self.check()
        except Exception as failure:
            if known is None:
                raise
            if date.today() > known.until:
                raise MismatchError(f"still fails after {known.until}, until when it may: {known.reason}") from failure
            return known.reason
        if known is not None:
            raise MismatchError(f"passes, and is expected to fail: {known.reason}")
        return None

    @property
    def subject(self) -> str:
        """The op, the optimizer, or what else is checked."""
        return self.id.split("/")[0]

    @property
    def kind(self) -> str:
        return self.id.split("/")[1]


@dataclass(frozen=True)
class Suite:
    """The checks of the plugin called `name`, in an order that does not change.

    `promised` says how many there must be of each kind. `limits` are what the plugin declares of its rounding; `absent` is
    what was not checked, with the reason: devices that could not be opened, ops that they cannot run, and the like.
    """

    name: str
    distribution: str
    version: str
    seed: int
    quick: bool
    checks: list[Planned] = field(default_factory=list)
    promised: Counter[str] = field(default_factory=Counter)
    limits: list[Limit] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    device: str | None = None
    """The only one, if it was asked for."""
    simulated: bool = False
    """Whether the device is one that the host simulates."""

    @property
    def devices(self) -> list[str]:
        return sorted({planned.device for planned in self.checks})

    @property
    def mode(self) -> str:
        return "quick" if self.quick else "full"


def checks(name: str, seed: int = 0, *, quick: bool = False) -> list[Check]:
    """The checks of the installed plugin called `name`, each to be called; expected failures pass.

    A name is that of an entry point, or of a distribution with or without "needle-". Raises ArgumentError if none is called
    so, PluginError if it is broken.
    """
    return [Check(p.id, partial(_run, p, name), p.check.size) for p in suite(name, seed, quick=quick).checks]


def _run(planned: Planned, name: str) -> None:
    registry.activated(name)  # tests may have made the registry forget it since the checks were made
    planned()


def suite(name: str, seed: int = 0, *, quick: bool = False, device: str | None = None) -> Suite:
    """The checks of the installed plugin called `name`; with `device`, only of what runs there, and there only."""
    policy = choice("NEEDLE_FALLBACK", POLICIES)
    if policy != "error":
        raise ArgumentError(f"NEEDLE_FALLBACK={policy} would let the host pass the checks", hint="`unset NEEDLE_FALLBACK`")
    activations = _activated(name)
    plugin = activations[0].plugin
    made = Suite(name, plugin.distribution, plugin.version, seed, quick, device=device)
    several = len({name for a in activations for name in (*a.staged["backends"], *_served(a))}) > 1
    for activation in activations:
        _Planner(made, activation, several).plan()
    if not made.checks:
        if device:
            raise ArgumentError(f"{name}: there is nothing to check on {device}", details=made.absent)
        raise PluginError(f"{name}: there is nothing to check", details=made.absent)
    if twice := [i for i, n in Counter(planned.id for planned in made.checks).items() if n > 1]:
        raise PluginError(f"{name}: {len(twice)} checks have the id of another", details={"the first": twice[0]})
    return made


def _activated(name: str) -> list[Activation]:
    """What is active of the one distribution that answers to `name`."""
    activations = registry.activated(name)
    if not activations:
        try:
            status = registry.why(name)[0]
        except PluginError as unknown:
            installed = ", ".join(status.distribution for status in registry.report()) or "none"
            raise ArgumentError(unknown.summary, details={"installed": installed}, hint=unknown.hint) from None
        raise PluginError(
            f"{status.distribution} {status.version}: {status.phase}: {status.reason}", hint=f"`{status.command}`"
        )
    if len(several := sorted({a.plugin.distribution for a in activations})) > 1:
        raise PluginError(f"{name!r} is a name of {' and of '.join(several)}", hint=f"`needle conform {several[0]}`")
    return activations


@contextmanager
def strictly() -> Iterator[None]:
    """Within it, a numerical warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield


@contextmanager
def on(device: str) -> Iterator[None]:
    """Within it, `device` is the default device."""
    before = chosen_device()
    set_default_device(device)
    try:
        yield
    finally:
        set_default_device(before)


def support(op: Op[..., object], device: Device) -> str:
    """How `device` runs an op: "native" by a kernel of its own, "composite" by the op's body, or not at all: "missing"."""
    if (op.name, device.backend.name) in KERNELS or (isinstance(op, TensorOp) and device.backend.host):
        return "native"
    return "missing" if op.is_primitive else "composite"


def core_ops() -> list[Op[..., object]]:
    """The ops of the core, by name."""
    return [op for name, op in sorted(OPS.items()) if op.__module__.startswith("needle_core.ops.")]


class _Planner:
    """Adds the checks of one activated plugin to a suite; ids end in the device if a distribution serves `several` backends."""

    def __init__(self, made: Suite, activation: Activation, several: bool) -> None:
        self.made, self.activation, self.several = made, activation, several
        self.declared: Declarations = activation.declarations()
        made.limits.extend(self.declared.limits)

    def plan(self) -> None:
        staged, first = self.activation.staged, len(self.made.checks)
        for group in GROUPS:
            for name in staged.get(group, ()):
                registry.find(group, name)  # raises if another plugin claims it too
        for name in sorted(staged["backends"]):
            if self._wanted(name):
                self._backend(find_device(self.made.device or name))
        for backend in _served(self.activation):
            if self._wanted(backend):
                self._kernels(find_device(self.made.device or backend))
        if staged["ops"]:
            self._ops(self._opened(registry.names("backends")))
        if staged["optimizers"]:
            self._optimizers(self._opened([default_device().name, *([] if self.made.quick else ["loopback"])]))
        if self.made.device is None:
            self._patterns(self.made.checks[first:])

    def _wanted(self, backend: str) -> bool:
        return self.made.device is None or self.made.device.partition(":")[0] == backend

    def _opened(self, names: Iterable[str]) -> list[Device]:
        """The device asked for, or those of these `names` that can be opened."""
        if self.made.device:
            return [find_device(self.made.device)]
        found: dict[str, Device] = {}
        for name in names:
            try:
                device = find_device(name)
                found[device.name] = device
            except (DeviceUnavailableError, PluginError) as reason:
                self.made.absent[name] = reason.summary
        return list(found.values())

    # -- what is checked --------------------------------------------------------------------------------------------------

    def _backend(self, device: Device) -> None:
        seed, quick, place = self.made.seed, self.made.quick, self._place(device)
        alone = self._is_alone(device)
        for op in core_ops():
            self._op(op, _core_case(op.name), device, place)
        with on(device.name):
            counts_memory = transfers.counts_memory()
        if not counts_memory:
            self.made.absent[f"leaks of {device}"] = "its memory_stats does not tell the bytes in use"
        promised = partial(promises.promised_by_backend, quick=quick, alone=alone, counts_memory=counts_memory)
        self._add("backend", device, partial(transfers.checks_of_backend, seed, quick=quick), promised, place)
        promised = partial(modules.promised_by_modules, quick=quick)
        self._add("modules", device, partial(modules.checks_of_modules, seed, quick=quick), promised, place)
        promised = partial(compilation.promised_by_compilation, quick=quick)
        self._add("compile", device, partial(compilation.checks_of_compilation, seed, quick=quick), promised, place)

    def _kernels(self, device: Device) -> None:
        for name in sorted(self.activation.plugin.kernels_for(device.backend.name)):
            case = _core_case(name)
            if case is not None and device.backend.name in self.activation.staged["backends"]:
                continue  # checked with the backend
            if case is None:
                owners = (owner.declarations().cases.get(name) for owner in registry.activated(name))
                case = next((c for c in owners if c is not None), None)
            self._op(find_op(name), case, device, self._place(device))

    def _place(self, device: Device) -> str:
        return f" on {device}" if self.several else ""

    def _is_alone(self, device: Device) -> bool:
        """Whether there is no second device; what cannot be checked on this one is noted."""
        with on(device.name):
            alone, guarded = transfers.other_device() is None, memory.has_guards()
        if alone:
            self.made.absent[f"{device} beside another device"] = "no other device can be opened"
        if not guarded:
            self.made.absent[f"guards around operands on {device}"] = "its memory is not the host's, or from_numpy copies"
        return alone

    def _ops(self, devices: Iterable[Device]) -> None:
        homeless = set(self.activation.staged["ops"])
        for device in devices:
            for name, op in sorted(self.activation.staged["ops"].items()):
                if support(op, device) == "missing":
                    self.made.absent[f"{name} on {device}"] = "the backend has no kernel for this primitive"
                else:
                    homeless.discard(name)
                    self._op(op, self.declared.cases.get(name), device, f" on {device}")
        for name in sorted(homeless):
            self._missing(name, default_device(), "", "no installed backend has a kernel for this primitive")

    def _op(self, op: Op[..., object], case: Case | None, device: Device, place: str = "") -> None:
        if case is None:
            self._missing(op.name, device, place, "there is no case: registrar.case in needle_conformance declares one")
            return
        rounding = {limit.dtype: limit.u for limit in self.declared.limits if limit.op == op.name}
        case = replace(case, roundoff={**case.roundoff, **rounding})
        if case.undifferentiated:
            self.made.absent[f"gradients of {op.name}"] = case.undifferentiated
        seed, quick = self.made.seed, self.made.quick
        promised = partial(promises.promised_by_op, case, quick=quick, alone=self._is_alone(device))
        self._add(op.name, device, partial(check.checks_of_op, case, seed, quick=quick), promised, place)

    def _optimizers(self, devices: Iterable[Device]) -> None:
        seed, quick = self.made.seed, self.made.quick
        for device in devices:
            for name in sorted(self.activation.staged["optimizers"]):
                case, place = self.declared.optimizers.get(name), f" on {device}"
                if case is None:
                    reason = "there is no case: registrar.optimizer_case in needle_conformance declares one"
                    self._missing(name, device, place, reason)
                else:
                    promised = partial(optimizers.promised_by_optimizer, case, quick=quick)
                    self._add(name, device, partial(optimizers.checks_of_optimizer, case, seed, quick=quick), promised, place)

    # -- how it is counted ------------------------------------------------------------------------------------------------

    def _add(
        self,
        subject: str,
        device: Device,
        make: Callable[[], Iterable[Check]],
        promise: Callable[[], Counter[str]],
        place: str = "",
    ) -> None:
        """Plan what `make` gives on `device`, and one more check: that it is what the declaration promises."""
        found: list[Check] = []
        promised: Counter[str] = Counter()
        trouble: Exception | None = None
        try:
            with on(device.name):
                promised = promise()
                found.extend(make())
        except Exception as cause:
            trouble = cause
        came = Counter(c.id.split("/")[1] for c in found)
        found.append(Check(f"{subject}/count/checks", partial(_check_count, came, promised, trouble)))
        for c in found:
            self._plan(c, device, place)
        self.made.promised.update(promised + Counter(count=1))

    def _missing(self, name: str, device: Device, place: str, reason: str) -> None:
        """Plan a check that fails for `reason`, in place of those that cannot be made."""
        self._plan(Check(f"{name}/count/none", partial(_fail, reason)), device, place)
        self.made.promised["count"] += 1

    def _patterns(self, planned: list[Planned]) -> None:
        """Plan a check for each pattern of expected failures: that there is something it fits in a full run."""
        expectations = [p.expectation for p in planned]
        if self.made.quick and self.declared.expected:
            full = replace(self.made, quick=False, checks=[], promised=Counter(), limits=[], absent={})
            _Planner(full, self.activation, self.several).plan()
            expectations = [p.expectation for p in full.checks]
        for expected in self.declared.expected:
            if planned and not any(f" on {device}" in expected.pattern for device in self.made.absent):
                c = Check(
                    f"expectations/pattern/{expected.pattern}", partial(_check_pattern, expected, expectations.count(expected))
                )
                self.made.checks.append(Planned(c, c.id, planned[0].device, None))
                self.made.promised["pattern"] += 1

    def _plan(self, c: Check, device: Device, place: str) -> None:
        known = next((e for e in self.declared.expected if e.covers(c.id) or e.covers(c.id + place)), None)
        self.made.checks.append(Planned(c, c.id + place, device.name, known))


def _served(activation: Activation) -> list[str]:
    """The backends for which a plugin has kernels of other people's ops, or of its own."""
    return sorted({entry.partition(".")[0] for entry in activation.plugin.offers.get("kernels", ())})


def _core_case(name: str) -> Case | None:
    from needle_core.testing import CASES

    return CASES.get(name)


def _fail(reason: str) -> None:
    raise MismatchError(reason)


def _check_count(came: Counter[str], promised: Counter[str], trouble: Exception | None) -> None:
    if trouble is not None:
        raise MismatchError(f"the checks cannot be made: {type(trouble).__name__}: {trouble}") from trouble
    differences = [f"{came[kind]} of {n} {kind}" for kind, n in (came | promised).items() if came[kind] != promised[kind]]
    if differences or not came:
        raise MismatchError(f"the checks are not those that the declaration promises: {', '.join(differences) or 'none'}")


def _check_pattern(expected: ExpectedFailure, hits: int) -> None:
    if not hits:
        raise MismatchError(f"no check has an id like that; its failure was expected because {expected.reason}")
