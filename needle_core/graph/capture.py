"""Running a function without computing: what it would compute is written down as a graph.

While a thread has a `Trace`, ops make nodes, and the tensors that they give have values of the graph for buffers. Tensors from
outside are left alone: the trace keeps what they would be, so that an exception loses nothing and other threads see nothing.
At the end the trace knows which tensors were read, which were assigned, and what was returned.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from needle_core import tree
from needle_core.errors import CompileError, NeedleError, brief
from needle_core.graph.graph import Constant, Graph, Input, Node, Value
from needle_core.nn.module import Module
from needle_core.op import nothing_remembered
from needle_core.record import mode
from needle_core.spec import Spec
from needle_core.tensor import NotKept, Number, Tensor, leaked, tensor_of
from needle_core.tensor_op import TensorOp

if TYPE_CHECKING:
    from needle_core.op import Op


class Place(NamedTuple):
    """Where a buffer comes from or goes to: an argument by its number, or a tensor from outside; its value or its gradient."""

    of: int | Tensor
    what: Literal["value", "gradient"] = "value"


class Made(NamedTuple):
    """A tensor among the results that the function has made, and which output of the graph it is."""

    output: int
    tracked: bool


@dataclass(frozen=True)
class Captured:
    """What a function does, as far as it concerns tensors.

    The inputs of the graph are the values of the arguments, each once, those of the tensors `state`, and `gradients_read`. Its
    outputs are the results first, then what goes to `targets`.
    `results` has for each leaf of the returned tree `structure` what it is: Made, a Place (that very tensor), or a plain value.
    `gradients` are the places whose gradient was set, and whether to None. `conditions` are the gradients that were there
    before and were looked at, each with its spec, None for none, or NotKept.
    """

    graph: Graph
    state: tuple[Tensor, ...]
    gradients_read: tuple[Place, ...]
    targets: tuple[Place, ...]
    structure: tree.Structure
    results: tuple[Any, ...]
    gradients: tuple[tuple[Place, bool], ...]
    conditions: tuple[tuple[Place, Spec | type[NotKept] | None], ...]


class _Entry:
    """A tensor from outside, as the function sees it: the value that it has now."""

    __slots__ = ("input", "place", "tensor", "value")

    def __init__(self, tensor: Tensor, place: Place, given: Input) -> None:
        self.tensor, self.place, self.input = tensor, place, given
        self.value: Value = given


class _Gradient:
    """The gradient of a tensor from outside: what it was, and what it is now."""

    __slots__ = ("now", "place", "was", "was_read")

    def __init__(self, place: Place, was: Tensor | type[NotKept] | None, *, was_read: bool) -> None:
        self.place, self.was, self.now, self.was_read = place, was, was, was_read


class Trace:
    """What a thread has written down so far."""

    def __init__(self, arguments: Sequence[Tensor]) -> None:
        self.nodes: list[Node] = []
        self._values: set[Value] = set()
        self._entries: dict[int, _Entry] = {}  # by id of the tensor, which the entry keeps alive
        self._gradients: dict[int, _Gradient] = {}
        self._constants: dict[int, Constant] = {}  # by id of the buffer, which the constant keeps alive
        self._inputs: list[tuple[Input, Place]] = []
        self._given = arguments
        first: dict[int, Tensor] = {}
        for i, x in enumerate(arguments):
            if id(x) not in first:  # else one tensor is given twice
                first[id(x)] = self._placeholder(i, x)
        self.placeholders = [first[id(x)] for x in arguments]

    def _placeholder(self, i: int, x: Tensor) -> Tensor:
        """What the function gets in place of an argument: a leaf of the same class."""
        t = object.__new__(type(x))
        t.spec, t.buffer, t.node, t.index, t._grad, t.tracked = x.spec, self._input(x.spec, Place(i)), None, 0, None, x.tracked
        self._entries[id(t)] = _Entry(t, Place(i), t.buffer)
        return t

    def _input(self, spec: Spec, place: Place) -> Input:
        number = sum(place.what == p.what and isinstance(p.of, int) is isinstance(place.of, int) for _, p in self._inputs)
        kind = "x" if isinstance(place.of, int) else "s" if place.what == "value" else "g"
        made = Input(spec, f"{kind}{number}")
        self._inputs.append((made, place))
        self._values.add(made)
        return made

    # -- what tensors and ops ask -------------------------------------------------------------------------------------------

    def read(self, t: Tensor) -> Value:
        """The value of `t` now."""
        entry = self._entries.get(id(t))
        if entry is not None:
            return entry.value
        buffer = t.buffer
        if isinstance(buffer, Value):
            if buffer not in self._values:
                raise leaked(t)
            return buffer
        return self._enter(t).value

    def _enter(self, t: Tensor) -> _Entry:
        """Take up a tensor from outside."""
        if t.node is not None and t.tracked and mode.grad:
            raise CompileError(
                "a tensor from outside has a graph behind it, through which gradients would have to flow",
                details={"tensor": t.spec, "line": user_line()},
                hint="x.detach(), or compute it inside",
            )
        entry = self._entries[id(t)] = _Entry(t, Place(t), self._input(t.spec, Place(t)))
        return entry

    def assign(self, t: Tensor, value: Value) -> None:
        """Put `value` in the place of what `t` has."""
        if isinstance(t.buffer, Value) and id(t) not in self._entries:
            t.buffer = value
        else:
            (self._entries.get(id(t)) or self._enter(t)).value = value

    def add(
        self, op: Op[..., Any], inputs: tuple[Value, ...], attrs: Mapping[str, Any], spec: Spec | tuple[Spec, ...]
    ) -> tuple[Value, ...]:
        """The outputs of a new node."""
        node = Node(op, inputs, attrs, spec, user_line())
        self.nodes.append(node)
        self._values.update(node.outputs)
        return node.outputs

    def constant(self, spec: Spec, buffer: Any, number: Number | None = None) -> Constant:
        """The value of a buffer that was made of numbers while the function ran."""
        made = self._constants.get(id(buffer))
        if made is None:
            made = self._constants[id(buffer)] = Constant(spec, buffer, number)
            self._values.add(made)
        return made

    def number(self, kept: Tensor, number: Number) -> Tensor:
        """The tensor of a Python number that met tensors."""
        return tensor_of(kept.spec, self.constant(kept.spec, kept.buffer, number))

    def known(self, t: Tensor) -> Any:
        """The buffer of `t` if it is a constant. Raises CompileError if its numbers would be those of one call."""
        value = self.read(t)
        if isinstance(value, Constant):
            return value.buffer
        raise CompileError(
            "a compiled function has no numbers to look at: it is captured once, without computing",
            details={"tensor": t.spec, "line": user_line()},
            hint="ndl.where(condition, a, b) chooses between tensors; return the tensor to look at it after the call",
        )

    def gradient(self, t: Tensor) -> Tensor | type[NotKept] | None:
        """`t.grad`, as the function sees it; or that it was not kept."""
        entry = self._entries.get(id(t))
        if entry is None and isinstance(t.buffer, Value):
            return t._grad
        known = self._gradients.get(id(t))
        if known is None:
            place = (entry or self._enter(t)).place
            owner = self._given[place.of] if isinstance(place.of, int) else place.of
            was = owner._grad
            if isinstance(was, Tensor):
                was = tensor_of(was.spec, self._input(was.spec, Place(place.of, "gradient")))
            known = self._gradients[id(t)] = _Gradient(Place(place.of, "gradient"), was, was_read=True)
        return known.now

    def set_gradient(self, t: Tensor, g: Tensor | None) -> None:
        """Assign `t.grad`."""
        entry = self._entries.get(id(t))
        if entry is None and isinstance(t.buffer, Value):
            t._grad = g
            return
        known = self._gradients.get(id(t))
        if known is None:
            place = (entry or self._enter(t)).place
            known = self._gradients[id(t)] = _Gradient(Place(place.of, "gradient"), None, was_read=False)
        known.now = g

    # -- the end ------------------------------------------------------------------------------------------------------------

    def finish(self, result: Any, *, keep_grads: bool) -> Captured:
        """What was captured, where the function has returned `result`."""
        leaves, structure = tree.flatten(result, whole=self._is_from_outside)
        outputs: list[Value] = []
        places: dict[int, int] = {}
        results: list[Any] = []
        for leaf in leaves:
            entry = self._entries.get(id(leaf))
            if not isinstance(leaf, Tensor):
                results.append(leaf)
            elif entry is not None:
                results.append(entry.place)
            elif not isinstance(leaf.buffer, Value):
                results.append(Place(leaf))
            else:
                if id(leaf) not in places:
                    places[id(leaf)] = len(outputs)
                    outputs.append(self.read(leaf))
                results.append(Made(places[id(leaf)], leaf.tracked))
        assigned = [e for e in self._entries.values() if e.value is not e.input]
        changed = [g for g in self._gradients.values() if g.now is not g.was or not g.was_read]
        looked_at = [g for g in self._gradients.values() if g.was_read]
        kept = [g for g in changed if isinstance(g.now, Tensor)] if keep_grads else []
        outputs += [e.value for e in assigned] + [self.read(g.now) for g in kept if isinstance(g.now, Tensor)]
        targets = (*(e.place for e in assigned), *(g.place for g in kept))
        gradients = tuple((g.place, g.now is None) for g in changed if g not in kept)
        values = [(v, p) for v, p in self._inputs if p.what == "value"]
        state = [(v, p.of) for v, p in values if isinstance(p.of, Tensor)]
        read = [(v, p) for v, p in self._inputs if p.what == "gradient"]
        inputs = [*(v for v, p in values if isinstance(p.of, int)), *(v for v, _ in state), *(v for v, _ in read)]
        graph = Graph(inputs, self.nodes, outputs)
        conditions = tuple((g.place, g.was.spec if isinstance(g.was, Tensor) else g.was) for g in looked_at)
        origins = tuple(t for _, t in state), tuple(p for _, p in read)
        return Captured(graph, *origins, targets, structure, tuple(results), gradients, conditions)

    def _is_from_outside(self, value: Any) -> bool:
        """Whether it is a Module that the function has not made: none of its tensors stands for what is not computed yet."""
        if not isinstance(value, Module):
            return False
        tensors = [t for t in tree.flatten(value)[0] if isinstance(t, Tensor)]
        return all(id(t) in self._entries or not isinstance(t.buffer, Value) for t in tensors)


@contextmanager
def tracing(trace: Trace) -> Iterator[None]:
    """This thread writes down in `trace` what ops would compute."""
    with nothing_remembered(), _quiet():
        mode.trace = trace
        try:
            yield
        finally:
            mode.trace = None


def capture(
    function: Callable[..., Any],
    arguments: Sequence[Tensor],
    call: Callable[[Sequence[Tensor]], tuple[Any, Any]],
    *,
    keep_grads: bool,
) -> Captured:
    """What `function` does, given tensors like `arguments`; `call` makes args and kwargs of the tensors that stand for them."""
    grad, half = mode.grad, mode.autocast
    trace = Trace(arguments)
    args, kwargs = call(trace.placeholders)
    with tracing(trace):
        try:
            return trace.finish(function(*args, **kwargs), keep_grads=keep_grads)
        finally:
            mode.grad, mode.autocast = grad, half


class _Unprintable:
    """A stream that refuses what the capturing thread writes: it would appear at the capture and never again."""

    def __init__(self, stream: Any, thread: int) -> None:
        self._stream, self._thread = stream, thread

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        if threading.get_ident() != self._thread:
            written: int = self._stream.write(text)
            return written
        raise CompileError(
            "print inside a compiled function would print while it is captured and never again",
            details={"text": brief(text), "line": user_line()},
            hint="return the tensor and print it after the call",
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing is printed to standard output by this thread."""
    stream = sys.stdout
    sys.stdout = _Unprintable(stream, threading.get_ident())
    try:
        yield
    finally:
        sys.stdout = stream


