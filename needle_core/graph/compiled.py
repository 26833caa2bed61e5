"""`ndl.compile`: a function whose calls with tensors of the same specs are one program.

The first call with a signature captures the function, twice, and makes a program of the graph. Later calls check that what the
graph depends on is as it was, hand the buffers of arguments and state to the program, and put what it returns in its places.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import update_wrapper
from operator import attrgetter
from statistics import median
from sys import getrefcount
from typing import Any, Generic, ParamSpec, TypeVar, overload

import numpy as np

import needle_core.op as engine
from needle_core import tree
from needle_core.backend import default_device
from needle_core.errors import CompileError, NeedleError, brief, warn
from needle_core.graph.capture import Captured, Made, Place, capture, require_same
from needle_core.graph.costs import listed
from needle_core.graph.graph import Fused, Graph
from needle_core.graph.guards import Guards
from needle_core.graph.passes import optimized
from needle_core.graph.plan import executable, planned
from needle_core.nn.module import Module
from needle_core.record import Ended, mode
from needle_core.tensor import NotKept, Tensor, tensor_of

P = ParamSpec("P")
R = TypeVar("R")

PROFILED = 7
"""Runs of which a profile is the median."""

MANY = 8
"""Captures of one function from which on it warns: something is static that should be a tensor."""


class Compiled(Generic[P, R]):
    """What `ndl.compile` makes of a function. It is called like the function, and gives the same numbers."""

    def __init__(self, function: Callable[P, R], *, keep_grads: bool = False) -> None:
        update_wrapper(self, function)
        self.function, self.keep_grads = function, keep_grads
        self._programs: dict[Any, list[_Program]] = {}
        self._history: list[_Program] = []

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if mode.trace is not None or engine.watcher is not None:  # part of what another captures; or someone looks at the ops
            return self.function(*args, **kwargs)
        if args or kwargs:
            leaves, structure = tree.flatten((args, kwargs), whole=_is_module)
            tensors = [x for x in leaves if isinstance(x, Tensor)]
            try:
                key: Any = (structure, *map(_key, leaves), _aliases(tensors), mode.grad, default_device())
            except CompileError as error:
                error.details["function"] = self.name
                raise
        else:
            leaves, structure, tensors = [], None, []
            key = mode.grad, default_device()
        for program in self._programs.get(key, ()):
            if program.holds(tensors):
                break
        else:
            program = self._capture(key, leaves, structure, tensors)
        return program(tensors)  # type: ignore[no-any-return]

    def _capture(self, key: Any, leaves: list[Any], structure: tree.Structure | None, tensors: list[Tensor]) -> _Program:
        try:
            program = _Program(self.function, key, leaves, structure, tensors, keep_grads=self.keep_grads)
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

    def _reason(self, program: _Program) -> str:
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
        if not self._history:
            raise CompileError(f"{self.name} has no graph before its first call")
        return self._history[-1].graph

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


class _Program:
    """What a compiled function does for one signature."""

    def __init__(
        self,
        function: Callable[..., Any],
        key: Any,
        leaves: list[Any],
        structure: tree.Structure | None,
        tensors: list[Tensor],
        *,
        keep_grads: bool,
    ) -> None:
        self.key, self.reason = key, ""
        self.signature = {f"argument {i}": _told(leaf) for i, leaf in enumerate(leaves)}
        objects = tuple(leaf for leaf in leaves if not isinstance(leaf, Tensor))
        self._objects = objects  # keeps alive those that are known by identity

        def call(placeholders: Sequence[Tensor]) -> tuple[Any, Any]:
            if structure is None:
                return (), {}
            rest = iter(placeholders)
            both: tuple[Any, Any] = tree.unflatten(structure, [next(rest) if isinstance(x, Tensor) else x for x in leaves])
            return both

        start = time.perf_counter()
        self._guards = Guards(function, objects)
        first = capture(function, tensors, call, keep_grads=keep_grads)
        if changes := self._guards.changes():
            raise CompileError(
                "a compiled function runs in Python only while it is captured, so what it changes there would change once",
                details=changes,
                hint="keep what changes in a tensor: count.data = count + 1",
            )
        captured = capture(function, tensors, call, keep_grads=keep_grads)
        require_same(first, captured)
        middle = time.perf_counter()
        self._take(captured, tensors)
        self._captured = len(captured.graph.nodes)
        graph = optimized(captured.graph)
        self._optimized = len(graph.nodes)
        self.plan = planned(graph, self._replaced(captured.graph))
        self.graph, self._backend = self.plan.graph, self.plan.device.backend
        passed = time.perf_counter()
        self._run, self._overwritten, self._profile = executable(self.plan)
        self._seconds = middle - start, passed - middle, time.perf_counter() - passed

    def _take(self, captured: Captured, tensors: list[Tensor]) -> None:
        """Lay out what a call does beside running the graph."""
        self._state, self._read, self._targets = captured.state, captured.gradients_read, captured.targets
        self._results, self._structure, self._gradients = captured.results, captured.structure, captured.gradients
        self._count = len(captured.graph.outputs) - len(self._targets)
        self._aliased = _aliases(tensors) is not None
        self._tracked = [t.tracked for t in self._state]
        self._ids = set(map(id, self._state))
        self._conditions = captured.conditions
        self._assigns = bool(self._targets or self._gradients)

    def _replaced(self, graph: Graph) -> dict[int, int]:
        """Which input of the graph each of its outputs is the next value of."""
        given = len(graph.inputs) - len(self._state) - len(self._read)
        places: dict[Any, int] = {id(t): given + i for i, t in enumerate(self._state)}
        places |= {i: i for i in range(given)} if not self._aliased else {}
        values = [(self._count + k, p.of) for k, p in enumerate(self._targets) if p.what == "value"]
        found = {k: places.get(of if isinstance(of, int) else id(of)) for k, of in values}
        return {k: i for k, i in found.items() if i is not None}

    def holds(self, tensors: list[Tensor]) -> bool:
        """Whether what the graph depends on is as it was."""
        if [*map(_is_tracked, self._state)] != self._tracked or not self._guards.hold():
            return False
        if tensors and self._assigns and not self._ids.isdisjoint(map(id, tensors)):
            raise CompileError(
                "an argument is also a tensor that the compiled function reads from outside, and it assigns tensors",
                hint="pass it as an argument or read it from outside, not both",
            )
        for p, spec in self._conditions:
            g = self._owner(p, tensors)._grad
            if (g.spec if isinstance(g, Tensor) else g) is not spec:
                return False
        return True

    def changes(self) -> Mapping[str, str]:
        """What is not as it was."""
        found = dict(self._guards.changes())
        for t, was in zip(self._state, self._tracked, strict=True):
            if t.tracked != was:
                found[f"requires_grad of {t.spec}"] = f"{was} -> {t.tracked}"
        return found

    @staticmethod
    def _owner(place: Place, tensors: list[Tensor]) -> Tensor:
        return tensors[place.of] if isinstance(place.of, int) else place.of

    def __call__(self, tensors: list[Tensor]) -> Any:
        given = dict.fromkeys(tensors) if self._aliased else tensors
        gradients: Any = [self._owner(p, tensors)._grad for p in self._read]
        buffers = [*map(_buffer_of, given), *map(_buffer_of, self._state), *map(_buffer_of, gradients)]
        for i in self._overwritten:
            if references(buffers, i) > ALONE or not self._backend.owns(buffers[i]):
                buffers[i] = self._backend.from_numpy(np.array(self._backend.to_numpy(buffers[i])), self.plan.device)
        outputs = self._run(*buffers)
        made: dict[int, Tensor] = {}
        results = [self._result(r, outputs, tensors, made) for r in self._results]
        for (of, what), buffer in zip(self._targets, outputs[self._count :]):  # noqa: B905  # as many, and strict costs
            owner = tensors[of] if isinstance(of, int) else of
            if what == "value":
                owner.buffer = buffer
            else:
                owner._grad = tensor_of(owner.spec, buffer)
        for (of, _), is_none in self._gradients:
            owner = tensors[of] if isinstance(of, int) else of
            owner._grad = None if is_none else NotKept
        return tree.unflatten(self._structure, results)

    def _result(self, r: Any, outputs: Sequence[Any], tensors: list[Tensor], made: dict[int, Tensor]) -> Any:
        """One leaf of what the function returns."""
        if isinstance(r, Place):
            return self._owner(r, tensors)
        if not isinstance(r, Made):
            return r
        if r.output not in made:
            y = made[r.output] = tensor_of(self.graph.outputs[r.output].spec, outputs[r.output])
            if r.tracked:
                y.node, y.tracked = _ENDED, True
        return made[r.output]

    def instructions(self, *, profile: bool) -> list[str]:
        """The lines of a report that list what runs, and how long it takes."""
        if not profile:
            return listed(self.graph)
        if self._profile is None:
            return [f"{self._backend.name} does not measure the time of each", *listed(self.graph)]
        device, given = self.plan.device, len(self.graph.inputs) - len(self._state) - len(self._read)
        to_numpy = self._backend.to_numpy
        arrays = [np.zeros(v.spec.shape, v.spec.dtype.numpy) for v in self.graph.inputs]
        arrays[given : given + len(self._state)] = [np.array(to_numpy(t.buffer)) for t in self._state]
        buffers = [self._backend.from_numpy(array, device) for array in arrays]
        runs = [self._profile(*buffers) for _ in range(PROFILED)]
        return listed(self.graph, {node: median(run[node] for run in runs) for node in runs[0]})

    def described(self) -> list[str]:
        """The lines of a report."""
        plan, (captured, passed, compiled) = self.plan, (f"{seconds * 1e3:.1f} ms" for seconds in self._seconds)
        fused = [node for node in plan.graph.nodes if isinstance(node, Fused)]
        parts = sum(len(node.body.nodes) for node in fused)
        return [
            *(f"{name}: {spec}" for name, spec in self.signature.items()),
            f"{len(self._state)} tensors from outside, {len(self._targets)} assigned, {len(plan.donated)} of them in place",
            f"{self._captured} nodes captured in {captured}, {self._optimized} after the passes",
            f"{len(plan.graph.nodes)} after fusion: {parts} nodes are parts of {len(fused)} fused ones; planned in {passed}",
            f"arena of {plan.arena:,} bytes, {plan.in_place} values in place; at most {plan.peak:,} bytes beyond what is given",
            f"compiled by {plan.device.backend.name} in {compiled}",
        ]


_ENDED: Any = Ended()
_buffer_of = attrgetter("buffer")


def references(buffers: Sequence[Any], i: int) -> int:
    """How many references there are to a buffer."""
    return getrefcount(buffers[i])


ALONE = references([(lone := tensor_of(None, object())).buffer], 0)  # type: ignore[arg-type]
"""So many, if it is in one tensor and in the list that is handed over."""

_is_tracked = attrgetter("tracked")


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


def _told(leaf: Any) -> str:
    return f"{leaf.spec}{', requires_grad=True' * leaf.tracked}" if isinstance(leaf, Tensor) else brief(leaf)


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
    `data` it assigns are outputs. It is captured anew where shapes, dtypes, devices, other arguments or the Python values that
    it reads (such as `model.training`) change; `report()` tells when and why. Gradients that it leaves in `.grad` are kept only
    with `keep_grads`.

    Numerics: those of the same calls without it, bit for bit on the NumPy backend
    Raises:   CompileError for what cannot be captured: numbers that Python looks at, Python values that change at each call
    """
    if function is None:
        return lambda f: Compiled(f, keep_grads=keep_grads)
    return Compiled(function, keep_grads=keep_grads)
