"""What a compiled function does for one signature: it is captured, made a program, and called in straight lines.

A call takes the buffers of arguments and state, copies those that are to be written and that somebody else has, runs the plan,
and puts what it gives in its places. All that is known beforehand, so that no loop and no question is left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from statistics import median
from sys import getrefcount
from typing import Any

import numpy as np

from needle_core import record, tree
from needle_core.backend import default_device
from needle_core.errors import CompileError, brief
from needle_core.graph.capture import Captured, Made, Place, capture, require_same
from needle_core.graph.costs import listed
from needle_core.graph.graph import Fused
from needle_core.graph.guards import Guards
from needle_core.graph.passes import optimized
from needle_core.graph.plan import Plan, executable, planned
from needle_core.precision import matmul_precision, settings
from needle_core.record import Ended, mode
from needle_core.tensor import NotKept, Tensor, tensor_of

PROFILED = 7
"""Runs of which a profile is the median."""


class Specialized:
    """A captured function, for arguments like these.

    `holds` tells whether what its graph depends on is as it was; `call` takes the tensors among the arguments.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        key: Any,
        leaves: list[Any],
        structure: tree.Structure,
        tensors: list[Tensor],
        *,
        keep_grads: bool,
    ) -> None:
        self.key, self.reason = key, ""
        self.signature = {**{f"argument {i}": _told(leaf) for i, leaf in enumerate(leaves)}, **settings()}
        objects = tuple(leaf for leaf in leaves if not isinstance(leaf, Tensor))
        self._objects = objects  # keeps alive those that are known by identity

        def call(placeholders: Sequence[Tensor]) -> tuple[Any, Any]:
            rest = iter(placeholders)
            both: tuple[Any, Any] = tree.unflatten(structure, [next(rest) if isinstance(x, Tensor) else x for x in leaves])
            return both

        start = time.perf_counter()
        self._grad, self._default = mode.grad, default_device()
        self._products = mode.autocast, matmul_precision()
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
        self._guards.watch(captured.state)
        self._state, self._conditions = captured.state, captured.conditions
        self._given = len(set(tensors))
        self._is_aliased = self._given < len(tensors)
        self._assigned, self._assigns = len(captured.targets), bool(captured.targets or captured.gradients)
        self._ids = set(map(id, captured.state))
        self._captured = len(captured.graph.nodes)
        graph = optimized(captured.graph)
        self._optimized = len(graph.nodes)
        self.plan = planned(graph, self._replaced(captured))
        self.graph, self._backend = self.plan.graph, self.plan.device.backend
        passed = time.perf_counter()
        run, overwritten, self._profile = executable(self.plan)
        self.call = _Straight(captured, self.plan, tensors, run, overwritten).function()
        self._seconds = middle - start, passed - middle, time.perf_counter() - passed

    def _replaced(self, captured: Captured) -> dict[int, int]:
        """Which input of the graph each of its outputs is the next value of."""
        places: dict[Any, int] = {id(t): self._given + i for i, t in enumerate(captured.state)}
        places |= {i: i for i in range(self._given)} if not self._is_aliased else {}
        count = len(captured.graph.outputs) - len(captured.targets)
        values = [(count + k, p.of) for k, p in enumerate(captured.targets) if p.what == "value"]
        found = {k: places.get(of if isinstance(of, int) else id(of)) for k, of in values}
        return {k: i for k, i in found.items() if i is not None}

    def holds(self, tensors: Sequence[Tensor]) -> bool:
        """Whether what the graph depends on is as it was."""
        if self._grad is not mode.grad or self._default is not default_device() or not self._guards.hold():
            return False
        if not record.exact and self._products != (mode.autocast, matmul_precision()):
            return False
        if len(tensors) > 1 and (len(set(tensors)) < len(tensors)) is not self._is_aliased:
            return False
        if tensors and self._assigns and not self._ids.isdisjoint(map(id, tensors)):
            raise CompileError(
                "an argument is also a tensor that the compiled function reads from outside, and it assigns tensors",
                hint="pass it as an argument or read it from outside, not both",
            )
        for p, spec in self._conditions:
            g = (tensors[p.of] if isinstance(p.of, int) else p.of)._grad
            if (g.spec if isinstance(g, Tensor) else g) is not spec:
                return False
        return True

    def changes(self) -> Mapping[str, str]:
        """What is not as it was."""
        return self._guards.changes()

    def instructions(self, *, profile: bool) -> list[str]:
        """The lines of a report that list what runs, and how long it takes."""
        if not profile:
            return listed(self.graph)
        if self._profile is None:
            return [f"{self._backend.name} does not measure the time of each", *listed(self.graph)]
        device, given, to_numpy = self.plan.device, self._given, self._backend.to_numpy
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
            f"{len(self._state)} tensors from outside, {self._assigned} assigned, {len(plan.donated)} of them in place",
            f"{self._captured} nodes captured in {captured}, {self._optimized} after the passes",
            f"{len(plan.graph.nodes)} after fusion: {parts} nodes are parts of {len(fused)} fused ones; planned in {passed}",
            f"arena of {plan.arena:,} bytes, {plan.in_place} values in place; at most {plan.peak:,} bytes beyond what is given",
            f"compiled by {plan.device.backend.name} in {compiled}",
        ]


