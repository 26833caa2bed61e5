"""What compiled functions ask natively at each call: whether objects are the same, and buffers nobody else's."""

from __future__ import annotations

from collections import OrderedDict, deque
from types import CellType, MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from needle_cpp_backend.native import native

ABSENT = object()
A, B, C = object(), object(), object()


def holds(container: Any, content: list[Any]) -> bool:
    return bool(native.identical([[], container], [[], content], [], ABSENT, [], []))


@pytest.mark.parametrize(
    ("container", "content"),
    [
        pytest.param([A, B], [A, B], id="list"),
        pytest.param(deque([A, B]), [A, B], id="deque"),
        pytest.param({A}, [A], id="set"),
        pytest.param({"a": A, "b": B}, [A, B, "a", "b"], id="dict"),
        pytest.param(OrderedDict(a=A, b=B), [A, B, "a", "b"], id="dict of another class"),
        pytest.param({}, [], id="empty"),
    ],
)
def test_containers_hold_the_very_objects_and_no_others(container: Any, content: list[Any]) -> None:
    assert holds(container, content)
    for i in range(len(content)):
        assert not holds(container, [*content[:i], C, *content[i + 1 :]])
    for other in ([*content, C], content[1:]):
        if other != content:
            with pytest.raises(ValueError, match=r"^more or fewer$"):
                holds(container, other)


def test_equal_objects_are_not_identical() -> None:
    assert not holds([1.0], [1])
    assert not holds([float("1.5")], [float("1.5")])


@pytest.mark.parametrize("wrap", [dict, MappingProxyType])
def test_items_are_looked_up_and_may_be_absent(wrap: Any) -> None:
    mapping = wrap({"a": A})
    items = [(mapping, "a"), (mapping, "b")]
    assert native.identical([], [], items, ABSENT, [], [A, ABSENT])
    assert not native.identical([], [], items, ABSENT, [], [A, A])
    assert not native.identical([], [], items, ABSENT, [], [ABSENT, ABSENT])


def test_attributes_come_after_items_and_their_exceptions_pass_through() -> None:
    owner = SimpleNamespace(a=A)
    assert native.identical([], [], [({"b": B}, "b")], ABSENT, [(owner, "a"), (CellType(C), "cell_contents")], [B, A, C])
    assert not native.identical([], [], [({"b": B}, "b")], ABSENT, [(owner, "a")], [B, B])
    with pytest.raises(AttributeError):
        native.identical([], [], [], ABSENT, [(owner, "b")], [B])
    with pytest.raises(ValueError, match="empty"):
        native.identical([], [], [], ABSENT, [(CellType(), "cell_contents")], [B])


def test_buffers_are_alone_that_are_owned_and_nobody_else_has() -> None:
    x, y = np.zeros(3), np.zeros(4)
    few = 2 + 1  # two names at most, and the call's own reference
    assert native.alone(few, x, y)
    assert native.alone(few)
    other = [y, y]
    assert not native.alone(few, x, y)
    assert not native.alone(few, x, np.zeros((2, 3)).T)
    assert not native.alone(few, np.zeros(4)[1:])
    assert not native.alone(few, "no array")
    other.clear()
    y.flags.writeable = False
    assert not native.alone(few, x, y)
