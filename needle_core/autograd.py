"""Reverse-mode differentiation over the graph of nodes.

One engine, `_pull`, walks the nodes from the newest to the oldest and asks each op's rules for the gradients of its inputs. It
does what every rule would otherwise repeat: it undoes broadcasting, skips gradients that nobody needs, adds up what arrives
along several paths, and names the op when something goes wrong. Rules are written in ops: recorded, they differentiate again.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import needle_core as ndl  # only for names that need autograd first
from needle_core import tree
from needle_core.errors import ArgumentError, GradientError, NeedleError, ShapeError, brief
from needle_core.record import Ended, Narrowing, Node, Setting, mode, order
from needle_core.spec import Spec
from needle_core.tensor import NotKept, Tensor, buffer_of, constant, tensor_of

_order_of = attrgetter("order")


class _Recording(Setting):
    """Whether ops are recorded in a block or a function, in this thread."""

    def __enter__(self) -> None:
        self.before, mode.grad = mode.grad, self.value

    def __exit__(self, *exception: object) -> None:
        mode.grad = self.before


def no_grad() -> _Recording:
    """Ops inside are not recorded: `with ndl.no_grad():`, or as a decorator `@ndl.no_grad()`. Per thread."""
    return _Recording(False)


def enable_grad() -> _Recording:
    """Ops inside are recorded, also within `no_grad`."""
    return _Recording(True)


def backward(y: Tensor, gradient: Tensor | None = None, *, retain_graph: bool = False) -> None:
    """Add the gradient of `y` to `grad` of every leaf that requires one. See `Tensor.backward`."""
    if not y.tracked:
        raise GradientError(
            "backward: nothing that this tensor was computed from requires a gradient", details={"tensor": y.spec}
        )
    if gradient is None:
        if y.size != 1:
            raise GradientError(
                "backward: only a single number has a gradient without further ado",
                details={"tensor": y.spec},
                hint="y.sum().backward(), or give the gradient of what follows: y.backward(gradient)",
            )
        gradient = constant(1, y.spec.dtype, y.spec.device) if not y.spec.shape else ndl.ops.ones_like(y)
    elif not isinstance(gradient, Tensor):
        gradient = Tensor(gradient, dtype=y.spec.dtype, device=y.spec.device)
    if gradient.spec is not y.spec:
        raise ShapeError(
            "backward: the gradient must be like the tensor", details={"tensor": y.spec, "gradient": gradient.spec}
        )
    before, mode.grad = mode.grad, False
    half, mode.autocast = mode.autocast, None  # each gradient in the dtype in which its op has computed
    try:
        pulled = _pull([y], [gradient], None, 0, retain_graph=retain_graph)
        trace = mode.trace
        for leaf, g in pulled:
            if leaf._grad is None and trace is None:
                leaf._grad = tensor_of(g.spec, g.buffer)  # as below, in 0.2 us less
                continue
            if (leaf._grad if trace is None else trace.gradient(leaf)) is NotKept:
                continue  # a sum with it is not known either; whoever reads it is told
            before_it = leaf.grad
            if before_it is not None and before_it.spec is not leaf.spec:
                raise GradientError(
                    "backward: a leaf has a gradient that is not like it", details={"leaf": leaf.spec, "grad": before_it.spec}
                )
            leaf.grad = tensor_of(g.spec, buffer_of(g)) if before_it is None else before_it + g
    finally:
        mode.grad, mode.autocast = before, half


def vjp(f: Callable[..., Any], *args: Any) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    """The value of `f(*args)` and its pullback, which maps a tree like the value to gradients like `args`.

    `args` and the value are trees of tensors; leaves that are not floating tensors get the gradient None. The pullback can be
    called several times, and what it returns differentiates again.
    """
    start = next(order)  # nodes made before have nothing to do with the targets
    leaves, structure = tree.flatten(args)
    targets = [_alias(x) if isinstance(x, Tensor) and x.spec.dtype.is_floating else None for x in leaves]
    with enable_grad():
        value = f(*tree.unflatten(structure, [x if t is None else t for x, t in zip(leaves, targets, strict=True)]))
    outputs, shape = tree.flatten(value)
    wanted = [t for t in targets if t is not None]
    tracked = [y for y in outputs if isinstance(y, Tensor) and y.tracked]
    open_ended = mode.grad and _leads_elsewhere(tracked, wanted, start)  # else no one can ask for gradients of these gradients

    def pullback(cotangents: Any) -> tuple[Any, ...]:
        gs, given = tree.flatten(cotangents)
        if given != shape:
            raise ArgumentError(
                "vjp: the cotangents are not a tree like the value", details={"value": shape, "cotangents": given}
            )
        pairs = [(y, g) for y, g in zip(outputs, gs, strict=True) if isinstance(y, Tensor) and y.tracked]
        for y, g in pairs:
            if not isinstance(g, Tensor) or g.spec is not y.spec:
                g = g.spec if isinstance(g, Tensor) else brief(g)
                raise ShapeError("vjp: a cotangent must be like its value", details={"value": y.spec, "cotangent": g})
        with _Recording(mode.grad and (open_ended or any(g.tracked for _, g in pairs))), Narrowing(None):
            found = {id(t): g for t, g in _pull([y for y, _ in pairs], [g for _, g in pairs], wanted, start, retain_graph=True)}
        result: tuple[Any, ...] = tree.unflatten(
            structure, [None if t is None else found[id(t)] if id(t) in found else ndl.ops.zeros_like(t) for t in targets]
        )
        return result

    if not open_ended:
        value = tree.unflatten(shape, [y.detach() if isinstance(y, Tensor) else y for y in outputs])
    return value, pullback


def value_and_grad(f: Callable[..., Any], argnums: int | Sequence[int] = 0, *, has_aux: bool = False) -> Callable[..., Any]:
    """A function like `f` that returns `(f(...), gradient)`, the gradient a tree like the argument at `argnums`.

    Several `argnums` give a tuple of gradients. With `has_aux`, `f` returns `(value, aux)` and the new function
    `((value, aux), gradient)`. The value is a single number.
    """
    numbers = (argnums,) if isinstance(argnums, int) else tuple(argnums)

    def differentiated(*args: Any, **kwargs: Any) -> Any:
        if any(not -len(args) <= n < len(args) for n in numbers) or len({n % len(args) for n in numbers}) < len(numbers):
            raise ArgumentError(f"grad: argnums {argnums} do not name different ones of {len(args)} positional arguments")
        aux: Any = None

        def of_chosen(*chosen: Any) -> Any:
            nonlocal aux
            full = list(args)
            for n, c in zip(numbers, chosen, strict=True):
                full[n] = c
            value = f(*full, **kwargs)
            if has_aux:
                if not isinstance(value, tuple) or len(value) != 2:
                    raise GradientError(
                        "grad: with has_aux the function must return (value, aux)", details={"returned": brief(value)}
                    )
                value, aux = value
            return value

        value, pullback = vjp(of_chosen, *(args[n] for n in numbers))
        if not isinstance(value, Tensor) or value.size != 1:
            what = value.spec if isinstance(value, Tensor) else type(value).__name__
            raise GradientError("grad: the function must return a single number", details={"returned": what})
        gradients = pullback(ndl.ops.ones_like(value))
        return (value, aux) if has_aux else value, gradients[0] if isinstance(argnums, int) else gradients

    return differentiated


def grad(f: Callable[..., Any], argnums: int | Sequence[int] = 0) -> Callable[..., Any]:
    """A function that returns the gradient of `f`, a function to a single number. It differentiates again: `grad(grad(f))`."""
    both = value_and_grad(f, argnums)
    return lambda *args, **kwargs: both(*args, **kwargs)[1]


def pull_through(
    body: Callable[..., Any], g: Any, inputs: tuple[Tensor, ...], attrs: Mapping[str, Any], needed: list[bool]
) -> list[Tensor | None]:
    """The gradients of a composite that has no rule of its own: run its body again, recorded, and pull `g` through it."""
    start = next(order)
    targets = [_alias(x) if n else x.detach() for x, n in zip(inputs, needed, strict=True)]
    with enable_grad():
        value = body(*targets, **attrs)
    ys, gs = (list(value), list(g)) if isinstance(value, tuple) else ([value], [g])
    pairs = [(y, c) for y, c in zip(ys, gs, strict=True) if y.tracked]
    wanted = [t for t, n in zip(targets, needed, strict=True) if n]
    found = {id(t): c for t, c in _pull([y for y, _ in pairs], [c for _, c in pairs], wanted, start, retain_graph=True)}
    return [found.get(id(t)) for t in targets]


def _leads_elsewhere(outputs: Sequence[Tensor], private: Sequence[Tensor], start: int) -> bool:
    """Whether a leaf other than the `private` ones, or a node from before `start`, is behind `outputs`."""
    own = set(map(id, private))
    inputs = itertools.chain(outputs, *(node.inputs or () for node in _reachable(outputs, start)))
    return any(t.tracked and id(t) not in own and (t.node is None or t.node.order < start) for t in inputs)


def _alias(x: Tensor) -> Tensor:
    """A tensor of the same value to differentiate by: x may occur elsewhere in the function. It leads back to x's own graph."""
    if x.tracked and mode.grad:
        return +x
    t = tensor_of(x.spec, buffer_of(x))
    t.tracked = True
    return t


