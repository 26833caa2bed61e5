"""Module: parameters, state and other modules, composed by plain attributes.

A Module is an ordinary object. Nothing is registered: what its attributes hold, also in nested lists, tuples and dicts, is
searched when it is asked for, each object once however often it is shared. Names are dotted paths, as in `body.0.weight`.
"""

from __future__ import annotations

import copy
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Self

from needle_core.backend import DeviceLike, device as find_device
from needle_core.errors import ArgumentError, StateError
from needle_core.spec import Device, DTypeLike
from needle_core.tensor import Tensor


class Parameter(Tensor):
    """A tensor to be trained. Made of a Tensor, it shares its buffer."""

    __slots__ = ()

    def __init__(
        self, data: Any, *, dtype: DTypeLike | None = None, device: DeviceLike | None = None, requires_grad: bool = True
    ) -> None:
        super().__init__(data, dtype=dtype, device=device, requires_grad=requires_grad)


class Buffer(Tensor):
    """A tensor that is saved, loaded and moved with its Module but not trained, such as a running mean.

    It changes by assigning its `data`. Made of a Tensor, it shares its buffer.
    """

    __slots__ = ()


_STATE = (Parameter, Buffer)


class Place(NamedTuple):
    """Where a Module keeps a tensor. `key` is the same for all places of one tensor."""

    module: str  # the name of the module that holds it, from the root
    local: str  # its name there
    key: int
    value: Any

    @property
    def name(self) -> str:
        return _join(self.module, self.local)


