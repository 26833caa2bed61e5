"""Whether any of the Python values that a captured function depends on has changed.

A graph holds what the function computed with `model.training`, a layer, a list or a global as they were. `Guards` remembers
what the function can reach; `hold` then compares object by object: by a native function, if the default device's backend has
one, or in straight lines that are written once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from itertools import chain, islice
from typing import Any, TypeAlias

import numpy as np

from needle_core.backend import default_device
from needle_core.graph.reach import ABSENT, PLAIN, Spot, Walk, listed, shown
from needle_core.tensor import Tensor

Comparison: TypeAlias = tuple[Callable[[], bool], Callable[[Sequence[Any]], None]]
"""Whether all values are the very objects that they were, with ValueError if they are more or fewer; and to expect others."""


class Guards:
    """What `function` reads when it is called, and what `extra_roots` hold, as it is now.

    Raises: CompileError if that is more than `VALUES` values
    """

    def __init__(self, function: Any, extra_roots: Iterable[Any] = ()) -> None:
        walk = Walk()
        walk.root(function)
        for i, root in enumerate(extra_roots):
            walk.add(f"extra_roots[{i}]", root)
        walk.run()
        self._containers, self._arrays = walk.containers, walk.arrays
        self._spots = sorted(walk.spots, key=lambda spot: not spot.is_named)
        self._identical = default_device().backend.identical
        self._before = [c.now() for c in self._containers]
        self._parts = [c.parts() for c in self._containers]
        self._sizes = [[*map(len, parts)] for parts in self._parts]
        self._frozen = self._values()
        self._ndarrays = [array for _, array in self._arrays]
        self._bytes = [*map(np.ndarray.tobytes, self._ndarrays)]

    def watch(self, tensors: Iterable[Tensor]) -> None:
        """Guard also whether gradients flow through these tensors. To be said before the first `hold`."""
        spots = [Spot(f"requires_grad of {t.spec}", t, "tracked") for t in tensors]
        self._spots += spots
        self._frozen += [spot.now() for spot in spots]

    def _values(self) -> list[Any]:
        """All values as they are now, in a fixed order."""
        return [*chain.from_iterable(chain.from_iterable(self._parts)), *(spot.now() for spot in self._spots)]

    def hold(self) -> bool:
        """Whether nothing has changed. Values that are other objects now, but the same numbers and texts, are then expected."""
        are_same, expect = self._comparison
        try:
            if not are_same():
                now = self._values()
                if not all(map(_alike, self._frozen, now)):
                    return False
                self._frozen = now
                expect(now)
        except (AttributeError, ValueError):  # an empty slot, an empty cell, more elements or fewer
            return False
        return not self._ndarrays or [*map(np.ndarray.tobytes, self._ndarrays)] == self._bytes

    @cached_property
    def _comparison(self) -> Comparison:
        if self._identical is None:
            parts, sizes = ([*chain.from_iterable(of_each)] for of_each in (self._parts, self._sizes))
            return _written(parts, sizes, self._spots, self._frozen)
        held = [c.held for c in self._containers]
        return _native(self._identical, held, [*map(sum, self._sizes)], self._spots, self._frozen)

    def changes(self) -> dict[str, str]:
        """What has changed: `{"model.training": "True -> False"}`. Empty if the guards hold."""
        found: dict[str, str] = {}
        for container, before in zip(self._containers, self._before, strict=True):
            now = container.now()
            for key in {**before, **now}:
                old, new = before.get(key, ABSENT), now.get(key, ABSENT)
                if not _alike(old, new):
                    found[container.name(key, new if old is ABSENT else old)] = _change(old, new)
            if before.keys() == now.keys() and list(before) != list(now):
                found[container.path] = f"order {listed(before)} -> {listed(now)}"
        singles = self._frozen[len(self._frozen) - len(self._spots) :]
        for spot, old in zip(self._spots, singles, strict=True):
            new = spot.now()
            if not _alike(old, new):
                found[spot.path] = _change(old, new)
        for (path, array), elements in zip(self._arrays, self._bytes, strict=True):
            if np.ndarray.tobytes(array) != elements:
                found[path] = f"an array of shape {array.shape} -> other elements"
        return found


def _native(
    identical: Callable[..., bool], held: list[Any], sizes: Sequence[int], spots: Sequence[Spot], frozen: Sequence[Any]
) -> Comparison:
    """The comparison by a backend's function: for scaleadd in 0.2 us."""
    contents: list[list[Any]] = [[] for _ in held]
    items, attributes = ([(s.owner, s.name) for s in spots if s.is_named is named] for named in (True, False))
    singles: list[Any] = []

    def expect(values: Sequence[Any]) -> None:
        rest = iter(values)
        for content, size in zip(contents, sizes, strict=True):
            content[:] = islice(rest, size)
        singles[:] = rest

    expect(frozen)
    return partial(identical, held, contents, items, ABSENT, attributes, singles), expect


def _written(parts: Sequence[Any], sizes: Sequence[int], spots: Sequence[Spot], frozen: Sequence[Any]) -> Comparison:
    """The comparison as a function in straight lines: for scaleadd in 1.2 us, where loops in C took 3.3.

    `a` are values now, `v` those expected, `p` parts, `o` owners.
    """
    names = iter([f"a{i}" for i in range(len(frozen))])
    lines = [
        f"    ({''.join(f'{a}, ' for a in islice(names, size))}) = p{i}" if size else f"    if p{i}: raise ValueError"
        for i, size in enumerate(sizes)
    ]
    for i, spot in enumerate(spots):
        read = f"get({spot.name!r}, ABSENT)" if spot.is_named else spot.name
        lines.append(f"    {next(names)} = o{i}.{read}")
    same = " and ".join(f"a{i} is v{i}" for i in range(len(frozen)))
    owners = [spot.owner for spot in spots]
    scope = {"ABSENT": ABSENT, **_numbered("p", parts), **_numbered("o", owners), **_numbered("v", frozen)}
    exec(compile("\n".join(["def are_same():", *lines, f"    return {same or True}"]), "<guards>", "exec"), scope)
    return scope["are_same"], lambda values: scope.update(_numbered("v", values))


def _numbered(letter: str, values: Iterable[Any]) -> dict[str, Any]:
    return {f"{letter}{i}": value for i, value in enumerate(values)}


def _alike(old: Any, new: Any) -> bool:
    """Whether a function cannot tell two values apart: one object, or numbers and texts that are written alike."""
    if old is new:
        return True
    if type(old) is not type(new):
        return False
    if type(old) is tuple:
        return len(old) == len(new) and all(map(_alike, old, new))
    return (type(old) in PLAIN or np.generic in type(old).__mro__) and repr(old) == repr(new)


def _change(old: Any, new: Any) -> str:
    before, after = shown(old), shown(new)
    return f"{before} -> {after}" if before != after else f"{before} -> another {after}"
