"""What is recorded of a computation: nodes, whether this thread makes them or a graph instead, and the order of events."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from needle_core.graph.capture import Trace
    from needle_core.op import Op
    from needle_core.tensor import Tensor


order = itertools.count(1)
"""Gives nodes their places in time."""


class Mode(threading.local):
    """How ops behave in this thread.

    `grad` says whether they are recorded for differentiation. `trace` is what writes them down where nothing is computed,
    while `ndl.compile` captures a function.
    """

    grad = True
    trace: Trace | None = None


mode = Mode()


class Ended:
    """In place of the node of a tensor that a compiled function has returned: its graph stayed inside."""

    __slots__ = ()
    order = 0
    outputs = None
    inputs = None


class Symbol:
    """What a tensor has for a buffer while it is written down and not computed: the values of graphs."""

    __slots__ = ()


class Node:
    """One application of an op. Autograd walks these, and they are what a graph consists of.

    `buffers` are the inputs' buffers as they were, so that a weight that is assigned between forward and backward does not
    change a gradient. `outputs` keeps the buffers of an op that returns several tensors. `order` grows with time: inputs
    come before what is made of them. A backward pass that is through with a node sets `inputs` to None.
    """

    __slots__ = ("attrs", "buffers", "inputs", "op", "order", "outputs", "spec")

    def __init__(
        self, op: Op[..., Any], inputs: tuple[Tensor, ...], buffers: tuple[Any, ...], attrs: Mapping[str, Any], spec: Any
    ) -> None:
        self.op, self.attrs, self.spec = op, attrs, spec
        self.inputs: tuple[Tensor, ...] | None = inputs
        self.buffers: tuple[Any, ...] | None = buffers
        self.outputs: tuple[Any, ...] | None = None
        self.order = next(order)
