"""Trees of tensors: nested lists, tuples, dicts and Modules, with tensors (or anything else) as leaves.

`flatten` takes a tree apart into its leaves and its structure, `unflatten` puts it together again. Any class joins by two
methods: `__tree_flatten__(self) -> (children, static)`, where `static` compares equal for equal structure, and the classmethod
`__tree_unflatten__(cls, static, children)`. None is a tree without leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from needle_core.errors import ArgumentError


class Structure(NamedTuple):
    """A tree without its leaves: the kind of container, what is fixed in it, and its children; `kind` None is a leaf."""

    kind: type | None
    static: Any = None
    children: tuple[Structure, ...] = ()

    def __str__(self) -> str:
        if self.kind is None:
            return "*"
        inside = ", ".join(str(c) for c in self.children)
        return {list: f"[{inside}]", tuple: f"({inside})", type(None): "None"}.get(self.kind, f"{self.kind.__name__}({inside})")


LEAF = Structure(None)


def flatten(value: Any, *, whole: Callable[[Any], bool] | None = None) -> tuple[list[Any], Structure]:
    """The leaves of a tree, from left to right, and its structure. What `whole` says True of is a leaf, whatever is in it."""
    leaves: list[Any] = []
    return leaves, _flatten(value, leaves, whole)


def _flatten(value: Any, leaves: list[Any], whole: Callable[[Any], bool] | None) -> Structure:
    kind = type(value)
    if whole is not None and whole(value):
        leaves.append(value)
        return LEAF
    if value is None:
        return Structure(kind)
    if kind is dict:
        keys = tuple(sorted(value, key=lambda k: (str(k), type(k).__name__)))  # the order of insertion is no structure
        return Structure(kind, keys, tuple(_flatten(value[k], leaves, whole) for k in keys))
    if kind in (list, tuple) or (isinstance(value, tuple) and hasattr(value, "_fields")):
        return Structure(kind, None, tuple(_flatten(v, leaves, whole) for v in value))
    if hasattr(kind, "__tree_flatten__"):
        children, static = value.__tree_flatten__()
        return Structure(kind, static, tuple(_flatten(c, leaves, whole) for c in children))
    leaves.append(value)
    return LEAF


def unflatten(structure: Structure, leaves: Sequence[Any]) -> Any:
    """The tree of this structure with these leaves. Raises ArgumentError if there are too few or too many."""
    rest = iter(leaves)
    try:
        value = _unflatten(structure, rest)
    except StopIteration:
        raise ArgumentError(f"too few leaves for the tree {structure}: {len(leaves)}") from None
    if (left := sum(1 for _ in rest)) > 0:
        raise ArgumentError(f"{left} leaves too many for the tree {structure}")
    return value


def _unflatten(structure: Structure, leaves: Iterator[Any]) -> Any:
    kind = structure.kind
    if kind is None:
        return next(leaves)
    if kind is type(None):
        return None
    children = [_unflatten(c, leaves) for c in structure.children]
    if kind is dict:
        return dict(zip(structure.static, children, strict=True))
    if hasattr(kind, "_fields"):
        return kind(*children)
    if hasattr(kind, "__tree_unflatten__"):
        return kind.__tree_unflatten__(structure.static, children)
    return kind(children)


def map(f: Callable[..., Any], first: Any, *others: Any) -> Any:
    """`f` of corresponding leaves of trees of one structure, in a tree of that structure."""
    leaves, structure = flatten(first)
    columns = [leaves]
    for other in others:
        more, theirs = flatten(other)
        if theirs != structure:
            raise ArgumentError("the trees differ in structure", details={"first": structure, "other": theirs})
        columns.append(more)
    return unflatten(structure, [f(*row) for row in zip(*columns, strict=True)])
