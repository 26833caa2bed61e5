"""Passes: from a graph to another that gives the same numbers with less work.

They do only what is exact in IEEE 754, NaN, infinities and the sign of zero included: a compiled function gives the numbers of
an eager one. What a kernel gives may also depend on how its operands lie in memory, since that is the order in which sums are
added up. So a view is never put in the place of a copy, except before ops that look at each element alone.

Most passes are made of rules. A rule looks at one node, whose inputs are rewritten already, and gives what stands for it: other
values, one for each output, or another node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from needle_core.errors import NeedleError
from needle_core.graph.executor import kernel_of
from needle_core.graph.graph import Constant, Graph, Node, Output, Value
from needle_core.op import OPS
from needle_core.ops import activation, elementary, elementwise
from needle_core.spec import promote
from needle_core.tensor_op import TensorOp

Found: TypeAlias = Node | Sequence[Value] | None
Rule: TypeAlias = Callable[[Node], Found]

ELEMENTWISE: Final = frozenset(name for family in (elementwise, elementary, activation) for name in family.__all__)
"""The names of elementwise ops of the core."""

FOLDED: Final = 65_536
"""Bytes up to which a constant is computed ahead; a large one costs more memory than time."""


def optimized(graph: Graph, passes: Iterable[Callable[[Graph], Graph]] | None = None) -> Graph:
    """The graph after all passes, or after those given."""
    for run in PASSES.values() if passes is None else passes:
        graph = run(graph)
    return graph


# -- passes -----------------------------------------------------------------------------------------------------------------


def without_dead_code(graph: Graph) -> Graph:
    """Only nodes that an output needs."""
    needed = set(graph.outputs)
    nodes = []
    for node in reversed(graph.nodes):
        if not needed.isdisjoint(node.outputs):
            nodes.append(node)
            needed.update(node.inputs)
    return Graph(graph.inputs, reversed(nodes), graph.outputs)


def with_constants(graph: Graph) -> Graph:
    """What depends on constants alone is computed ahead."""
    return rewritten(graph, _computed_ahead)


def narrowed_early(graph: Graph) -> Graph:
    """What is rearranged only to be cast to half precision is cast first, and the cast meets the one that it undoes.

    A weight is then cast once, however its products turn it; but an array of the host may be broadcast, and a copy of what it
    is turned to would lie in memory otherwise than a copy of it that is turned.
    """
    uses = graph.uses()
    now: dict[Value, Value] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        turns: list[Node] = []
        v = node.inputs[0] if is_narrowing(node) else None
        while v is not None and (turn := _made_by(v)) is not None and turn.op.name in _TURNING and uses[v] == 1:
            turns.append(turn)
            (v,) = turn.inputs
        if v is None or not turns or (v.spec.device.backend.host and not _is_fresh(v)):
            nodes.append(node.on([now.get(u, u) for u in node.inputs]))
            now.update(zip(node.outputs, nodes[-1].outputs, strict=True))
            continue
        nodes.append(_applied("astype", [now.get(v, v)], node.attrs, node))
        for turn in reversed(turns):
            nodes.append(_applied(turn.op.name, nodes[-1].outputs, turn.attrs, turn))
        now.update(zip(node.outputs, nodes[-1].outputs, strict=True))
    return Graph(graph.inputs, nodes, [now.get(v, v) for v in graph.outputs])


def simplified(graph: Graph) -> Graph:
    """Less arithmetic, and fewer rearrangements."""
    return rewritten(graph, _itself, _undone, _broadcast_operand, _reduced_copies, _chained)


def without_repetition(graph: Graph) -> Graph:
    """One node for all that apply the same op to the same values. Ops that are classes may do otherwise each time, and stay."""
    known: dict[Any, Node] = {}

    def repeated(node: Node) -> Found:
        if isinstance(node.op, TensorOp):
            return None
        first = known.setdefault((node.op, node.inputs, repr(node.attrs), node.spec), node)
        return None if first is node else first.outputs

    return rewritten(graph, repeated)


def with_transposed_products(graph: Graph) -> Graph:
    """Transposes of matrices become part of the products that read them, where the backend has a kernel for it."""
    return rewritten(graph, _transposed_product)


PASSES: Final[Mapping[str, Callable[[Graph], Graph]]] = {
    "dead code": without_dead_code,
    "constants": with_constants,
    "early narrowing": narrowed_early,
    "algebra and chains": simplified,
    "repetition": without_repetition,
    "transposed products": with_transposed_products,
    "what is dead now": without_dead_code,
}


def rewritten(graph: Graph, *rules: Rule) -> Graph:
    """The graph with each node replaced by what the first rule that has something for it gives, until none has."""
    now: dict[Value, Value] = {}
    nodes: list[Node] = []
    for old in graph.nodes:
        made: Node | Sequence[Value] = old
        if any(v in now for v in old.inputs):
            made = old.on([now.get(v, v) for v in old.inputs])
        while isinstance(made, Node):
            better = next((found for rule in rules if (found := rule(made)) is not None), None)
            if better is None:
                nodes.append(made)
                better = made.outputs
            made = better
        if made is not old.outputs:
            now.update(zip(old.outputs, made, strict=True))
    return Graph(graph.inputs, nodes, [now.get(v, v) for v in graph.outputs])


# -- rules ------------------------------------------------------------------------------------------------------------------


def _computed_ahead(node: Node) -> Found:
    if isinstance(node.op, TensorOp) or not all(isinstance(v, Constant) for v in node.inputs):
        return None
    if sum(y.spec.nbytes for y in node.outputs) > FOLDED:
        return None
    try:
        made = kernel_of(node)(*(v.buffer for v in node.inputs if isinstance(v, Constant)))
    except Exception:  # it is the caller's, who gets it at each call as without compilation
        return None
    return [Constant(y.spec, buffer) for y, buffer in zip(node.outputs, made if node.is_tuple else (made,), strict=True)]


_NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {
    "multiply": (1,),
    "divide": (1,),
    "pow": (1,),
    "subtract": (0.0,),
    "add": (-0.0,),
    "logical_and": (True,),
    "logical_or": (False,),
    "logical_xor": (False,),
}
"""The right operand that changes nothing; adding 0.0 would make 0.0 of -0.0."""

_COMMUTING: Final = {"multiply", "add", "logical_and", "logical_or", "logical_xor"}
_VIEWING: Final = {"reshape", "broadcast_to", "expand_as", "strided_slice"}
_TURNING: Final = {"reshape", "permute_dims"}
"""Ops that give all elements, and leave the axes in memory in the order in which they are."""
_SETTLING: Final = {"abs", "relu", "relu6", "floor", "ceil", "trunc", "round", "sign", "maximum", "minimum"}
"""Ops that give their own results back: applied twice, or to an operand and itself."""


def _itself(node: Node) -> Found:
    """An op that gives its operand back."""
    name, inputs = node.op.name, node.inputs
    if not inputs or node.is_tuple:
        return None
    x = inputs[0]
    if name in _VIEWING and x.spec is node.spec and all(step == 1 for step in node.attrs.get("step", ())):
        return [x]  # all of it, in the same order
    if name == "permute_dims" and node.attrs["axes"] == tuple(range(x.spec.ndim)):
        return [x]
    if name in _COMMUTING and _changes_nothing(name, x):
        x = inputs[1]
    elif name in _NEUTRAL:
        if not _changes_nothing(name, inputs[1]):
            return None
    elif name == "where":
        if inputs[1] is not inputs[2]:
            return None
        x = inputs[1]
    elif name in ("maximum", "minimum", "logical_and", "logical_or"):
        if inputs[0] is not inputs[1]:
            return None
    elif name not in ("astype", "positive"):
        return None
    return [x] if x.spec is node.spec and _is_fresh(x) else None


def _changes_nothing(name: str, v: Value) -> bool:
    """Whether `v` is the neutral operand of the op."""
    if not isinstance(v, Constant) or v.spec.shape:
        return False
    number = v.numpy().item()
    if name in ("add", "subtract") and v.spec.dtype.is_integer:
        return bool(number == 0)
    return repr(number) in (repr(n) for n in (*_NEUTRAL[name], *map(float, _NEUTRAL[name])))


def _undone(node: Node) -> Found:
    """An op that undoes the one before it, or has nothing left to do after itself."""
    before = _made_by(node.inputs[0]) if len(node.inputs) == 1 else None
    if before is None or before.is_tuple or len(before.inputs) != 1:
        return None
    x, name = before.inputs[0], node.op.name
    if before.op is node.op and name in _SETTLING:
        return before.outputs
    if x.spec is not node.spec or not _is_fresh(x) or before.op is not node.op:
        return None
    is_kept = name == "astype" and promote(x.spec.dtype, before.outputs[0].spec.dtype) is before.outputs[0].spec.dtype
    is_exact = x.spec.dtype.kind == before.outputs[0].spec.dtype.kind or x.spec.dtype.kind == "bool"
    return [x] if name == "negative" or (is_kept and is_exact) else None


def _broadcast_operand(node: Node) -> Found:
    """An op that broadcasts its operands needs none that was broadcast before, if another has the whole shape."""
    if not is_elementwise(node):
        return None
    whole = node.outputs[0].spec.shape
    small = [_broadcast_from(v) for v in node.inputs]
    if not any(small) or not any(v.spec.shape == whole for v, x in zip(node.inputs, small, strict=True) if x is None):
        return None
    inputs = [x or v for v, x in zip(node.inputs, small, strict=True)]
    try:
        spec, attrs = node.op.door(*(v.spec for v in inputs), **node.attrs)
    except NeedleError:  # it does not broadcast
        return None
    return Node(node.op, inputs, attrs, spec, node.source) if spec is node.spec else None


def _reduced_copies(node: Node) -> Found:
    """The largest, smallest, any or all of equal elements. Their sum is left: it would be rounded otherwise."""
    if node.op.name not in ("max", "min", "any", "all"):
        return None
    x = _broadcast_from(node.inputs[0])
    y = node.outputs[0].spec
    if x is None or x.spec.dtype is not y.dtype or x.spec.size != y.size or not _is_row_major(x):
        return None
    missing = node.inputs[0].spec.ndim - x.spec.ndim
    if any(i >= missing and x.spec.shape[i - missing] != 1 for i in node.attrs["axes"]):
        return None
    return _applied("reshape", [x], {"shape": y.shape}, node)


def _chained(node: Node) -> Found:
    """A rearrangement of a rearrangement."""
    before = _made_by(node.inputs[0]) if node.inputs else None
    if before is None or before.op is not node.op:
        return None
    x, name = before.inputs[0], node.op.name
    if name == "permute_dims":
        return _applied(name, [x], {"axes": tuple(before.attrs["axes"][i] for i in node.attrs["axes"])}, node)
    if name == "broadcast_to" or (name == "reshape" and _is_row_major(x)):
        return _applied(name, [x], node.attrs, node)
    return None


def _transposed_product(node: Node) -> Found:
    """matmul(a.T, b) and the like."""
    if node.op.name != "matmul" or min(v.spec.ndim for v in node.inputs) < 2:
        return None
    sides = [_transposed_from(v) for v in node.inputs]
    gemm = OPS["gemm"]
    if not any(sides) or gemm.kernel_for(node.spec) is None:
        return None
    attrs = {"transpose_a": sides[0] is not None, "transpose_b": sides[1] is not None}
    return _applied("gemm", [x or v for x, v in zip(sides, node.inputs, strict=True)], attrs, node)


def _applied(name: str, inputs: Sequence[Value], attrs: Mapping[str, Any], instead_of: Node) -> Node:
    """A node of the op `name` that stands for another."""
    op = OPS[name]
    spec, canonical = op.door(*(v.spec for v in inputs), **attrs)
    return Node(op, inputs, canonical, spec, instead_of.source)


def is_elementwise(node: Node) -> bool:
    """Whether each element that it gives comes from the elements at the same place, operands broadcast: an op of the core."""
    return node.op.name in ELEMENTWISE and OPS[node.op.name] is node.op


def is_narrowing(node: Node) -> bool:
    """Whether it casts floats to half precision."""
    return _casts_floats(node) and node.outputs[0].spec.dtype.itemsize == 2 < node.inputs[0].spec.dtype.itemsize


def is_widening(node: Node) -> bool:
    """Whether it casts floats from half precision."""
    return _casts_floats(node) and node.inputs[0].spec.dtype.itemsize == 2 < node.outputs[0].spec.dtype.itemsize


def _casts_floats(node: Node) -> bool:
    return node.op is OPS["astype"] and node.inputs[0].spec.dtype.is_floating and node.outputs[0].spec.dtype.is_floating


# -- what is known of a value -----------------------------------------------------------------------------------------------


def _made_by(v: Value) -> Node | None:
    return v.node if isinstance(v, Output) else None


def _broadcast_from(v: Value) -> Value | None:
    """What `v` is a broadcast view of."""
    node = _made_by(v)
    return node.inputs[0] if node is not None and node.op.name in ("broadcast_to", "expand_as") else None


def _transposed_from(v: Value) -> Value | None:
    """What `v` is the transposed of, its last two axes exchanged."""
    node = _made_by(v)
    if node is None or node.op.name != "permute_dims":
        return None
    n = v.spec.ndim
    return node.inputs[0] if node.attrs["axes"] == (*range(n - 2), n - 1, n - 2) else None


def _is_fresh(v: Value) -> bool:
    """Whether `v` fills memory of its own without gaps, so that a copy of it would lie in memory as it does."""
    node = _made_by(v)
    if _is_row_major(v):
        return True
    is_rounded = node is not None and node.op.is_product and v.spec.dtype.itemsize == 2  # from the sums in float32
    return node is not None and (is_rounded or is_elementwise(node)) and v.spec.dtype.is_floating


def _is_row_major(v: Value) -> bool:
    """Whether `v` is known to lie in memory row after row."""
    node = _made_by(v)
    while node is not None and node.op.name == "reshape":
        node = _made_by(node.inputs[0])
    return node is not None and node.op.name in ("matmul", "linear", "gemm") and node.outputs[0].spec.ndim == 2
