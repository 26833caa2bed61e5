"""Running a graph with a backend's kernels: a program in straight lines, which is written once and run at every call.

A step of the program calls one kernel. There is no loop, no table and no question left: what a call costs above its kernels
is the assignment of local variables. Buffers are let go after their last use.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from needle_core.errors import MissingKernelError, NeedleError
from needle_core.graph.graph import Constant, Graph, Node, Value
from needle_core.launch import fail
from needle_core.tensor import tensor_of

_numbers = itertools.count(1)

LARGE = 4096
"""Bytes from which a buffer is let go at once; the rest waits for the end of the call."""


def executor(graph: Graph, bind: Callable[[Node], Callable[..., Any]] | None = None) -> Callable[..., Sequence[Any]]:
    """A function from the buffers of the inputs to those of the outputs. `bind` gives the function that computes a node."""
    kernels = {f"k{i}": (bind or kernel_of)(node) for i, node in enumerate(graph.nodes)}
    names: dict[Value, str] = {v: f"x{i}" for i, v in enumerate(graph.inputs)}
    names |= {v: f"c{i}" for i, v in enumerate(graph.constants())}
    names |= {v: f"v{i}" for i, v in enumerate(y for node in graph.nodes for y in node.outputs)}
    dying = _last_uses(graph)
    lines = [f"def run({', '.join(names[v] for v in graph.inputs)}):"]
    nodes: dict[int, Node] = {}
    for i, node in enumerate(graph.nodes):
        made = ", ".join(names[y] for y in node.outputs)
        lines.append(
            f"    {made}{',' * (node.is_tuple and len(node.outputs) == 1)} = k{i}({', '.join(names[v] for v in node.inputs)})"
        )
        nodes[len(lines)] = node
        if dying[i]:
            lines.append(f"    del {', '.join(names[v] for v in dying[i])}")
    lines.append(f"    return ({''.join(f'{names[v]}, ' for v in graph.outputs)})")
    filename = f"<graph {next(_numbers)}>"
    scope: dict[str, Any] = {names[c]: c.buffer for c in graph.constants()} | kernels
    exec(compile("\n".join(lines), filename, "exec"), scope)
    program: Callable[..., Sequence[Any]] = scope["run"]

    def run(*buffers: Any) -> Sequence[Any]:
        try:
            return program(*buffers)
        except Exception as cause:
            _blame(cause, filename, nodes)

    return run


def kernel_of(node: Node) -> Callable[..., Any]:
    """The backend's kernel for a node, its attributes fixed."""
    kernel = node.op.bound(tuple(v.spec for v in node.inputs), node.spec, node.attrs)
    if kernel is None:
        raise MissingKernelError(
            f"{node.op.name} has no kernel on {node.outputs[0].spec.device}, and its body was not captured"
        )
    return kernel


def _last_uses(graph: Graph) -> list[list[Value]]:
    """For each node the values that nothing reads after it, of those that are worth letting go."""
    kept = {*graph.inputs, *graph.outputs}
    found: list[list[Value]] = []
    for node in reversed(graph.nodes):
        now = [v for v in dict.fromkeys((*node.inputs, *node.outputs)) if v not in kept and not isinstance(v, Constant)]
        kept.update(now)
        found.append([v for v in now if v.spec.nbytes >= LARGE])
    return found[::-1]


def _blame(cause: Exception, filename: str, nodes: dict[int, Node]) -> NoReturn:
    """Raise the error for the node of the failing line."""
    trace = cause.__traceback__
    node: Node | None = None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == filename:
            node = nodes.get(trace.tb_lineno)
        trace = trace.tb_next
    if node is None:
        raise cause
    failed(node, cause)


def failed(node: Node, cause: Exception) -> NoReturn:
    """Raise the error that the op would raise in an eager call, with the line of the user's."""
    try:
        fail(node.op, cause, tuple(tensor_of(v.spec, None) for v in node.inputs))
    except NeedleError as error:
        error.details["line"] = f"{node.source}, compiled"
        raise
