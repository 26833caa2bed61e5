"""What is recorded of a computation: nodes, whether this thread makes them or a graph instead, and the order of events."""

from __future__ import annotations

import inspect
import itertools
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

from needle_core.errors import ArgumentError

if TYPE_CHECKING:
    from needle_core.graph.capture import Trace
    from needle_core.op import Op
    from needle_core.spec import DType
    from needle_core.tensor import Tensor

F = TypeVar("F", bound=Callable[..., Any])

order = itertools.count(1)
"""Gives nodes their places in time."""


class Mode(threading.local):
    """How ops behave in this thread.

    `grad` says whether they are recorded for differentiation, `autocast` in which dtype products compute what they would
    compute in float32. `trace` is what writes ops down where nothing is computed, while `ndl.compile` captures a function.
    """

    grad = True
    autocast: DType | None = None
    trace: Trace | None = None

    def __init__(self) -> None:  # in each thread
        self.narrowings: list[tuple[Narrowing, DType | None]] = []  # those that it is in, and what was before them


mode = Mode()

exact = True
"""False once somebody has asked for products in less than float32. To ask the mode takes 0.06 us, and a product 1.6."""


class Setting(ABC):
    """How ops behave in a block or a function, in this thread. Subclasses say how it begins and ends."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __call__(self, function: F) -> F:
        if inspect.isgeneratorfunction(function):
            name = function.__name__
            raise ArgumentError(f"{name} is a generator, whose body does not run when it is called", hint="use `with` in it")

        @wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            with type(self)(self.value):
                return function(*args, **kwargs)

        return called  # type: ignore[return-value]

    @abstractmethod
    def __enter__(self) -> None: ...

    @abstractmethod
    def __exit__(self, *exception: object) -> None: ...


class Narrowing(Setting):
    """In which dtype products compute, in a block or a function. One may be in use several times, and in several threads."""

    def __enter__(self) -> None:
        mode.narrowings.append((self, mode.autocast))
        mode.autocast = self.value

    def __exit__(self, *exception: object) -> None:
        last = max(i for i, (entered, _) in enumerate(mode.narrowings) if entered is self)
        mode.autocast = mode.narrowings.pop(last)[1]


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
