"""What an optimizer is, and the installed ones by name: `ndl.optim.Adam`.

An optimizer is two functions, written in ops, about a single parameter: `init` makes its state, and `update` its next value and
state. Parameter groups, learning rates, saving and checking are the base class's.

    class Signum(Optimizer):
        def __init__(self, params, lr=1e-3, *, momentum=0.9):
            super().__init__(params, lr, momentum=momentum)

        def init(self, p, hyper):
            return {"m": ndl.zeros_like(p)}

        def update(self, p, g, state, hyper):
            m = hyper.momentum * state["m"] + (1 - hyper.momentum) * g
            return p - hyper.lr * ndl.sign(m), {"m": m}
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any, ClassVar, TypeAlias

from needle_core import tree
from needle_core.autograd import no_grad
from needle_core.clipping import clip_grad_norm, clip_grad_value
from needle_core.errors import ArgumentError, DeviceError, DtypeError, NeedleError, ShapeError, StateError
from needle_core.ops import add, astype
from needle_core.record import mode
from needle_core.schedules import Constant, CosineDecay, Schedule, StepDecay, Warmup, require_within
from needle_core.spec import DType, Spec, float32, float64
from needle_core.tensor import Number, Tensor

__all__ = [
    "Optimizer", "Group", "Hyper", "State", "Params", "require_within",
    "Schedule", "Constant", "StepDecay", "CosineDecay", "Warmup",
    "clip_grad_norm", "clip_grad_value",
]  # fmt: skip

Params: TypeAlias = Iterable[Tensor | Mapping[str, Any]]
Hyper: TypeAlias = SimpleNamespace
State: TypeAlias = dict[str, Tensor]


class Optimizer(ABC):
    """Moves parameters against their gradients, one `step()` at a time.

    `params` are leaf tensors that require gradients, on one device, or groups of them with hyperparameters of their own:
    `[{"params": model.head.parameters(), "lr": 0.1}, {"params": model.body.parameters()}]`. `lr` is a number or a schedule, and
    `hyper` the other hyperparameters, numbers that stay as they are. What changes from step to step, the learning rates, the
    number of steps taken and the states, are tensors whose `data` is assigned.

    Dtypes:   states and arithmetic in the parameter's dtype; float32 for float16 and bfloat16, which are rounded once a step
    Raises:   ArgumentError, DeviceError for parameters and hyperparameters that do not fit
    """

    is_pure: ClassVar[bool] = False
    """`update` and `prepare` read nothing but their operands and numbers that stay, and change nothing else than `hyper`.

    Then a backend may run whole eager steps as one program. To be said anew by a class that has an `update` of its own.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if {"update", "prepare"} & vars(cls).keys() and "is_pure" not in vars(cls):
            cls.is_pure = False

    def __init__(self, params: Params, lr: float | Schedule, **hyper: Number) -> None:
        try:
            members = _grouped(params, {"lr": lr, **hyper})
            device = members[0]["params"][0].device
            self._count = Tensor(0.0, dtype=float64, device=device)
            self._one = Tensor(1.0, dtype=float64, device=device)
            self.groups = [self._group(i, **group) for i, group in enumerate(members)]
            is_settled = self.is_pure and all(_is_settled(group.get("lr", lr)) for group in members)
            self._steps = _planned(self._step) if is_settled and device.backend.plans_eagerly else None
        except NeedleError as error:
            raise error.located(type(self).__name__, {}) from error.__cause__

    def _group(self, index: int, /, params: list[Tensor], lr: float | Schedule, **numbers: Number) -> Group:
        hyper = Hyper(**numbers)
        try:
            if not callable(lr):
                require_within("lr", lr, 0)
            self.check(hyper)
        except NeedleError as error:
            raise error.located(type(self).__name__, {"group": index}) from error.__cause__
        with no_grad():
            states = [
                {k: v.detach() for k, v in self.init(astype(p.detach(), dtype=_wide(p.dtype)), hyper).items()} for p in params
            ]
        return Group(params, states, numbers, lr, self._count)

    # -- what an author writes ------------------------------------------------------------------------------------------

    def check(self, hyper: Hyper) -> None:
        """Refuse hyperparameters that make no sense; `require_within` helps. Called for each group."""

    def init(self, p: Tensor, hyper: Hyper) -> State:
        """The state of the parameter `p` before the first step."""
        return {}

    def prepare(self, hyper: Hyper, step: Tensor) -> None:
        """Put into `hyper` what the parameters of a group share at a step, such as bias corrections.

        `step`, which counts from 1, and `hyper.lr` are 0-d float64; `update` gets all tensors of `hyper` in the dtype of `p`.
        """

    @abstractmethod
    def update(self, p: Tensor, g: Tensor, state: State, hyper: Hyper) -> tuple[Tensor, State]:
        """The value and the state of the parameter `p` after a step along its gradient `g`."""

    # -- what a user calls ----------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Update every parameter that has a gradient; others, and their states, stay as they are.

        All new values are computed before the first takes its place. The count of steps is the optimizer's own: it goes on for
        parameters that were left out.
        """
        if self._steps is None or mode.trace is not None:
            self._step()
        else:
            self._steps()

    def _step(self) -> None:
        recording, mode.grad = mode.grad, False
        half, mode.autocast = mode.autocast, None
        try:
            step = add.of_two(self._count, self._one)
            changes = [(self._count, step)]
            for group in self.groups:
                self._advance(group, step, changes)
            for old, new in changes:
                if new.spec is not old.spec:
                    details = {"old": old.spec, "new": new.spec}
                    raise _misfit(old.spec, new.spec)("update gives a value that is not like the old", details=details)
            trace = mode.trace
            if trace is None:
                buffers = [new.buffer for _, new in changes]  # as they are now: a new value may itself be an old one
                for (old, _), buffer in zip(changes, buffers):  # noqa: B905  # strict costs more than an assignment
                    old.buffer = buffer
            else:
                values = [trace.read(new) for _, new in changes]
                for (old, _), value in zip(changes, values, strict=True):
                    trace.assign(old, value)
        except Exception as error:
            self._sign(error)
            raise
        finally:
            mode.grad, mode.autocast = recording, half

    def _sign(self, error: Exception) -> None:
        """Say in an error whose step it ended."""
        from needle_core.plugins import registry

        name = type(self).__name__
        maker = registry.maker_of(type(self).__module__)
        text = f"no parameter was changed by this step of {name}"
        if maker is not None:
            text += f" of {maker}, which `needle conform {name}` checks"
        if not isinstance(error, NeedleError):
            error.add_note(text)
        elif error.place is None:  # found here, in what the user gave
            error.located(name, {})
        else:  # by an op in `update`
            error.details["optimizer"] = text

    def _advance(self, group: Group, step: Tensor, changes: list[tuple[Tensor, Tensor]]) -> None:
        """Add pairs of a tensor and what is to take its place, for the parameters of a group and their states."""
        hypers: dict[DType, Hyper] = {}
        traced = mode.trace is not None
        for p, state in zip(group.params, group.states):  # noqa: B905
            g = p._grad
            if g.__class__ is not Tensor or traced:
                g = p.grad
                if g is None:
                    continue
            if g.spec is not p.spec:
                kind = _misfit(p.spec, g.spec)
                raise kind("a gradient is not like its parameter", details={"parameter": p.spec, "gradient": g.spec})
            dtype = p.spec.dtype
            hyper = hypers.get(dtype) or hypers.setdefault(dtype, self._hyper(group, step, _wide(dtype)))
            if dtype.itemsize > 2:
                value, after = self.update(p, g, state, hyper)
            else:
                wide = _wide(dtype)
                value, after = self.update(astype(p, dtype=wide), astype(g, dtype=wide), state, hyper)
                value = astype(value, dtype=dtype)
            changes.append((p, value))
            if after is not state:
                if after.keys() != state.keys():
                    details = {"init": ", ".join(state) or "nothing", "update": ", ".join(after) or "nothing"}
                    raise StateError("update gives a state with other entries than init", details=details)
                changes += [(old, after[name]) for name, old in state.items()]

    def _hyper(self, group: Group, step: Tensor, dtype: DType) -> Hyper:
        """What `update` gets as `hyper` for parameters that are computed in `dtype`."""
        rate = group.rate()
        hyper = Hyper(lr=rate, **group.hyper)
        self.prepare(hyper, step)
        if dtype is not float64:
            for name, value in vars(hyper).items():
                if isinstance(value, Tensor):
                    setattr(hyper, name, group.rounded(value, dtype) if value is rate else astype(value, dtype=dtype))
        return hyper

    def reset_grad(self) -> None:
        """Forget the gradients of all parameters."""
        trace = mode.trace
        for group in self.groups:
            for p in group.params:
                if trace is None:
                    p._grad = None
                else:
                    trace.set_gradient(p, None)

    @property
    def lr(self) -> float:
        """The learning rate of the next step. Assigning sets that of all groups, which otherwise have each their own `lr`."""
        rates = [group.lr for group in self.groups]
        if len(set(rates)) > 1:
            rated = {f"groups[{i}].lr": rate for i, rate in enumerate(rates)}
            raise ArgumentError(f"{type(self).__name__}.lr: the groups have different learning rates", details=rated)
        return rates[0]

    @lr.setter
    def lr(self, value: float) -> None:
        for group in self.groups:
            group.lr = value

    def __repr__(self) -> str:
        lines = [f"  {i}: {group}" for i, group in enumerate(self.groups)]
        return "\n".join([f"{type(self).__name__}(", *lines, ")"])

    # -- saving ---------------------------------------------------------------------------------------------------------

    def _tree(self) -> dict[str, Any]:
        """Everything that decides how training goes on, as a tree of the optimizer's own tensors and of plain values."""
        return {
            "optimizer": type(self).__name__,
            "step": self._count,
            "groups": [group.settings() for group in self.groups],
            "parameters": [state for group in self.groups for state in group.states],
        }

    def state_dict(self) -> dict[str, Any]:
        """A tree of tensors, numbers and strings from which training goes on bitwise as if never stopped.

        Parameters are known by their place. A schedule is not part of it: it is code, and its place is the count of steps.
        """
        copy: dict[str, Any] = tree.map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, self._tree())
        return copy

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` of an optimizer of the same kind, parameters and hyperparameters gave.

        Raises: StateError, which lists all that does not fit, and nothing is loaded
        """
        loads: list[tuple[Tensor, Tensor]] = []
        problems = dict(_compare("", self._tree(), state, loads))
        if problems:
            raise StateError(f"{type(self).__name__}: the state does not fit, nothing was loaded", details=problems)
        for own, value in loads:
            own.data = value.to(self._count.device)


def _is_settled(lr: float | Schedule) -> bool:
    """Whether a learning rate is a number or a schedule of the core's, and not a function that may do anything."""
    if isinstance(lr, Warmup):
        return _is_settled(lr.schedule)
    return not callable(lr) or isinstance(lr, Constant | StepDecay | CosineDecay)


def _planned(step: Callable[[], None]) -> Callable[[], None]:
    from needle_core.graph.bodies import Planned

    return Planned(step)


class Group:
    """Parameters that share hyperparameters: `params`, their `states`, and `hyper`, the numbers that stay as they are."""

    __slots__ = ("_count", "_lr", "_rounded", "hyper", "params", "states")

    def __init__(
        self, params: list[Tensor], states: list[State], hyper: dict[str, Number], lr: float | Schedule, count: Tensor
    ) -> None:
        self.params, self.states, self.hyper, self._count = params, states, hyper, count
        self._lr: Tensor | Schedule = lr if callable(lr) else Tensor(lr, dtype=float64, device=count.device)
        self._rounded: tuple[Any, Tensor | None] = None, None

    def rate(self) -> Tensor:
        """The learning rate of the next step, 0-d float64."""
        if isinstance(self._lr, Tensor):
            return self._lr
        rate: object = self._lr(self._count)
        if not isinstance(rate, Tensor) or rate.spec is not self._count.spec:
            returned = rate.spec if isinstance(rate, Tensor) else repr(rate)
            details = {"schedule": self._lr, "step": self._count.spec, "returned": returned}
            raise ArgumentError("a schedule must return a tensor like the step", details=details)
        return rate

    def rounded(self, rate: Tensor, dtype: DType) -> Tensor:
        """The learning rate `rate` in another dtype, kept as long as it stays: a cast takes as long as a parameter's update."""
        if mode.trace is not None:
            return astype(rate, dtype=dtype)
        source, result = self._rounded
        if result is None or source is not rate.buffer or result.spec.dtype is not dtype:
            result = astype(rate, dtype=dtype)
            self._rounded = rate.buffer, result
        return result

    @property
    def lr(self) -> float:
        """The learning rate of the next step. Can be assigned, unless it follows a schedule."""
        return float(self.rate())

    @lr.setter
    def lr(self, value: float) -> None:
        if not isinstance(self._lr, Tensor):
            raise ArgumentError("lr: the learning rate follows a schedule", details={"schedule": self._lr})
        require_within("lr", value, 0)
        self._lr.data = value

    def settings(self) -> dict[str, Any]:
        """The learning rate, unless it follows a schedule, and the other hyperparameters."""
        return {**({"lr": self._lr} if isinstance(self._lr, Tensor) else {}), **self.hyper, "parameters": len(self.params)}

    def __repr__(self) -> str:
        lr = self.lr if isinstance(self._lr, Tensor) else self._lr
        numbers = ", ".join(f"{name}={value}" for name, value in self.hyper.items())
        return f"{len(self.params)} parameters, lr={lr}" + (f", {numbers}" if numbers else "")


# -- checks -----------------------------------------------------------------------------------------------------------------


def _wide(dtype: DType) -> DType:
    """The dtype in which a tensor of `dtype` is computed: half precision would lose the squares of small gradients."""
    return float32 if dtype.itemsize == 2 else dtype


def _misfit(old: Spec, new: Spec) -> type[NeedleError]:
    """The error for a spec that differs from what it should be."""
    return ShapeError if new.shape != old.shape else DtypeError if new.dtype is not old.dtype else DeviceError


def _tensors(params: Any) -> list[Tensor]:
    """The tensors that `params` gives."""
    if isinstance(params, Tensor) or not isinstance(params, Iterable):
        given = type(params).__name__
        raise ArgumentError(f"parameters come as an iterable of tensors, not as {given}", hint="[p], or model.parameters()")
    listed = list(params)
    if strange := [p for p in listed if not isinstance(p, Tensor)]:
        raise ArgumentError(f"a parameter is a tensor, not {type(strange[0]).__name__}")
    return listed


def _grouped(params: Any, defaults: dict[str, Any]) -> list[dict[str, Any]]:
    """For each group, its parameters as a list and all its hyperparameters."""
    listed = list(params) if isinstance(params, Iterable) and not isinstance(params, Tensor | Mapping) else params
    groups = listed if isinstance(listed, list) and listed and isinstance(listed[0], Mapping) else [{"params": listed}]
    seen: dict[int, str] = {}
    members = []
    for i, group in enumerate(groups):
        if not isinstance(group, Mapping) or "params" not in group:
            raise ArgumentError('a group is a dict with the entry "params"', details={f"group {i}": group})
        if unknown := [key for key in group if key not in defaults and key != "params"]:
            raise ArgumentError(f"no hyperparameter {unknown[0]!r}", details={"hyperparameters": ", ".join(defaults)})
        tensors = _tensors(group["params"])
        if not tensors:
            raise ArgumentError("there are no parameters" if len(groups) == 1 else f"group {i} has no parameters")
        for j, p in enumerate(tensors):
            place = f"parameter {j} of group {i}"
            if not (p.is_leaf and p.requires_grad):
                why = "requires no gradient" if p.is_leaf else "is the result of an op"
                hint = "[p for p in model.parameters() if p.requires_grad]" if p.is_leaf else None
                raise ArgumentError(f"{place} {why}, so it would never change", details={"tensor": p.spec}, hint=hint)
            if id(p) in seen:
                raise ArgumentError(f"{place} is {seen[id(p)]} too, and would move twice", details={"tensor": p.spec})
            seen[id(p)] = place
        members.append({**defaults, **group, "params": tensors})
    devices = sorted({p.device.name for group in members for p in group["params"]})
    if len(devices) > 1:
        raise DeviceError(f"the parameters are on several devices, {', '.join(devices)}", hint="one optimizer for each")
    return members


def _compare(path: str, own: Any, given: Any, loads: list[tuple[Tensor, Tensor]]) -> Iterator[tuple[str, str]]:
    """What keeps the tree `given` from being loaded into the tree `own`, as (place, problem); `loads` gets what fits."""
    if isinstance(own, dict | list):
        if not isinstance(given, type(own)):
            yield path, f"a {type(own).__name__} expected, a {type(given).__name__} found"
            return
        mine, theirs = (dict(enumerate(t)) if isinstance(t, list) else t for t in (own, given))
        for key in [*mine, *(k for k in theirs if k not in mine)]:
            place = f"{path}.{key}".lstrip(".")
            if key in mine and key in theirs:
                yield from _compare(place, mine[key], theirs[key], loads)
            else:
                yield place, "missing" if key in mine else "unexpected"
    elif isinstance(own, Tensor) and isinstance(given, Tensor) and (given.shape, given.dtype) == (own.shape, own.dtype):
        loads.append((own, given))
    elif isinstance(own, Tensor) or isinstance(given, Tensor) or own != given:
        expected, found = (t.spec if isinstance(t, Tensor) else repr(t) for t in (own, given))
        yield path, f"{expected} expected, {found} found"


# -- optimizers by name -----------------------------------------------------------------------------------------------------


def __getattr__(name: str) -> Any:
    """The class of an installed optimizer; its plugin is imported when first asked for."""
    from needle_core.plugins import registry

    if name.startswith("__"):  # asked by the import system, which must not read entry points
        raise AttributeError(name)
    found = None if name.startswith("_") else registry.find("optimizers", name)
    if found is None:
        installed = ", ".join(registry.names("optimizers")) or "none; `pip install needle-optimizers` brings the usual ones"
        raise AttributeError(f"no optimizer is called {name!r}\n  installed: {installed}", name=name)
    return found


def __dir__() -> list[str]:
    from needle_core.plugins import registry

    return sorted([*__all__, *registry.names("optimizers")])