class _Straight:
    """Writes the function. An `x` is an argument, `s` a tensor from outside, `b` a buffer, `y` an output, `r` a result."""

    def __init__(
        self, captured: Captured, plan: Plan, tensors: list[Tensor], run: Callable[..., Any], overwritten: Collection[int]
    ) -> None:
        backend, device = plan.device.backend, plan.device
        self.captured, self.plan, self.tensors, self.overwritten = captured, plan, tensors, overwritten
        self.scope: dict[str, Any] = {
            "run": run, "owns": backend.owns, "alone": backend.alone, "getrefcount": getrefcount, "ALONE": ALONE,
            "tensor_of": tensor_of,
            "copied": lambda buffer: backend.copy(buffer, device),
            "NotKept": NotKept, "ENDED": Ended(), "unflatten": tree.unflatten, "structure": captured.structure,
        }  # fmt: skip
        self._outside: dict[int, str] = {}

    def function(self) -> Callable[..., Any]:
        lines = [*self._take(), *self._put(), *self._give()]
        parameters = ", ".join(f"x{i}" for i in range(len(self.tensors)))
        exec(compile("\n    ".join([f"def call({parameters}):", *lines]), "<compiled call>", "exec"), self.scope)
        made: Callable[..., Any] = self.scope["call"]
        return made

    def _tensor(self, of: int | Tensor) -> str:
        """The name of an argument or of a tensor from outside."""
        if isinstance(of, int):
            return f"x{of}"
        name = self._outside.setdefault(id(of), f"s{len(self._outside)}")
        self.scope[name] = of
        return name

    def _take(self) -> Iterator[str]:
        """Take the buffers and run the plan."""
        first = {id(x): i for i, x in reversed([*enumerate(self.tensors)])}
        owners: list[int | Tensor] = [*sorted(first.values()), *self.captured.state]
        sources = [self._tensor(of) for of in owners] + [f"{self._tensor(p.of)}._grad" for p in self.captured.gradients_read]
        yield from (f"b{i} = {source}.buffer" for i, source in enumerate(sources))
        asks = bool(self.overwritten) and self.scope["alone"] is not None
        if asks:
            yield f"if not alone(ALONE, {', '.join(f'b{i}' for i in self.overwritten)}):"
        for i in self.overwritten:
            yield f"{'    ' * asks}if getrefcount(b{i}) > ALONE or not owns(b{i}): b{i} = copied(b{i})"
        made = "".join(f"y{k}, " for k in range(len(self.plan.graph.outputs)))
        yield f"({made}) = run({', '.join(f'b{i}' for i in range(len(sources)))})"

    def _put(self) -> Iterator[str]:
        """Put new values and gradients in their places."""
        count = len(self.plan.graph.outputs) - len(self.captured.targets)
        for k, (of, what) in enumerate(self.captured.targets, count):
            owner = self._tensor(of)
            yield f"{owner}.buffer = y{k}" if what == "value" else f"{owner}._grad = tensor_of({owner}.spec, y{k})"
        for (of, _), is_none in self.captured.gradients:
            yield f"{self._tensor(of)}._grad = {None if is_none else 'NotKept'}"

    def _give(self) -> Iterator[str]:
        """Give back what the function returns; an output that is there twice is one tensor."""
        names: list[str] = []
        for i, r in enumerate(self.captured.results):
            if isinstance(r, Place):
                names.append(self._tensor(r.of))
            elif not isinstance(r, Made):
                self.scope[f"c{i}"] = r
                names.append(f"c{i}")
            else:
                name = f"r{r.output}"
                if name not in names:
                    self.scope[f"spec{r.output}"] = self.plan.graph.outputs[r.output].spec
                    yield f"{name} = tensor_of(spec{r.output}, y{r.output})"
                    if r.tracked:
                        yield f"{name}.node, {name}.tracked = ENDED, True"
                names.append(name)
        yield (
            f"return {names[0]}"
            if self.captured.structure is tree.LEAF
            else f"return unflatten(structure, [{', '.join(names)}])"
        )


def references(t: Tensor) -> int:
    """How many references there are to the buffer of a tensor, seen as a call sees it."""
    b0 = t.buffer
    return getrefcount(b0)


ALONE = references(tensor_of(None, object()))  # type: ignore[arg-type]
"""So many, if it is in that tensor alone."""


def _told(leaf: Any) -> str:
    return f"{leaf.spec}{', requires_grad=True' * leaf.tracked}" if isinstance(leaf, Tensor) else brief(leaf)
