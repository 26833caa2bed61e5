"""`ndl.compile`: a function whose calls with tensors of the same specs are one program.

The first call with a signature captures the function, twice, and makes a program of the graph. Later calls look the signature
up, check that what the graph depends on is as it was, and call the program.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import update_wrapper
from operator import attrgetter
from typing import Any, Generic, ParamSpec, TypeVar, overload

import numpy as np

import needle_core.op as engine
from needle_core import tree
from needle_core.backend import default_device
from needle_core.errors import CompileError, NeedleError, brief, warn
from needle_core.graph.graph import Graph
from needle_core.graph.plan import Plan
from needle_core.graph.specialized import Specialized
from needle_core.nn.module import Module
from needle_core.precision import matmul_precision
from needle_core.record import mode
from needle_core.tensor import Tensor

P = ParamSpec("P")
R = TypeVar("R")

MANY = 8
"""Captures of one function from which on it warns: something is static that should be a tensor."""


class Compiled(Generic[P, R]):
    """What `ndl.compile` makes of a function. It is called like the function, and gives the same numbers."""

    def __init__(self, function: Callable[P, R], *, keep_grads: bool = False) -> None:
        update_wrapper(self, function)
        self.function, self.keep_grads = function, keep_grads
        self._programs: dict[Any, list[Specialized]] = {}
        self._short: dict[Any, list[Specialized]] = {}  # the same, by what can be read off arguments that all are tensors
        self._history: list[Specialized] = []

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if mode.trace is not None or engine.watcher is not None:  # part of what another captures; or someone looks at the ops
            return self.function(*args, **kwargs)
        try:
            key = None if kwargs else tuple(map(_read_off, args))
            programs = self._short.get(key, ())
        except (AttributeError, TypeError):  # an argument that is no tensor
            key, programs = None, ()
        tensors: Any = args
        for program in programs:
            if program.holds(tensors):
                return program.call(*tensors)  # type: ignore[no-any-return]
        return self._call(args, kwargs, key)  # type: ignore[no-any-return]

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any], short: Any) -> Any:
        """A call with any arguments, or for the first time."""
        leaves, structure = tree.flatten((args, kwargs), whole=_is_module)
        tensors = [x for x in leaves if isinstance(x, Tensor)]
        try:
            modes = mode.grad, mode.autocast, matmul_precision(), default_device()
            key: Any = (structure, *map(_key, leaves), _aliases(tensors), *modes)
        except CompileError as error:
            error.details["function"] = self.name
            raise
        for program in self._programs.get(key, ()):
            if program.holds(tensors):
                break
        else:
            program = self._capture(key, leaves, structure, tensors)
            if short is not None and len(set(tensors)) == len(args) and not any(x.node for x in tensors):
                self._short.setdefault(short, []).insert(0, program)
        return program.call(*tensors)

    def _capture(self, key: Any, leaves: list[Any], structure: tree.Structure, tensors: list[Tensor]) -> Specialized:
        try:
            program = Specialized(self.function, key, leaves, structure, tensors, keep_grads=self.keep_grads)
        except NeedleError as error:
            error.details["capturing"] = f"{self.name}; no tensor was changed"
            raise
        program.reason = self._reason(program)
        self._programs.setdefault(key, []).insert(0, program)
        self._history.append(program)
        for found in _watching:
            if self not in found:
                found.append(self)
        if len(self._history) == MANY:
            warn(f"{self.name} was captured {MANY} times, the last time because {program.reason}; report() tells of all")
        return program

    def _reason(self, program: Specialized) -> str:
        """Why a new program was needed."""
        if not self._history:
            return "it is the first call"
        last = self._history[-1]
        if program.key == last.key:
            changes = last.changes()
            return "; ".join(f"{name}: {change}" for name, change in changes.items()) or "its state changed"
        old, new = last.signature, program.signature
        differing = [
            f"{n}: {old.get(n, 'nothing')} -> {new.get(n, 'nothing')}" for n in {**old, **new} if old.get(n) != new.get(n)
        ]
        return "; ".join(differing) or "the mode or the default device changed"

    @property
    def name(self) -> str:
        """The name of the function."""
        name: str = getattr(self.function, "__qualname__", type(self.function).__name__)
        return name

    @property
    def captures(self) -> int:
        """How many programs were made."""
        return len(self._history)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """A compiled function in a class is a method, with programs of its own for each instance."""
        if instance is None:
            return self
        name = f"_compiled_{self.name}"
        bound = vars(instance).get(name)
        if bound is None:
            bound = Compiled(self.function.__get__(instance, owner), keep_grads=self.keep_grads)
            if mode.trace is None:  # else it only passes the call on
                object.__setattr__(instance, name, bound)
        return bound

    def __reduce__(self) -> tuple[Any, ...]:
        return _recompiled, (self.function, self.keep_grads)

    def __deepcopy__(self, memo: dict[int, Any]) -> Compiled[P, R]:
        return Compiled(copy.deepcopy(self.function, memo), keep_grads=self.keep_grads)

    def __repr__(self) -> str:
        return f"<compiled {self.name}, {len(self._history)} programs>"

    # -- to look at -----------------------------------------------------------------------------------------------------

    @property
    def graph(self) -> Graph:
        """The graph of the latest program, after the passes. Raises CompileError before the first call."""
        return self.plan.graph

    @property
    def plan(self) -> Plan:
        """What the backend made the latest program of. Raises CompileError before the first call."""
        if not self._history:
            raise CompileError(f"{self.name} has no graph before its first call")
        return self._history[-1].plan

    def report(self, *, instructions: bool = False, profile: bool = False) -> str:
        """What was captured, why, and what became of it: one paragraph for each program.

        With `instructions` it lists what the latest program runs, with bytes and operations; with `profile` also the time of
        each, the median of some runs on copies of its state and arguments of zeros, where the backend measures it.
        """
        lines = [f"{self.name}: {len(self._history)} programs"]
        for i, program in enumerate(self._history):
            lines += [f"{i}: captured because {program.reason}", *(f"    {line}" for line in program.described())]
        if (instructions or profile) and self._history:
            lines += self._history[-1].instructions(profile=profile)
        return "\n".join(lines)


_watching: list[list[Compiled[..., Any]]] = []


@contextmanager
def compiled_functions() -> Iterator[list[Compiled[..., Any]]]:
    """Within it, what it gives collects the compiled functions that are captured."""
    found: list[Compiled[..., Any]] = []
    _watching.append(found)
    try:
        yield found
    finally:
        _watching.pop(next(i for i, other in enumerate(_watching) if other is found))


_read_off = attrgetter("spec", "tracked", "node", "__class__")


def _is_module(value: Any) -> bool:
    return isinstance(value, Module)


def _key(leaf: Any) -> Any:
    """What tells an argument from others that need another graph."""
    if isinstance(leaf, Tensor):
        if leaf.node is not None and leaf.tracked and mode.grad:
            raise CompileError(
                "an argument of a compiled function has a graph behind it, through which gradients would have to flow",
                details={"argument": leaf.spec},
                hint="x.detach(), or compute it inside",
            )
        return leaf.spec, leaf.tracked, type(leaf)
    if isinstance(leaf, np.ndarray):
        raise CompileError(
            "a NumPy array is no argument of a compiled function: its numbers would be those of the first call",
            details={"argument": brief(leaf)},
            hint="ndl.Tensor(array)",
        )
    if isinstance(leaf, float):
        return float, repr(leaf)  # 0.0 and -0.0 are equal, and nan is not
    return (type(leaf), leaf) if isinstance(leaf, int | str | bytes) else (type(leaf), id(leaf))


def _aliases(tensors: list[Tensor]) -> tuple[int, ...] | None:
    """Which arguments are one tensor; None if all differ."""
    ids = [*map(id, tensors)]
    return None if len(set(ids)) == len(ids) else tuple(map(ids.index, ids))


def _recompiled(function: Callable[..., Any], keep_grads: bool) -> Compiled[..., Any]:
    return Compiled(function, keep_grads=keep_grads)


@overload
def compile(function: Callable[P, R], /, *, keep_grads: bool = False) -> Compiled[P, R]: ...
@overload
def compile(*, keep_grads: bool = False) -> Callable[[Callable[P, R]], Compiled[P, R]]: ...
def compile(function: Callable[..., Any] | None = None, /, *, keep_grads: bool = False) -> Any:
    """The function as one program: the same code, run once without computing, and from then on the graph that it left.

        @ndl.compile
        def step(x, y):
            opt.reset_grad()
            loss = loss_fn(model(x), y)
            loss.backward()
            opt.step()
            return loss

    Arguments and results are trees of tensors. Tensors from outside that it reads are inputs by reference, and those whose
    `data` it assigns are outputs. It is captured anew where shapes, dtypes, devices, other arguments, the precision of products
    or the Python values that it reads (such as `model.training`) change; `report()` tells when and why. Gradients that it
    leaves in `.grad` are kept only with `keep_grads`.

    Numerics: those of the same calls without it, bit for bit on the NumPy backend
    Raises:   CompileError for what cannot be captured: numbers that Python looks at, Python values that change at each call
    """
    if function is None:
        return lambda f: Compiled(f, keep_grads=keep_grads)
    return Compiled(function, keep_grads=keep_grads)
