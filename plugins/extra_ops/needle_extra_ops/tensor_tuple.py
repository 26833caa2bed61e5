"""TensorTuple: several tensors as one value."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn, Self, SupportsIndex, overload

from needle_core import tree
from needle_core.errors import ArgumentError, BoundsError, brief
from needle_core.spec import Spec
from needle_core.tensor import Tensor


class TensorTuple(tuple[Any, ...]):
    """A tuple of tensors, or of further TensorTuples, that is added element by element.

        pair = TensorTuple([x, y])
        pair[0], pair[:1], len(pair), pair + pair, pair.detach()

    It is a tree: `ndl.grad` takes it as an argument and returns a TensorTuple of gradients, and a Module finds the Parameters
    in it. An op returns one if its front door does, of Specs.

    Raises:   ArgumentError for elements of another kind, and for + with anything but a TensorTuple of the same structure
    """

    __slots__ = ()

    def __new__(cls, tensors: Iterable[Any] = ()) -> Self:
        if isinstance(tensors, Tensor) or not isinstance(tensors, Iterable):
            raise ArgumentError(f"TensorTuple: takes a sequence of tensors, not {brief(tensors)}", hint="TensorTuple([x])")
        self = super().__new__(cls, tensors)
        for i, element in enumerate(self):
            if not isinstance(element, Tensor | TensorTuple | Spec):
                raise ArgumentError(f"TensorTuple: holds tensors and TensorTuples, but element {i} is {brief(element)}")
        return self

    @classmethod
    def _make(cls, elements: Iterable[Any]) -> Self:
        """Made of anything, as of named tuples: a tree of gradients has None where there is none."""
        return super().__new__(cls, elements)

    def detach(self) -> Self:
        """The same values, without what they were computed from."""
        detached: Self = tree.map(Tensor.detach, self)
        return detached

    @overload
    def __getitem__(self, index: SupportsIndex) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        try:
            part = super().__getitem__(index)
        except IndexError:
            raise BoundsError(f"TensorTuple: index {index} is out of range for {len(self)} elements") from None
        return self._make(part) if isinstance(index, slice) else part

    def __add__(self, other: object) -> Self:
        mine, theirs = tree.flatten(self)[1], tree.flatten(other)[1]
        if mine != theirs:
            what = theirs if isinstance(other, TensorTuple) else brief(other)
            raise ArgumentError("TensorTuple: + takes two TensorTuples of the same structure", details={"a": mine, "b": what})
        total: Self = tree.map(operator.add, self, other)
        return total

    __radd__ = __add__  # of anything else, which it refuses: a plain tuple would be joined on

    def __mul__(self, other: object) -> NoReturn:
        raise ArgumentError(
            "TensorTuple: has no product, and does not repeat like a tuple",
            hint="ndl.tree.map(lambda t: 2 * t, value) computes with every tensor",
        )

    __rmul__ = __mul__

    def __repr__(self) -> str:
        return f"TensorTuple([{', '.join(map(repr, self))}])"

    def __tree_flatten__(self) -> tuple[tuple[Any, ...], None]:
        return tuple(self), None

    @classmethod
    def __tree_unflatten__(cls, static: None, children: Sequence[Any]) -> Self:
        return cls._make(children)


def make_tuple(*tensors: Any) -> TensorTuple:
    """The TensorTuple of `tensors`, as the course writes it."""
    return TensorTuple(tensors)


def tuple_get_item(value: TensorTuple, index: SupportsIndex) -> Any:
    """`value[index]`, as the course writes it."""
    return value[index]
