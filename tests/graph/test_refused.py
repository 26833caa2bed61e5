"""What cannot be compiled is refused with the op, the line and the remedy, and nothing has changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core import nn
from needle_core.errors import BoundsError, CompileError, GradientError

calls = 0


@pytest.mark.parametrize(
    "look",
    [
        lambda x: x if x.sum() > 0 else -x, lambda x: x * float(x.sum()), lambda x: x.numpy(), lambda x: x.tolist(),
        lambda x: f"{x.sum():.2f}", lambda x: x[int(x.sum())],
    ],
    ids=["if", "float", "numpy", "tolist", "format", "index"],
)  # fmt: skip
def test_numbers_cannot_be_looked_at(look: Callable[[ndl.Tensor], Any]) -> None:
    with pytest.raises(CompileError, match="no numbers to look at") as caught:
        ndl.compile(look)(ndl.Tensor([1.0]))
    assert "test_refused.py:" in caught.value.details["line"]


def test_printing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CompileError, match="print inside"):
        ndl.compile(lambda x: print("a text") or x)(ndl.Tensor([1.0]))
    assert capsys.readouterr().out == ""
    print("afterwards")
    assert capsys.readouterr().out == "afterwards\n"


def count_up(x: ndl.Tensor) -> ndl.Tensor:
    global calls
    calls += 1
    return x * calls


def test_a_counter_in_python_is_refused() -> None:
    with pytest.raises(CompileError, match="runs in Python only while it is captured") as caught:
        ndl.compile(count_up)(ndl.Tensor([1.0]))
    assert "calls" in caught.value.details


def test_a_number_that_differs_at_each_call_is_refused() -> None:
    numbers = iter(range(10))
    with pytest.raises(CompileError, match="captured twice") as caught:
        ndl.compile(lambda x: x + next(numbers))(ndl.Tensor([1.0]))
    assert caught.value.details["first"] == "0"
    assert caught.value.details["second"] == "1"


def test_a_list_that_grows_is_refused() -> None:
    seen: list[Any] = []

    def f(x: ndl.Tensor) -> ndl.Tensor:
        seen.append(x * 2)
        return x

    with pytest.raises(CompileError, match="runs in Python only while it is captured"):
        ndl.compile(f)(ndl.Tensor([1.0]))
    with pytest.raises(CompileError, match="belongs to a captured computation"):
        seen[0].numpy()
    with pytest.raises(CompileError, match="belongs to a captured computation"):
        seen[0] + 1


def test_a_numpy_argument_is_refused() -> None:
    with pytest.raises(CompileError, match="NumPy array is no argument"):
        ndl.compile(lambda x: ndl.Tensor(x))(np.ones(3))


def test_a_graph_from_outside_is_refused() -> None:
    w = nn.Parameter([2.0])
    with pytest.raises(CompileError, match="graph behind it"):
        ndl.compile(lambda x: x * 2)(w * 3)
    y = w * 3
    with pytest.raises(CompileError, match="graph behind it"):
        ndl.compile(lambda: y * 2)()


def test_a_graph_does_not_come_out() -> None:
    w = nn.Parameter([2.0])
    y = ndl.compile(lambda: (w * w).sum())()
    assert y.requires_grad
    with pytest.raises(GradientError, match="its graph stayed inside"):
        y.backward()


def test_an_argument_that_is_also_read_from_outside_is_refused_where_tensors_are_assigned() -> None:
    total = ndl.Tensor([0.0])

    @ndl.compile
    def add(x: ndl.Tensor) -> None:
        total.data = total + x

    add(ndl.Tensor([1.0]))
    with pytest.raises(CompileError, match="also a tensor that the compiled function reads"):
        add(total)
    assert total.item() == 1.0


def test_an_exception_in_the_middle_changes_nothing() -> None:
    w = nn.Parameter([1.0])

    def f(x: ndl.Tensor) -> None:
        w.data = w + x
        (w * x).sum().backward()
        raise ZeroDivisionError

    compiled = ndl.compile(f)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            compiled(ndl.Tensor([1.0]))
    assert w.item() == 1.0
    assert w.grad is None
    assert (w + 1).item() == 2.0


def test_an_index_out_of_range_is_told_as_in_eager_calls_and_assigns_nothing() -> None:
    table, seen = ndl.Tensor([1.0, 2.0]), ndl.Tensor(0)

    @ndl.compile
    def f(i: ndl.Tensor) -> ndl.Tensor:
        seen.data = seen + 1
        return ndl.take(table, i, axis=0)

    assert f(ndl.Tensor([1])).tolist() == [2.0]
    with pytest.raises(BoundsError, match="take: ") as caught:
        f(ndl.Tensor([7]))
    assert "test_refused.py:" in caught.value.details["line"]
    assert seen.item() == 1
