"""Eager calls as plans, for backends that run them so: bodies of composites, and steps of optimizers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from needle_core.autograd import no_grad
from needle_core.errors import CompileError
from needle_core.graph.capture import Made, capture
from needle_core.graph.compiled import Compiled, compile
from needle_core.graph.graph import Fused
from needle_core.graph.passes import optimized
from needle_core.graph.plan import executable, planned
from needle_core.launch import PLANNED_FROM
from needle_core.spec import Spec
from needle_core.tensor import Tensor

if TYPE_CHECKING:
    from needle_core.op import Op

MOST: Final = 4
"""Plans of one function after which it is left alone: something in it changes all the time."""

LARGEST: Final = 2**22
"""Bytes of an arena that are kept for a body. With larger operands what its calls cost does not matter."""


def program_of_body(
    op: Op[..., Any], output: Spec | tuple[Spec, ...], args: tuple[Tensor, ...], attrs: Mapping[str, Any]
) -> Callable[..., Any] | None:
    """A kernel made of the body of a composite, for operands like these; None if the body cannot be one, or needs much memory.

    A body that reads tensors from outside, looks at numbers, or gives back an operand, cannot; one of which no ops are fused
    would gain little, and if it only looks at its operand otherwise, a copy would take the place of a view.
    """
    body = op.body
    assert body is not None
    try:
        with no_grad():
            captured = capture(lambda *like: body(*like, **attrs), args, lambda like: (tuple(like), {}), keep_grads=False)
    except CompileError:
        return None
    graph = captured.graph
    if captured.targets or captured.gradients or len(graph.inputs) != len(args) or captured.state:
        return None
    specs = output if isinstance(output, tuple) else (output,)
    places = [r.output for r in captured.results if isinstance(r, Made)]
    if len(places) != len(captured.results) or [graph.outputs[i].spec for i in places] != [*specs]:
        return None
    plan = planned(optimized(graph), {})
    if plan.arena > LARGEST or not any(isinstance(node, Fused) for node in plan.graph.nodes):
        return None
    run = executable(plan).run
    if isinstance(output, tuple):
        return lambda *buffers: [*map(run(*buffers).__getitem__, places)]
    return lambda *buffers: run(*buffers)[0]


class Planned:
    """A function without arguments or result that is compiled when it is called again, unless it is new at every other call."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function, self._calls = function, 0
        self._compiled: Compiled[[], None] | None = compile(function)

    def __call__(self) -> None:
        self._calls += 1
        if self._calls < PLANNED_FROM or self._compiled is None:
            self._function()
            return
        try:
            self._compiled()
        except CompileError:  # it looks at numbers; nothing was changed
            self._compiled = None
            self._function()
        if self._compiled is not None and self._compiled.captures > MOST:
            self._compiled = None
