"""What a planted bug is, and the ways to plant one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from needle_core.op import KERNELS, OPS

Plant: TypeAlias = Callable[[], AbstractContextManager[None]]
Change: TypeAlias = Callable[[Any], Any]
"""From what is there to what takes its place."""


@dataclass(frozen=True)
class Mutant:
    """A bug: its name, what is wrong in a sentence, the way to plant it, and what is then checked, on `device`.

    `subjects` are names of ops, optimizers and layers, "backend" for transfers and the like, and "modules" for what all modules
    have in common.
    """

    name: str
    wrong: str
    plant: Plant
    subjects: tuple[str, ...]
    device: str = "numpy"

    def __str__(self) -> str:
        return self.name


def kernel(op: str, change: Change, backend: str = "numpy") -> Plant:
    """A change of a backend's kernel, or of its lack, which is None; what NumPy gives as a number becomes an array."""

    def changed(before: Any) -> Any:
        wrong = change(before)
        return wrong and (lambda *buffers, **attrs: _arrays(wrong(*buffers, **attrs)))

    return lambda: _entry(KERNELS, (op, backend), changed)


def attribute(owner: Any, name: str, change: Change) -> Plant:
    """A change of an attribute: a method of a class, a function of a module, the body or the door of an op."""
    return lambda: _attribute(owner, name, change)


def rule(op: str, number: int, change: Change) -> Plant:
    """A change of the gradient rule of an operand."""

    def changed(rules: tuple[Any, ...]) -> tuple[Any, ...]:
        return (*rules[:number], change(rules[number]), *rules[number + 1 :])

    return attribute(OPS[op], "rules", changed)


def body(op: str, change: Change) -> Plant:
    """A change of a composite's body, which then runs instead of a backend's kernel."""
    return together(attribute(OPS[op], "body", change), kernel(op, lambda _: None))


def together(*plants: Plant) -> Plant:
    """Several changes as one."""

    @contextmanager
    def all_of_them() -> Iterator[None]:
        with ExitStack() as stack:
            for plant in plants:
                stack.enter_context(plant())
            yield

    return all_of_them


def _arrays(results: Any) -> Any:
    return tuple(map(np.asarray, results)) if isinstance(results, tuple) else np.asarray(results)


@contextmanager
def _entry(table: dict[Any, Any], key: Any, change: Change) -> Iterator[None]:
    there = key in table
    before = table.get(key)
    table[key] = change(before)
    _forget()
    try:
        yield
    finally:
        if there:
            table[key] = before
        else:
            del table[key]
        _forget()


@contextmanager
def _attribute(owner: Any, name: str, change: Change) -> Iterator[None]:
    own = name in vars(owner)
    before = vars(owner)[name] if own else getattr(owner, name)
    setattr(owner, name, change(before))
    _forget()
    try:
        yield
    finally:
        if own:
            setattr(owner, name, before)
        else:
            delattr(owner, name)
        _forget()


def _forget() -> None:
    """Ops look their kernels and rules up anew."""
    for op in OPS.values():
        op.forget()