def _pull(
    outputs: Sequence[Tensor], cotangents: Sequence[Tensor], targets: Sequence[Tensor] | None, start: int, *, retain_graph: bool
) -> list[tuple[Tensor, Tensor]]:
    """Pairs (tensor, gradient) for the targets, or for all leaves that require a gradient if `targets` is None.

    Nodes of an order below `start` are left alone: none of them leads to a target.
    """
    made_by = _reachable(outputs, start)
    nodes = sorted(made_by, key=_order_of, reverse=True)
    ends = set() if targets is None else set(map(_place, targets))
    live = None if targets is None else _live(ends, nodes)
    arrived: dict[Any, Any] = {}  # place -> gradient so far
    for t, g in zip(outputs, cotangents, strict=True):
        _arrive(arrived, t, g)
    for node in nodes:
        g = _collect(arrived, node, ends) if ends or node.outputs is not None else arrived.pop(node, None)
        if g is None or (live is not None and node not in live):
            continue
        inputs: tuple[Tensor, ...] = node.inputs  # type: ignore[assignment]  # _reachable has checked
        values = inputs
        buffers: tuple[Any, ...] = node.buffers  # type: ignore[assignment]
        i = 0  # counted by hand, here and below: enumerate and zip take a twentieth of a backward pass
        for t in inputs:
            if t.buffer is not buffers[i]:  # assigned since: the gradient is that of then
                values = (*map(_as_it_was, inputs, buffers),)
                break
            i += 1  # noqa: SIM113
        y: Any = made_by[node] if node.outputs is None else tuple(_output(node, i) for i in range(len(node.outputs)))
        op, attrs, rules = node.op, node.attrs, node.op.rules
        try:
            if rules is not None:
                i = 0
                for t in inputs:
                    rule = rules[i]
                    i += 1  # noqa: SIM113
                    if rule is not None and t.tracked and (live is None or _leads(t, live)):
                        _arrive(arrived, t, rule(g, y, *values, **attrs) if attrs else rule(g, y, *values))
            elif any(needed := [t.tracked and (live is None or _leads(t, live)) for t in inputs]):
                for i, gradient in enumerate(_joint(node, g, y, values, needed)):
                    if needed[i] and gradient is not None:
                        _arrive(arrived, inputs[i], gradient)
        except NeedleError as error:
            raise error.located(f"gradient of {op.name}", op.describe(inputs)) from error.__cause__
        if not retain_graph:
            node.inputs = node.buffers = node.outputs = None
    if targets is None:
        return list(arrived.items())
    return [(t, arrived[_place(t)]) for t in targets if _place(t) in arrived]