def user_line() -> str:
    """The line outside of Needle and its plugins that led here, as `step.py:12`."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("needle_"):
        frame = frame.f_back
    return f"{frame.f_code.co_filename.replace(chr(92), '/').rpartition('/')[2]}:{frame.f_lineno}"


# -- two captures of one function -------------------------------------------------------------------------------------------


def require_same(first: Captured, second: Captured) -> None:
    """Refuse a function that does something else when it is captured again: a Python number that changes between calls."""
    numbers: dict[Value, Value] = dict(zip(first.graph.inputs, second.graph.inputs, strict=False))
    for a, b in zip(first.graph.nodes, second.graph.nodes, strict=False):
        if not _same_op(a.op, b.op) or a.source != b.source:
            raise _differs(b, f"{a.op.name} at {a.source}", f"{b.op.name} at {b.source}")
        if repr(a.attrs) != repr(b.attrs):
            raise _differs(b, str(a.attrs), str(b.attrs))
        for u, v in zip(a.inputs, b.inputs, strict=False):
            if not _agree(numbers, u, v):
                raise _differs(b, _told(u), _told(v))
        if a.spec != b.spec or len(a.inputs) != len(b.inputs):
            raise _differs(b, str(a.spec), str(b.spec))
        numbers.update(zip(a.outputs, b.outputs, strict=True))
    one, other = len(first.graph.nodes), len(second.graph.nodes)
    if one != other:
        raise _differs(max(first.graph.nodes, second.graph.nodes, key=len)[min(one, other)], f"{one} nodes", f"{other} nodes")
    plain = [[r for r in c.results if not isinstance(r, Made | Place)] for c in (first, second)]
    same = [_agree(numbers, u, v) for u, v in zip(first.graph.outputs, second.graph.outputs, strict=False)]
    if not all(same) or _identities(first) != _identities(second) or repr(plain[0]) != repr(plain[1]):
        raise CompileError(
            "the function was captured twice, and returned or assigned something else the second time",
            details={"first": plain[0], "second": plain[1]},
            hint="what changes from call to call must be a tensor",
        )


def _same_op(a: Op[..., Any], b: Op[..., Any]) -> bool:
    """Whether two ops are one, or ops of a class made anew at each call, of the same fields."""
    return a is b or (isinstance(a, TensorOp) and type(a) is type(b) and a.fields() == b.fields())


def _identities(captured: Captured) -> list[Any]:
    """Which tensors from outside it reads and assigns; they would compare elementwise."""
    places = [*captured.gradients_read, *captured.targets, *(p for p, _ in captured.gradients)]
    return [*map(id, captured.state), *((p.of if isinstance(p.of, int) else id(p.of), p.what) for p in places)]


def _agree(known: Mapping[Value, Value], u: Value, v: Value) -> bool:
    if isinstance(u, Constant) and isinstance(v, Constant):
        return u.spec is v.spec and (
            u.buffer is v.buffer or np.array_equal(u.numpy(), v.numpy(), equal_nan=u.spec.dtype.is_floating)
        )
    return known.get(u) is v


def _told(v: Value) -> str:
    return (v.label or brief(v.numpy().tolist())) if isinstance(v, Constant) else str(v.spec)


def _differs(node: Node, first: str, second: str) -> NeedleError:
    return CompileError(
        "the function was captured twice, and did something else the second time: a Python value that changes is part of it",
        details={"line": node.source, "first": first, "second": second},
        hint="keep what changes in a tensor: count.data = count + 1",
    ).located(node.op.name, {})
