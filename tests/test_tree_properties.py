"""Trees: taken apart and put together again they are the same, whatever they are made of."""

from __future__ import annotations

import copy
import pickle
from collections import namedtuple
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from needle_core import tree
from needle_core.errors import ArgumentError

Pair = namedtuple("Pair", ["left", "right"])  # noqa: PYI024

leaves = st.integers() | st.text(max_size=3) | st.floats(allow_nan=False)
keys = st.text(max_size=3) | st.integers(-3, 3)
trees = st.recursive(
    leaves | st.none(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=3)
        | st.builds(Pair, inner, inner)
    ),
    max_leaves=12,
)


def count(value: Any) -> int:
    """The leaves of a tree, counted independently."""
    if value is None:
        return 0
    if isinstance(value, dict):
        return sum(map(count, value.values()))
    return sum(map(count, value)) if isinstance(value, list | tuple) else 1


def same(a: Any, b: Any) -> bool:
    """Equal, of the same types all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return len(a) == len(b) and all(map(same, a, b)) if isinstance(a, list | tuple) else bool(a == b)


@settings(deadline=None)
@given(trees)
def test_round_trip(value: Any) -> None:
    found, structure = tree.flatten(value)
    assert len(found) == count(value)
    assert same(tree.unflatten(structure, found), value)


@settings(deadline=None)
@given(trees)
def test_a_structure_equals_that_of_a_copy_with_other_leaves(value: Any) -> None:
    _, structure = tree.flatten(value)
    other = tree.map(lambda leaf: (leaf, "new")[1], copy.deepcopy(value))
    assert tree.flatten(other)[1] == structure
    assert pickle.loads(pickle.dumps(structure)) == structure


@settings(deadline=None)
@given(st.dictionaries(keys, leaves, min_size=2, max_size=4))
def test_the_order_of_insertion_is_no_structure(value: dict[Any, Any]) -> None:
    turned = dict(reversed(value.items()))
    assert tree.flatten(turned) == tree.flatten(value)


@settings(deadline=None)
@given(trees)
def test_the_number_of_leaves_is_checked(value: Any) -> None:
    found, structure = tree.flatten(value)
    with pytest.raises(ArgumentError, match="1 leaves too many"):
        tree.unflatten(structure, [*found, 0])
    if found:
        with pytest.raises(ArgumentError, match="too few leaves"):
            tree.unflatten(structure, found[:-1])


@settings(deadline=None)
@given(trees, trees)
def test_map_visits_corresponding_leaves_and_refuses_other_structures(a: Any, b: Any) -> None:
    doubled = tree.map(lambda x, y: (x, y), a, a)
    assert tree.flatten(tree.map(lambda leaf: [leaf], tree.map(str, a)))[0] == list(map(str, tree.flatten(a)[0]))
    assert count(doubled) == 2 * count(a)
    if tree.flatten(a)[1] != tree.flatten(b)[1]:
        with pytest.raises(ArgumentError, match="differ in structure"):
            tree.map(lambda x, y: x, a, b)