def _place(t: Tensor) -> Any:
    """Where the gradients for `t` are added up: a leaf, the node that made it, or one output of a node with several."""
    node = t.node
    return t if node is None else node if node.outputs is None else (node, t.index)


def _arrive(arrived: dict[Any, Tensor], t: Tensor, g: Any) -> None:
    """Add `g`, which a rule gave for `t`, to what has arrived there."""
    if g.__class__ is not Tensor or g.spec is not t.spec:
        g = _unbroadcast(g, t.spec)
    node = t.node
    place = t if node is None else node if node.outputs is None else (node, t.index)
    arrived[place] = arrived[place] + g if place in arrived else g


def _collect(arrived: dict[Any, Tensor], node: Node, ends: set[Any]) -> Any:
    """The gradient that has arrived at a node, a tuple if it has several outputs; None if none has. Targets keep theirs."""
    if node.outputs is None:
        return arrived.get(node) if node in ends else arrived.pop(node, None)
    places = [(node, i) for i in range(len(node.outputs))]
    parts = [arrived.get(p) if p in ends else arrived.pop(p, None) for p in places]
    if all(part is None for part in parts):
        return None
    return tuple(ndl.ops.zeros_like(_output(node, i)) if part is None else part for i, part in enumerate(parts))


def _reachable(outputs: Sequence[Tensor], start: int) -> dict[Node, Tensor]:
    """The nodes behind `outputs` of at least the order `start`, each with a tensor that it made."""
    found: dict[Node, Tensor] = {}
    stack = list(outputs)
    while stack:
        t = stack.pop()
        node = t.node
        if node is None or node in found or node.order < start:
            continue
        found[node] = t
        if node.inputs is None:
            if isinstance(node, Ended):
                raise GradientError(
                    "a compiled function has returned this tensor, and its graph stayed inside",
                    details={"tensor": t.spec},
                    hint="call backward() in the compiled function",
                )
            raise GradientError(
                "the graph behind this tensor has been freed by an earlier backward()",
                details={"op": node.op.name, "output": node.spec},
                hint="backward(retain_graph=True) keeps it",
            )
        for t in node.inputs:
            if t.node is not None:
                stack.append(t)
    return found


