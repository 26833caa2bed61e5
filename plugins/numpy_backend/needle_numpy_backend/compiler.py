"""Plans as straight lines of NumPy calls. Large fused nodes run in blocks, which stay in the cache from first op to last.

They run on one thread. NumPy lets go of the interpreter's lock while it computes, but a block's op takes 5 us, and to get the
lock back from a second thread 20: on two of them the gradient of gelu took 1.1 to 2 times as long.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from needle_core.backend import Executable
from needle_core.graph.executor import executor
from needle_core.graph.fuse import REDUCTIONS
from needle_core.graph.graph import Fused, Graph, Node, Value
from needle_core.graph.memory import can_fail
from needle_core.graph.plan import Plan
from needle_core.spec import DType
from needle_numpy_backend.backend import quiet_context, with_attributes
from needle_numpy_backend.kept import paired

VIEWS: Final = frozenset({"broadcast_to", "expand_as", "flip", "floor", "permute_dims", "reshape", "round", "strided_slice"})
"""Ops of the core whose kernels may return memory of an operand. Those of other packages are thought to."""

Array = npt.NDArray[Any]

BLOCK: Final = 16384
"""Elements: 64 KiB of float32."""

LARGE: Final = 2**16
"""Elements from which on blocks pay: what is smaller stays in the second cache as it is."""


def compiled(plan: Plan) -> Executable:
    """The program of a plan.

    Only nodes that run in blocks write over donated inputs: for a small array, a new one costs no more.
    """
    graph, functions = paired(plan.graph.unfused(lambda node: not _runs_in_blocks(node)))
    inputs = {v: j for j, v in enumerate(graph.inputs)}
    views = _last_reads_of_views(graph)
    place: dict[Value, int] = {y: i for i, node in enumerate(graph.nodes) for y in node.outputs}
    donated = {
        graph.outputs[k]: graph.inputs[j]
        for k, j in plan.donated.items()
        if place[graph.outputs[k]] > views.get(graph.inputs[j], -1)
    }
    overwritten: set[int] = set()

    def bound(node: Node) -> Callable[..., Any]:
        if node in functions:
            return partial(functions[node], **node.attrs)
        if not isinstance(node, Fused):
            return kernel_of(node)
        over = {k: donated[y] for k, y in enumerate(node.outputs) if donated.get(y) in node.inputs}
        overwritten.update(inputs[v] for v in over.values())
        return in_blocks(node, {k: node.inputs.index(v) for k, v in over.items()})

    run = executor(graph, bound)
    quiet: list[Callable[..., Any]] = []  # contexts that no thread is in

    def execute(*buffers: Array) -> Any:
        enter = quiet.pop() if quiet else quiet_context()
        try:
            return enter(run, *buffers)
        finally:
            quiet.append(enter)

    return Executable(execute, overwritten)


def kernel_of(node: Node) -> Callable[..., Any]:
    """The kernel of a node, its attributes fixed, for a context that is quiet already."""
    kernel = node.op.kernel_for(node.spec)
    assert kernel is not None
    return with_attributes(kernel, node.attrs, node.spec)


def _last_reads_of_views(graph: Graph) -> dict[Value, int]:
    """For each input the last node that reads a view of it, to which a plan gives memory of its own, but NumPy does not."""
    origins: dict[Value, set[Value]] = {v: {v} for v in graph.inputs}
    last: dict[Value, int] = {}
    for i, node in enumerate(graph.nodes):
        for v in node.inputs:
            last.update((x, i) for x in origins.get(v, ()) if x is not v)
        parts = node.body.nodes if isinstance(node, Fused) else (node,)
        if any(part.name in VIEWS or not part.op.__module__.startswith("needle_core.ops.") for part in parts):
            found = set[Value]().union(*(origins.get(v, ()) for v in node.inputs))
            origins.update((y, found) for y in node.outputs)
    for v in graph.outputs:
        last.update((x, len(graph.nodes)) for x in origins.get(v, ()) if x is not v)
    return last


def _runs_in_blocks(node: Fused) -> bool:
    """Whether it is large and elementwise and cannot fail, and its inputs have its shape or one element."""
    y = node.outputs[0].spec
    return (
        y.size >= LARGE
        and not can_fail(node)
        and all(part.outputs[0].spec.shape == y.shape and part.name not in REDUCTIONS for part in node.body.nodes)
        and all(v.spec.shape == y.shape or v.spec.size == 1 for v in (*node.inputs, *node.body.constants()))
    )


def in_blocks(node: Fused, over: Mapping[int, int]) -> Callable[..., Any]:
    """A function of the inputs that goes through them block by block, and writes output k over input `over[k]`.

    Inputs that do not lie row after row go through one op after the other as they are.
    """
    return _Blocks(node, over).function()


class _Blocks:
    """Writes the function. An `a` is an input, `x` its block; `y` is an output, `z` its block; a `c` is a constant.

    What only other ops read is in a `t`, an array of one block, or in an `r` if the kernel makes its own result.
    """

    def __init__(self, node: Fused, over: Mapping[int, int]) -> None:
        self.body, self.over, self.space = node.body, over, node.outputs[0].spec
        self.kernels = [kernel_of(part) for part in self.body.nodes]
        self.scope: dict[str, Any] = {"whole": executor(self.body, kernel_of), "empty": np.empty}
        self.scope |= {f"k{i}": kernel for i, kernel in enumerate(self.kernels)}
        self.scope |= {f"c{i}": c.buffer for i, c in enumerate(self.body.constants())}
        self.names: dict[Value, str] = {c: f"c{i}" for i, c in enumerate(self.body.constants())}
        self.before: list[str] = []
        self.loop: list[str] = []
        self.last = self._last_reads()

    def function(self) -> Callable[..., Any]:
        arguments = ", ".join(f"a{i}" for i in range(len(self.body.inputs)))
        self._inputs(arguments)
        self._outputs()
        cut = self._ops()
        n = self.space.size
        lines = [
            f"def run({arguments}):",
            *(f"    {line}" for line in self.before),
            f"    for i in range(0, {n}, {BLOCK}):",
            f"        j = i + {BLOCK}",
            *([f"        if j > {n}: {'; '.join(f'{t} = {t}[: {n} - i]' for t in cut)}"] if cut and n % BLOCK else []),
            *(f"        {line}" for line in self.loop),
            f"    return ({''.join(f'y{k}, ' for k in range(len(self.body.outputs)))})",
        ]
        exec(compile("\n".join(lines), f"<{len(self.body.nodes)} ops in blocks>", "exec"), self.scope)
        run: Callable[..., Any] = self.scope["run"]
        return run

    def _last_reads(self) -> dict[Value, int]:
        """The last op that reads each value, or what a kernel that is no ufunc has made of it: maybe a view."""
        last: dict[Value, int] = {y: len(self.body.nodes) for y in self.body.outputs}
        for i, part in reversed([*enumerate(self.body.nodes)]):
            end = i if isinstance(self.kernels[i], np.ufunc) else max(i, last.get(part.outputs[0], i))
            for v in part.inputs:
                last[v] = max(last.get(v, -1), end)
        return last

    def _inputs(self, arguments: str) -> None:
        large = [i for i, v in enumerate(self.body.inputs) if v.spec.shape == self.space.shape]
        rows = " and ".join(f"a{i}.flags.c_contiguous" for i in large)
        self.before.append(f"if not ({rows}): return whole({arguments})")
        for i, v in enumerate(self.body.inputs):
            self.names[v] = f"x{i}" if i in large else f"a{i}"
            if i in large:
                self.before.append(f"f{i} = a{i}.reshape(-1)")
                self.loop.append(f"x{i} = f{i}[i:j]")
            elif v.spec.shape:
                self.before.append(f"a{i} = a{i}.reshape(())")

    def _outputs(self) -> None:
        for k, y in enumerate(self.body.outputs):
            self.scope[f"d{k}"] = y.spec.dtype.numpy
            made = f"a{self.over[k]}" if k in self.over else f"empty({self.space.shape}, d{k})"
            self.before += [f"y{k} = {made}", f"g{k} = y{k}.reshape(-1)"]
            self.loop.append(f"z{k} = g{k}[i:j]")

    def _ops(self) -> list[str]:
        """Write the ops; the names of the arrays that they share, which the last block cuts to its size."""
        position = {y: k for k, y in enumerate(self.body.outputs)}
        arrays: dict[str, DType] = {}
        after: list[str] = []
        for i, (part, kernel) in enumerate(zip(self.body.nodes, self.kernels, strict=True)):
            (y,), k = part.outputs, position.get(part.outputs[0], -1)
            call = f"k{i}({', '.join(self.names[v] for v in part.inputs)}"
            name = f"r{i}"
            if k >= 0 and (k not in self.over or self.last.get(self.body.inputs[self.over[k]], -1) <= i):
                name = f"z{k}"
            elif isinstance(kernel, np.ufunc):
                dead = (self.names[v] for v in part.inputs if self.last[v] == i)
                name = next((t for t in dead if arrays.get(t) is y.spec.dtype), f"t{i}")
                arrays[name] = y.spec.dtype
            if isinstance(kernel, np.ufunc):
                self.loop.append(f"{call}, out={name})")
            else:
                self.loop.append(f"{name}{'[...]' * (name == f'z{k}')} = {call})")
            if k >= 0 and name != f"z{k}":  # the input that lies there is still to be read
                after.append(f"z{k}[...] = {name}")
            self.names[y] = name
        self.loop += after
        for t, dtype in arrays.items():
            self.scope[f"d{t}"] = dtype.numpy
            self.before.append(f"{t} = empty({BLOCK}, d{t})")
        return [*arrays]
