"""Backward: what arrives where, what is freed, and what is recorded.

Expected gradients are worked out by hand. Values of ops and their gradients have tests of their own, by family.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core import Tensor, composite
from needle_core.doors import elementwise
from needle_core.errors import ArgumentError, GradientError, MissingGradientError, NeedleError, ShapeError
from tests.devices import fallback
from tests.leaves import gradient, leaf

__all__ = ["fallback"]

HERE = ndl.default_device()

# -- backward -------------------------------------------------------------------------------------------------------------


def test_gradient_is_like_its_leaf_and_has_no_graph() -> None:
    x = leaf([[1, 2], [3, 4]])
    (x * x).sum().backward()
    assert gradient(x) == [[2, 4], [6, 8]]
    assert x.grad is not None
    assert x.grad.spec is x.spec
    assert x.grad.is_leaf
    assert not x.grad.requires_grad


def test_gradient_of_a_leaf_by_itself_is_one() -> None:
    x = leaf(2)
    x.backward()
    assert gradient(x) == 1


def test_gradients_accumulate_over_calls() -> None:
    x = leaf(3)
    for _ in range(2):
        (x * x).backward()
    assert gradient(x) == 12


def test_gradients_add_up_over_paths() -> None:
    x = leaf(3)
    shared = x * x
    (shared * shared + shared + x).backward()  # x^4 + x^2 + x
    assert gradient(x) == 4 * 27 + 6 + 1


def test_tensor_passed_twice_gets_both_gradients() -> None:
    x = leaf([1, 2])
    (x / x + x @ x).sum().backward()
    assert gradient(x) == [4, 8]  # d(x/x) = 0; x @ x is added twice by broadcasting


@pytest.mark.parametrize("retain_graph", [False, True])
def test_diamonds_are_walked_once(retain_graph: bool) -> None:
    x = leaf(1)
    y = x
    for _ in range(60):  # 2^60 paths
        y = y + y
    y.backward(retain_graph=retain_graph)
    assert gradient(x) == 2.0**60


@pytest.mark.parametrize(
    ("a", "b", "by_a", "by_b"),
    [
        ([[1, 2, 3], [4, 5, 6]], [10, 20, 30], [[10, 20, 30], [10, 20, 30]], [5, 7, 9]),
        ([[1], [2]], [[10, 20, 30]], [[60], [60]], [[3, 3, 3]]),
        (2, [1, 2, 3], 6, [2, 2, 2]),
        ([[[2]]], [1, 2, 3], [[[6]]], [2, 2, 2]),
        ([[1, 2]], [[3, 4]], [[3, 4]], [[1, 2]]),
        ([[[1, 2]]], [[5], [6]], [[[11, 11]]], [[3], [3]]),
        (np.zeros((0, 3)), [1, 2, 3], np.zeros((0, 3)), [0, 0, 0]),
    ],
)
def test_broadcasting_is_undone(a: Any, b: Any, by_a: Any, by_b: Any) -> None:
    x, y = leaf(a), leaf(b)
    (x * y).sum().backward()
    assert (gradient(x), gradient(y)) == (np.asarray(by_a).tolist(), by_b)


def test_given_gradient_is_that_of_what_follows() -> None:
    x = leaf([1, 2])
    (x * x).backward(Tensor([10, 100], dtype=ndl.float64))
    assert gradient(x) == [20, 400]


def test_tensor_of_one_element_counts_as_a_number() -> None:
    x = leaf([[3]])
    (x * x).backward()
    assert gradient(x) == [[6]]


def test_leaves_that_require_none_get_none() -> None:
    x, c, n = leaf([2]), Tensor([3.0], dtype=ndl.float64), Tensor([4])
    (x * c * n).backward()
    assert gradient(x) == [12]
    assert (c.grad, n.grad) == (None, None)


def test_intermediate_results_keep_no_gradient() -> None:
    x = leaf(2)
    y = x * x
    (y * y).backward()
    assert y.grad is None


def test_leaves_do_not_share_a_gradient() -> None:
    x, y, given = leaf([1]), leaf([2]), leaf([3])
    (x + y).backward(given)
    assert x.grad is not None
    x.grad.data = [9.0]
    assert (gradient(y), given.tolist(), x.grad.requires_grad) == ([3], [3], False)


def test_dtypes_on_the_way_are_undone() -> None:
    x = Tensor([1.0, 2.0], dtype=ndl.float16, requires_grad=True)
    (x.astype(ndl.float64) * 2).sum().backward()
    assert x.grad is not None
    assert (x.grad.dtype, x.grad.tolist()) == (ndl.float16, [2, 2])


def test_weight_assigned_in_between_gets_the_gradient_of_then() -> None:
    w = leaf(3)
    y = w * w
    w.data = 100.0
    y.backward()
    assert gradient(w) == 6


def test_every_op_sees_the_weight_of_its_time() -> None:
    w = leaf(3)
    y = w * 2
    w.data = 100.0
    (w * y).backward()  # w2 * (2 w1): 2 w1 + 2 w2
    assert gradient(w) == 6 + 200


@pytest.mark.usefixtures("fallback")
def test_failed_backward_leaves_no_gradient() -> None:
    x = leaf([1])
    y = (x * 2 + Cube()(x)).sum()
    with pytest.raises(MissingGradientError):
        y.backward()
    assert x.grad is None


class Cube(ndl.TensorOp):
    def compute(self, x: Any) -> Any:
        return x**3


@pytest.mark.parametrize("given", [[10, 100], np.array([10.0, 100.0])], ids=["list", "array"])
def test_given_gradient_may_be_anything_that_makes_a_tensor(given: Any) -> None:
    x = leaf([1, 2])
    (x * x).backward(given)
    assert gradient(x) == [20, 400]


@pytest.mark.parametrize(
    ("run", "error", "text"),
    [
        (
            lambda x: (x.detach() * 2).sum().backward(),
            GradientError,
            f"backward: nothing that this tensor was computed from requires a gradient\n  tensor: float64[] on {HERE}",
        ),
        (
            lambda x: (x * 2).backward(),
            GradientError,
            f"backward: only a single number has a gradient without further ado\n  tensor: float64[2] on {HERE}\n"
            "  hint: y.sum().backward(), or give the gradient of what follows: y.backward(gradient)",
        ),
        (
            lambda x: (x * 2).backward(Tensor([1.0])),
            ShapeError,
            f"backward: the gradient must be like the tensor\n  tensor: float64[2] on {HERE}\n  gradient: float32[1] on {HERE}",
        ),
    ],
    ids=["no graph", "not a number", "other spec"],
)
def test_backward_refuses(run: Callable[[Tensor], None], error: type[NeedleError], text: str) -> None:
    with pytest.raises(error) as caught:
        run(leaf([1, 2]))
    assert str(caught.value) == text


# -- the graph is freed ---------------------------------------------------------------------------------------------------


def test_second_backward_says_that_the_graph_is_freed() -> None:
    x = leaf([1, 2])
    y = (x * x).sum()
    y.backward()
    with pytest.raises(GradientError) as caught:
        y.backward()
    assert str(caught.value) == (
        "the graph behind this tensor has been freed by an earlier backward()\n"
        f"  op: sum\n  output: float64[] on {HERE}\n  hint: backward(retain_graph=True) keeps it"
    )
    assert gradient(x) == [2, 4]


def test_graph_shared_with_a_freed_one_is_freed_too() -> None:
    x = leaf(2)
    shared = x * x
    (shared * 2).backward()
    with pytest.raises(GradientError, match="freed by an earlier backward"):
        (shared * 3).backward()


def test_retained_graph_can_be_walked_again() -> None:
    x = leaf(3)
    y = x * x
    y.backward(retain_graph=True)
    y.backward()
    assert gradient(x) == 12


# -- recording ------------------------------------------------------------------------------------------------------------


def test_no_grad_records_nothing() -> None:
    x = leaf(2)
    with ndl.no_grad():
        y = x * x
        z = ndl.softmax(x.reshape(1))
    assert [(t.is_leaf, t.requires_grad) for t in (y, z)] == [(True, False)] * 2
    assert not (x * x).is_leaf


def test_composite_with_a_rule_is_not_recorded_within_no_grad() -> None:
    @composite(elementwise)
    def doubled(x: Tensor) -> Tensor:
        return x * 2

    doubled.vjp(lambda g, y, x: g * 2)
    with ndl.no_grad():
        assert doubled(leaf(1)).is_leaf
        assert (leaf(1) * 2).is_leaf
    assert not doubled(leaf(1)).is_leaf


def test_enable_grad_records_within_no_grad() -> None:
    x = leaf(2)
    with ndl.no_grad():
        with ndl.enable_grad():
            inner = x * x
        outer = x * x
    assert (inner.requires_grad, outer.requires_grad) == (True, False)


@pytest.mark.parametrize(("decorator", "recorded"), [(ndl.no_grad, False), (ndl.enable_grad, True)])
def test_recording_is_set_by_a_decorator(decorator: Callable[[], Any], recorded: bool) -> None:
    @decorator()
    def double(x: Tensor) -> Tensor:
        return x * 2

    for _ in range(2):
        assert double(leaf(1)).requires_grad is recorded
    assert (leaf(1) * 2).requires_grad


def test_recording_is_restored_after_an_exception() -> None:
    with pytest.raises(KeyError), ndl.no_grad():
        raise KeyError
    assert (leaf(1) * 2).requires_grad


def test_recording_is_restored_after_an_op_that_fails() -> None:
    with pytest.raises(NeedleError):
        ndl.cross_entropy(leaf([[1, 2]]), Tensor([5, 5]))
    assert (leaf(1) * 2).requires_grad


def test_no_grad_holds_for_its_thread_only() -> None:
    inside, checked, recorded = threading.Event(), threading.Event(), []

    def other() -> None:
        with ndl.no_grad():
            inside.set()
            checked.wait(10)
            recorded.append((leaf(1) * 2).requires_grad)

    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(10)
    assert (leaf(1) * 2).requires_grad
    checked.set()
    thread.join(10)
    assert recorded == [False]


def test_threads_differentiate_at_once() -> None:
    shared, results = leaf([1, 2, 3]).detach(), {}

    def work(n: int) -> None:
        x = leaf(n)
        for _ in range(50):
            (x * shared * shared).sum().backward()
        results[n] = gradient(x)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == dict.fromkeys(range(4), 50 * 14)


def test_list_of_tensors_does_not_lose_their_gradients() -> None:
    w = Tensor(2.0, requires_grad=True)
    for lose in (
        lambda: ndl.sum([w * w, w]),
        lambda: Tensor([w, w]),
        lambda: Tensor([w, w], dtype="float64"),
        lambda: ndl.add(w, [w]),
        lambda: Tensor([[w]]),
        lambda: Tensor([1.0, [(w,)]], dtype="float64"),
    ):
        with pytest.raises(ArgumentError, match="a list of tensors that require gradients would lose them"):
            lose()
    ndl.stack([w * w, w]).sum().backward()
    assert w.grad is not None
    assert w.grad.item() == 5


@pytest.mark.parametrize("update", [operator.iadd, operator.isub, operator.imul, operator.itruediv])
def test_leaf_is_not_rebound_by_an_operator_that_seems_to_write(update: Any) -> None:
    w = Tensor([1.0], requires_grad=True)
    with pytest.raises(GradientError, match="the leaf that requires gradients would stay as it is"):
        update(w, 0.5)
    total = Tensor([1.0])
    assert update(total, 0.5).item() == update(1.0, 0.5)


def test_gradient_of_another_shape_is_not_added_to() -> None:
    w = Tensor([1.0], requires_grad=True)
    w.grad = ndl.ones(7)
    with pytest.raises(GradientError, match="a leaf has a gradient that is not like it"):
        (w * 2).sum().backward()


def test_generator_function_is_not_decorated_in_vain() -> None:
    def steps() -> Iterator[int]:
        yield 1

    with pytest.raises(ArgumentError, match="steps is a generator, whose body does not run when it is called"):
        ndl.no_grad()(steps)