def _live(ends: set[Any], nodes: Sequence[Node]) -> set[Any]:
    """`ends`, and the nodes through which a gradient must pass on its way to one of them."""
    live = set(ends)
    for node in reversed(nodes):
        if any(_leads(t, live) for t in node.inputs or ()):
            live.add(node)
    return live


def _leads(t: Tensor, live: set[Any]) -> bool:
    """Whether a gradient for `t` is wanted, there or further on."""
    return _place(t) in live or t.node in live


def _joint(node: Node, g: Any, y: Any, values: tuple[Tensor, ...], needed: list[bool]) -> Sequence[Any]:
    """What a rule that is one for all inputs gives for them."""
    gradients = node.op.pullback(g, y, values, node.attrs, needed)
    if not isinstance(gradients, tuple | list) or len(gradients) != len(values):
        given = f"{len(gradients)} gradients" if isinstance(gradients, tuple | list) else brief(gradients)
        raise GradientError(f"the rule returned {given} for {len(values)} inputs")
    return gradients


def _as_it_was(t: Tensor, buffer: Any) -> Tensor:
    """`t` with the value that it had when its buffer was `buffer`."""
    if buffer_of(t) is buffer:
        return t
    then = tensor_of(t.spec, buffer)
    if t.tracked:  # gradients of gradients still lead to the tensor itself
        then.node, then.tracked = Node(ndl.ops.positive, (t,), (buffer,), {}, t.spec), True
    return then


def _output(node: Node, index: int) -> Tensor:
    assert node.outputs is not None
    y = tensor_of(node.spec[index], node.outputs[index])
    if node.spec[index].dtype.is_floating:
        y.node, y.index, y.tracked = node, index, True
    return y


def _unbroadcast(g: Any, spec: Spec) -> Tensor:
    """Sum the gradient `g` over the axes along which a tensor of `spec` was broadcast."""
    if not isinstance(g, Tensor):
        raise GradientError(f"the rule returned {brief(g)}, not a tensor")
    if g.spec.dtype is not spec.dtype or g.spec.device is not spec.device:
        raise GradientError("the rule returned another dtype or device", details={"input": spec, "gradient": g.spec})
    given = g.spec
    extra = len(g.shape) - len(spec.shape)
    stretched = [i + extra for i, n in enumerate(spec.shape) if extra >= 0 and n == 1 and g.shape[i + extra] != 1]
    if extra > 0 or stretched:
        g = g.sum(axis=(*range(extra), *stretched), keepdims=bool(stretched))
    if stretched and extra > 0:
        g = g.reshape(g.shape[extra:])
    if g.spec is not spec:
        raise GradientError("the rule returned another shape", details={"input": spec, "gradient": given})
    summed: Tensor = g
    return summed