class Module:
    """Base of all layers and models: `forward` says what it computes, its attributes what it consists of.

        class ScaleAdd(nn.Module):
            def __init__(self):
                self.s = nn.Parameter([1.0])
                self.b = nn.Parameter([0.0])
            def forward(self, x):
                return x * self.s + self.b

    A Module is a tree whose leaves are its parameters (see `needle_core.tree`): `ndl.grad` of a function of a model returns a
    Module of gradients, and under `ndl.no_grad()`, `tree.map(lambda p, g: p - lr * g, model, gradients)` the model one step on.
    Such Modules hold plain tensors where the parameters were, and share buffers and all else with the original.
    """

    training: bool = True
    """Whether layers that distinguish (Dropout, BatchNorm1d) behave as in training. `train` and `eval` set it."""

    _inlined: ClassVar[str | None] = None  # the attribute that names leave out: `0.weight`, not `layers.0.weight`
    _leaves: Mapping[str, int] = {}  # what stands for parameters here: local name -> key, below zero, where no id is

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes; called by calling the module."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(self, ...)")

    def __setattr__(self, name: str, value: Any) -> None:
        held = self.__dict__.get(name)
        if isinstance(held, _STATE) and isinstance(value, Tensor) and not isinstance(value, _STATE):
            kind = type(held).__name__
            raise ArgumentError(
                f"{type(self).__name__}.{name} is a {kind}; a plain tensor in its place would neither be trained nor saved",
                details={"old": held.spec, "new": value.spec},
                hint=f"self.{name}.data = ... gives it a new value",
            )
        object.__setattr__(self, name, value)

    # -- what it consists of --------------------------------------------------------------------------------------------

    def parameters(self) -> list[Tensor]:
        """All parameters."""
        return [p for _, p in self.named_parameters()]

    def named_parameters(self) -> list[tuple[str, Tensor]]:
        """All parameters under the first of their names, a module's own before those of the modules in it."""
        return [(place.name, place.value) for place in self._each() if not isinstance(place.value, Buffer)]

    def buffers(self) -> list[Tensor]:
        """All buffers."""
        return [b for _, b in self.named_buffers()]

    def named_buffers(self) -> list[tuple[str, Tensor]]:
        """All buffers under the first of their names."""
        return [(place.name, place.value) for place in self._each() if isinstance(place.value, Buffer)]

    def modules(self) -> list[Module]:
        """This module and all in it, from the outside to the inside."""
        return [m for _, m in self.named_modules()]

    def named_modules(self) -> list[tuple[str, Module]]:
        """This module, under the name "", and all in it under the first of their names."""
        return list(self._walk("", set()))

    def children(self) -> list[Module]:
        """The modules directly in this one."""
        return [m for _, m in self.named_children()]

    def named_children(self) -> list[tuple[str, Module]]:
        """The modules directly in this one, in attributes or in lists, tuples and dicts there, under all of their names."""
        return [(name, m) for name, m in self._inside() if isinstance(m, Module)]

    def _inside(self) -> Iterator[tuple[str, Any]]:
        """What stands in the attributes, and in lists, tuples and dicts there, under local names."""
        for attribute, value in vars(self).items():
            yield from _spread("" if attribute == self._inlined else attribute, value)

    def _walk(self, name: str, seen: set[int]) -> Iterator[tuple[str, Module]]:
        seen.add(id(self))
        yield name, self
        for local, child in self.named_children():
            if id(child) not in seen:
                yield from child._walk(_join(name, local), seen)

    def _places(self) -> list[Place]:
        """Every place of every parameter and buffer."""
        places = []
        for name, module in self.named_modules():
            for local, value in module._inside():
                if local in module._leaves:
                    places.append(Place(name, local, module._leaves[local], value))
                elif isinstance(value, _STATE):
                    places.append(Place(name, local, id(value), value))
        names = [place.name for place in places]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ArgumentError(f"two tensors of {type(self).__name__} are called {twice!r}", hint="rename a key of a dict")
        return places

    def _each(self) -> list[Place]:
        """The first place of every parameter and buffer."""
        first: dict[int, Place] = {}
        for place in self._places():
            first.setdefault(place.key, place)
        return list(first.values())

    # -- modes, devices -------------------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> Self:
        """Put this module and all in it into training mode; returns the module."""
        for module in self.modules():
            if mode is type(module).training:
                vars(module).pop("training", None)  # as when it was made, so that a compiled step is as it was
            else:
                module.training = mode
        return self

    def eval(self) -> Self:
        """Put this module and all in it into evaluation mode; returns the module."""
        return self.train(False)

    def apply(self, f: Callable[[Module], object]) -> Self:
        """Call `f` on every module, the inner ones first; returns the module."""
        for module in reversed(self.modules()):
            f(module)
        return self

    def to(self, device: DeviceLike) -> Self:
        """Move parameters, with their gradients, and buffers to `device`; they stay the same objects. Returns the module."""
        where = find_device(device)
        for place in self._each():
            _move(place.value, where)
        return self

    # -- state ----------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """The values of parameters and buffers, by name. They stay as they are when the module is trained on."""
        return {place.name: place.value.detach() for place in self._each()}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> tuple[list[str], list[str]]:
        """Take the values of parameters and buffers from `state`, tensors or arrays by name.

        Returns the names that are missing in `state` and those that are unexpected there: none, if `strict`.

        Raises:   StateError that lists all that is missing, unexpected, or of another shape or dtype; nothing is loaded then
        """
        own = {place.name: place.value for place in self._each()}
        given = {name: Tensor(v, device=own[name].device) for name, v in state.items() if name in own}
        missing = [name for name in own if name not in given]
        unexpected = [str(name) for name in state if name not in own]
        wrong = [f"{name} is {_form(v)}, not {_form(own[name])}" for name, v in given.items() if v.spec is not own[name].spec]
        if wrong or (strict and (missing or unexpected)):
            faults = {"missing": ", ".join(missing), "unexpected": ", ".join(unexpected), "misshapen": "; ".join(wrong)}
            raise StateError(
                f"the state does not fit {type(self).__name__}; nothing was loaded",
                details={fault: names for fault, names in faults.items() if names},
            )
        for name, value in given.items():
            own[name].data = value
        return missing, unexpected

    # -- as text --------------------------------------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """The layer's configuration, as it stands in its repr between the parentheses."""
        return ""

    @reprlib.recursive_repr("...")
    def __repr__(self) -> str:
        inner = [f"({name}): {child!r}" for name, child in self.named_children()]
        if not inner:
            return f"{type(self).__name__}({self.extra_repr()})"
        lines = "\n".join([self.extra_repr(), *inner]).replace("\n", "\n  ")
        return f"{type(self).__name__}({lines}\n)"

    def summary(self, *inputs: Any) -> str:
        """A table of the modules in this one: name, layer, parameters and their number.

        For `inputs` it also shows what shapes each module returns, found by calling this one on them in evaluation mode.
        """
        from needle_core.nn.summary import summarize

        return summarize(self, inputs)

    # -- as a tree ------------------------------------------------------------------------------------------------------

    def __tree_flatten__(self) -> tuple[list[Any], _Architecture]:
        places = [place for place in self._places() if not isinstance(place.value, Buffer)]
        leaves = {place.key: place.value for place in places}
        numbers = {key: i for i, key in enumerate(leaves)}
        kinds = tuple((name, type(m)) for name, m in self.named_modules())
        return list(leaves.values()), _Architecture(kinds, tuple((p.name, numbers[p.key]) for p in places), self)

    @classmethod
    def __tree_unflatten__(cls, static: _Architecture, children: Sequence[Any]) -> Module:
        return static.filled(children)


