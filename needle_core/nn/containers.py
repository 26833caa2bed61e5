"""Modules made of modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping, MutableSequence
from typing import Any, cast

from needle_core.errors import ArgumentError
from needle_core.nn.module import Module
from needle_core.tensor import Tensor


class Sequential(Module):
    """Modules one after the other, each called with what the one before returned. A slice of it is a Sequential."""

    _inlined = "layers"

    def __init__(self, *modules: Module) -> None:
        self.layers = tuple(_checked(m, "Sequential") for m in modules)

    def forward(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x)
        return x

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Module]:
        return iter(self.layers)

    def __getitem__(self, index: int | slice) -> Any:
        return Sequential(*self.layers[index]) if isinstance(index, slice) else self.layers[index]


class Residual(Module):
    """fn(x) + x.

    Source:   He et al. 2016, arXiv:1512.03385
    """

    def __init__(self, fn: Module) -> None:
        self.fn = _checked(fn, "Residual")

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.fn(x) + x)


class ModuleList(Module, MutableSequence[Module]):
    """A list of modules, which themselves are called by whoever owns it."""

    _inlined = "items"

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        self.items = [_checked(m, "ModuleList") for m in modules]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Module]:
        return iter(self.items)

    def __getitem__(self, index: int | slice) -> Any:
        return ModuleList(self.items[index]) if isinstance(index, slice) else self.items[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(index, slice):
            self.items[index] = [_checked(m, "ModuleList") for m in value]
        else:
            self.items[index] = _checked(value, "ModuleList")

    def __delitem__(self, index: int | slice) -> None:
        del self.items[index]

    def insert(self, index: int, value: Module) -> None:
        self.items.insert(index, _checked(value, "ModuleList"))


class ModuleDict(Module, MutableMapping[str, Module]):
    """A dict of modules by name, which themselves are called by whoever owns it."""

    _inlined = "entries"
    __eq__, __hash__ = object.__eq__, object.__hash__  # a module is itself, whatever it holds

    def __init__(self, modules: Mapping[str, Module] | None = None) -> None:
        self.entries: dict[str, Module] = {}
        self.update(modules or {})

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __getitem__(self, name: str) -> Module:
        return self.entries[name]

    def __setitem__(self, name: Any, module: Module) -> None:
        if not isinstance(name, str) or not name or "." in name:
            raise ArgumentError(f"ModuleDict: a name is a string without dots, not {name!r}")
        self.entries[name] = _checked(module, "ModuleDict")

    def __delitem__(self, name: str) -> None:
        del self.entries[name]


def _checked(module: Any, owner: str) -> Module:
    if not isinstance(module, Module):
        raise ArgumentError(
            f"{owner}: {type(module).__name__} is no Module",
            hint="Sequential(*layers) takes the modules of a list"
            if isinstance(module, list | tuple) and owner == "Sequential"
            else None,
        )
    return module
