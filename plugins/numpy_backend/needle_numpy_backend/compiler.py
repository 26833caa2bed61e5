"""Plans as straight lines of NumPy calls. Large fused nodes run in blocks, which stay in the cache from first op to last."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from needle_core.backend import Executable
from needle_core.graph.executor import executor
from needle_core.graph.fuse import REDUCTIONS
from needle_core.graph.graph import Fused, Node, Value
from needle_core.graph.plan import Plan
from needle_numpy_backend.backend import quiet_context, with_attributes
from needle_numpy_backend.kept import paired

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
    donated = {graph.outputs[k]: graph.inputs[j] for k, j in plan.donated.items()}
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


def _runs_in_blocks(node: Fused) -> bool:
    """Whether it is large and elementwise, and its inputs have its shape or one element."""
    y = node.outputs[0].spec
    return (
        y.size >= LARGE
        and all(part.outputs[0].spec.shape == y.shape and part.name not in REDUCTIONS for part in node.body.nodes)
        and all(v.spec.shape == y.shape or v.spec.size == 1 for v in (*node.inputs, *node.body.constants()))
    )


def in_blocks(node: Fused, over: Mapping[int, int]) -> Callable[..., Any]:
    """A function of the inputs that goes through them block by block, and writes output k over input `over[k]`.

    Inputs that do not lie row after row go through one op after the other as they are.
    """
    body, space = node.body, node.outputs[0].spec
    scope: dict[str, Any] = {"whole": executor(body, kernel_of), "empty": np.empty}
    scope |= {f"c{i}": c.buffer for i, c in enumerate(body.constants())}
    names: dict[Value, str] = {c: f"c{i}" for i, c in enumerate(body.constants())}
    names |= {v: f"a{i}" for i, v in enumerate(body.inputs)}
    large = [v for v in body.inputs if v.spec.shape == space.shape]
    arguments = ", ".join(names[v] for v in body.inputs)
    before = [f"if not ({' and '.join(f'{names[v]}.flags.c_contiguous' for v in large)}): return whole({arguments})"]
    loop: list[str] = []
    for i, v in enumerate(large):
        before.append(f"f{i} = {names[v]}.reshape(-1)")
        loop.append(f"x{i} = f{i}[i:j]")
    for k, y in enumerate(body.outputs):
        scope[f"d{k}"] = y.spec.dtype.numpy
        made = names[body.inputs[over[k]]] if k in over else f"empty({space.shape}, d{k})"
        before += [f"y{k} = {made}", f"g{k} = y{k}.reshape(-1)"]
        loop.append(f"z{k} = g{k}[i:j]")
    names |= {v: f"x{i}" for i, v in enumerate(large)}

    last = {v: i for i, part in enumerate(body.nodes) for v in part.inputs}
    position = {y: k for k, y in enumerate(body.outputs)}
    scratch: dict[str, Any] = {}  # arrays of a block, by name: their dtypes
    after: list[str] = []
    for i, part in enumerate(body.nodes):
        y, kernel = part.outputs[0], kernel_of(part)
        call = f"k{i}({', '.join(names[v] for v in part.inputs)}"
        scope[f"k{i}"] = kernel
        k = position.get(y, -1)
        if k >= 0 and (k not in over or last[body.inputs[over[k]]] <= i):
            names[y] = f"z{k}"
        elif not isinstance(kernel, np.ufunc):
            names[y] = f"r{i}"
        else:
            dead = (names[v] for v in part.inputs if last[v] == i and scratch.get(names[v]) is y.spec.dtype)
            names[y] = next(dead, f"t{i}")
            scratch[names[y]] = y.spec.dtype
        if isinstance(kernel, np.ufunc):
            loop.append(f"{call}, out={names[y]})")
        else:
            loop.append(f"{names[y]}{'[...]' * names[y].startswith('z')} = {call})")
        if k >= 0 and names[y] != f"z{k}":  # the input that lies there is read once more
            after.append(f"z{k}[...] = {names[y]}")
            last[y] = len(body.nodes)
    for name, dtype in scratch.items():
        scope[f"d{name}"] = dtype.numpy
        before.append(f"{name} = empty({BLOCK}, d{name})")
    cut = [f"{name} = {name}[: {space.size} - i]" for name in scratch]
    lines = [
        f"def run({arguments}):",
        *(f"    {line}" for line in before),
        f"    for i in range(0, {space.size}, {BLOCK}):",
        f"        j = i + {BLOCK}",
        *([f"        if j > {space.size}: {'; '.join(cut)}"] if cut and space.size % BLOCK else []),
        *(f"        {line}" for line in (*loop, *after)),
        f"    return ({''.join(f'y{k}, ' for k in range(len(body.outputs)))})",
    ]
    exec(compile("\n".join(lines), f"<{len(body.nodes)} ops in blocks>", "exec"), scope)
    run: Callable[..., Any] = scope["run"]
    return run