@dataclass(frozen=True)
class _Architecture:
    """A Module without its parameters. Equal: the same classes under the same names, parameters and their sharing included."""

    modules: tuple[tuple[str, type], ...]
    places: tuple[tuple[str, int], ...]  # name -> number of the leaf
    template: Module = field(compare=False, repr=False)

    def filled(self, leaves: Sequence[Any]) -> Module:
        """A copy of the template's modules with `leaves` in the places of the parameters."""
        numbers = dict(self.places)
        originals = self.template.named_modules()
        copies: dict[int, Module] = {id(m): object.__new__(type(m)) for _, m in originals}

        def fill(name: str, value: Any) -> Any:
            if name in numbers:
                return leaves[numbers[name]]
            return copies.get(id(value), value) if isinstance(value, Module) else value

        for name, module in originals:
            attributes = vars(copies[id(module)])
            for attribute, value in vars(module).items():
                attributes[attribute] = _mapped(fill, _join(name, "" if attribute == module._inlined else attribute), value)
            attributes["_leaves"] = {
                local: ~numbers[full] for local, _ in module._inside() if (full := _join(name, local)) in numbers
            }
        return copies[id(self.template)]


def _join(*names: str) -> str:
    return ".".join(filter(None, names))


def _spread(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """What stands in nested lists, tuples and dicts, under dotted names."""
    if isinstance(value, dict):
        for key, v in value.items():
            yield from _spread(_join(name, str(key)), v)
    elif isinstance(value, list | tuple):
        for i, v in enumerate(value):
            yield from _spread(_join(name, str(i)), v)
    else:
        yield name, value


def _mapped(f: Callable[[str, Any], Any], name: str, value: Any) -> Any:
    """`value` with `f(name, v)` for each v in its nested lists, tuples and dicts; `value` itself if that changes nothing."""
    if isinstance(value, dict):
        changed = {key: _mapped(f, _join(name, str(key)), v) for key, v in value.items()}
        if all(changed[key] is v for key, v in value.items()):
            return value
        result = copy.copy(value)
        result.update(changed)
        return result
    if isinstance(value, list | tuple):
        items = [_mapped(f, _join(name, str(i)), v) for i, v in enumerate(value)]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        make = getattr(type(value), "_make", type(value))  # named tuples and their like, of whatever elements
        return make(items)
    return f(name, value)


def _move(t: Tensor, device: Device) -> None:
    """Give `t` its own value on another device, which assigning `data` refuses; its gradient goes along."""
    moved = t.detach().to(device)
    t.spec, t.buffer = moved.spec, moved.buffer
    if isinstance(t._grad, Tensor):
        t._grad = t._grad.detach().to(device)


def _form(t: Tensor) -> str:
    return f"{t.dtype}{list(t.shape)}"
