"""Differentiation: what arrives where, what is kept and what is freed, functions of trees, and rules that are wrong.

Expected gradients are worked out by hand. Values of ops and their gradients have tests of their own, by family.
"""

from __future__ import annotations

import gc
import threading
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core import Tensor, composite, primitive
from needle_core.doors import broadcasted, elementwise
from needle_core.errors import ArgumentError, GradientError, MissingGradientError, NeedleError, ShapeError
from needle_core.op import KERNELS, Op


def leaf(data: Any) -> Tensor:
    return Tensor(data, dtype=ndl.float64, requires_grad=True)


def gradient(t: Tensor) -> Any:
    assert t.grad is not None
    return t.grad.tolist()


def live_tensors() -> int:
    gc.collect()
    return sum(isinstance(o, Tensor) for o in gc.get_objects())


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
            "backward: nothing that this tensor was computed from requires a gradient\n  tensor: float64[] on numpy",
        ),
        (
            lambda x: (x * 2).backward(),
            GradientError,
            "backward: only a single number has a gradient without further ado\n  tensor: float64[2] on numpy\n"
            "  hint: y.sum().backward(), or give the gradient of what follows: y.backward(gradient)",
        ),
        (
            lambda x: (x * 2).backward(Tensor([1.0])),
            ShapeError,
            "backward: the gradient must be like the tensor\n  tensor: float64[2] on numpy\n  gradient: float32[1] on numpy",
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
        "  op: sum\n  output: float64[] on numpy\n  hint: backward(retain_graph=True) keeps it"
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


def test_backward_releases_what_only_the_graph_held() -> None:
    x = leaf([1, 2])
    before = live_tensors()
    y = ((x * 2) * (x * 3)).sum()
    y.backward()
    assert live_tensors() == before + 2  # y and x.grad


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


# -- grad, value_and_grad, vjp --------------------------------------------------------------------------------------------

TWO, THREE = Tensor(2.0, dtype=ndl.float64), Tensor(3.0, dtype=ndl.float64)


def product(a: Tensor, b: Tensor) -> Tensor:
    return a * a * b


@pytest.mark.parametrize(
    ("argnums", "expected"), [(0, 12), (1, 4), (-1, 4), ((0, 1), (12, 4)), ((1,), (4,)), ([1, -2], (4, 12))]
)
def test_grad_is_by_the_arguments_chosen(argnums: Any, expected: Any) -> None:
    found = ndl.grad(product, argnums)(TWO, THREE)
    assert (tuple(g.item() for g in found) if isinstance(found, tuple) else found.item()) == expected


def test_grad_passes_keywords_through() -> None:
    assert ndl.grad(product)(TWO, b=THREE).item() == 12


def test_grad_leaves_the_argument_alone() -> None:
    x = leaf(2)
    ndl.grad(lambda x: x * x)(x)
    assert x.grad is None


def test_grad_of_what_does_not_depend_on_it_is_zero() -> None:
    found = ndl.grad(lambda a, b: b * 1)(Tensor([1.0, 2.0]), THREE)
    assert found.tolist() == [0, 0]


def test_grad_of_the_argument_itself_is_one() -> None:
    assert ndl.grad(lambda x: x)(TWO).item() == 1


def test_grad_is_that_of_the_tensor_given_not_of_the_same_tensor_elsewhere() -> None:
    w = leaf(3)
    assert ndl.grad(lambda a, b: a * b)(w, w).item() == 3
    assert ndl.grad(lambda a: a * w)(w).item() == 3


def test_grad_works_within_no_grad() -> None:
    with ndl.no_grad():
        value, found = ndl.value_and_grad(product)(TWO, THREE)
    assert (value.item(), found.item()) == (12, 12)
    assert (value.requires_grad, found.requires_grad) == (False, False)


def test_grad_is_like_the_tree_of_its_argument() -> None:
    def loss(p: Any) -> Tensor:
        return (p["a"] * p["b"][0]).sum() * p["n"] + p["b"][1][0]

    tree = {"b": [THREE, (TWO, None)], "a": Tensor([1.0, 2.0], dtype=ndl.float64), "n": 7, "i": Tensor([1, 2])}
    found = ndl.grad(loss)(tree)
    assert found.keys() == tree.keys()
    assert found["a"].tolist() == [21, 21]
    assert found["b"][0].item() == 21
    assert found["b"][1][0].item() == 1
    assert (found["b"][1][1], found["n"], found["i"]) == (None, None, None)


def test_value_and_grad_gives_both() -> None:
    value, found = ndl.value_and_grad(product)(TWO, THREE)
    assert (value.item(), found.item()) == (12, 12)


def test_value_and_grad_carries_auxiliary_output() -> None:
    (value, aux), found = ndl.value_and_grad(lambda x: (x * x, {"twice": x * 2}), has_aux=True)(THREE)
    assert (value.item(), aux["twice"].item(), found.item()) == (9, 6, 6)


@pytest.mark.parametrize(
    ("run", "error", "text"),
    [
        (
            lambda: ndl.grad(product, 2)(TWO, THREE),
            ArgumentError,
            "grad: argnums 2 do not name different ones of 2 positional arguments",
        ),
        (
            lambda: ndl.grad(product, (1, -1))(TWO, THREE),
            ArgumentError,
            "grad: argnums (1, -1) do not name different ones of 2 positional arguments",
        ),
        (
            lambda: ndl.value_and_grad(lambda x: x * x, has_aux=True)(TWO),
            GradientError,
            "grad: with has_aux the function must return (value, aux)\n"
            "  returned: Tensor Tensor(4., float64[] on numpy, requires_grad=True)",
        ),
        (
            lambda: ndl.grad(product)(a=TWO, b=THREE),
            ArgumentError,
            "grad: argnums 0 do not name different ones of 0 positional arguments",
        ),
        (
            lambda: ndl.grad(lambda x: x * x)(Tensor([1.0, 2.0])),
            GradientError,
            "grad: the function must return a single number\n  returned: float32[2] on numpy",
        ),
        (
            lambda: ndl.grad(lambda x: 3.0)(TWO),
            GradientError,
            "grad: the function must return a single number\n  returned: float",
        ),
    ],
    ids=["argnums", "argnums twice", "no aux", "keywords only", "not a number", "not a tensor"],
)
def test_grad_refuses(run: Callable[[], Any], error: type[NeedleError], text: str) -> None:
    with pytest.raises(error) as caught:
        run()
    assert str(caught.value) == text


def test_vjp_maps_cotangents_like_the_value_to_gradients_like_the_arguments() -> None:
    value, pullback = ndl.vjp(lambda p, b: {"sum": p[0] + b, "product": p[0] * b}, [TWO], THREE)
    assert {name: t.item() for name, t in value.items()} == {"sum": 5, "product": 6}
    one, ten = Tensor(1.0, dtype=ndl.float64), Tensor(10.0, dtype=ndl.float64)
    for _ in range(2):
        ((by_a,), by_b) = pullback({"sum": one, "product": ten})
        assert (by_a.item(), by_b.item()) == (31, 21)


def test_vjp_of_values_that_have_no_gradient_ignores_their_cotangents() -> None:
    value, pullback = ndl.vjp(lambda x: (x * x, ndl.argmax(x), 5), Tensor([3.0]))
    assert value[2] == 5
    assert pullback((Tensor([1.0]), Tensor(0), 0))[0].tolist() == [6]


@pytest.mark.parametrize(
    ("cotangents", "error", "text"),
    [
        (TWO, ArgumentError, "vjp: the cotangents are not a tree like the value\n  value: (*, *)\n  cotangents: *"),
        (
            (TWO, Tensor([1.0])),
            ShapeError,
            "vjp: a cotangent must be like its value\n  value: float64[] on numpy\n  cotangent: float32[1] on numpy",
        ),
        ((TWO, 1.0), ShapeError, "vjp: a cotangent must be like its value\n  value: float64[] on numpy\n  cotangent: 1.0"),
    ],
    ids=["structure", "spec", "number"],
)
def test_pullback_refuses(cotangents: Any, error: type[NeedleError], text: str) -> None:
    pullback = ndl.vjp(lambda x: (x * x, x + 1), TWO)[1]
    with pytest.raises(error) as caught:
        pullback(cotangents)
    assert str(caught.value) == text


# -- higher order ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("f", "derivatives"),
    [
        (lambda x: x * x * x * x, [16, 32, 48, 48, 24, 0]),
        (lambda x: x**4, [16, 32, 48, 48, 24, 0]),
        (ndl.exp, [np.exp(2.0)] * 5),
        (lambda x: 1 / x, [1 / 2, -1 / 4, 1 / 4, -3 / 8, 3 / 4]),
        (ndl.sin, [np.sin(2), np.cos(2), -np.sin(2), -np.cos(2), np.sin(2)]),
        (ndl.log, [np.log(2), 1 / 2, -1 / 4, 1 / 4, -3 / 8]),
    ],
    ids=["product", "power", "exp", "reciprocal", "sin", "log"],
)
def test_derivatives_of_higher_order(f: Callable[[Tensor], Tensor], derivatives: list[float]) -> None:
    for expected in derivatives:
        np.testing.assert_allclose(f(TWO).item(), expected, rtol=1e-12, atol=1e-12)
        f = ndl.grad(f)


def test_mixed_derivative_is_the_same_in_either_order() -> None:
    def f(x: Tensor, y: Tensor) -> Tensor:
        return ndl.sin(x * y) * x

    xy = ndl.grad(lambda x, y: ndl.grad(f, 0)(x, y), 1)(TWO, THREE).item()
    yx = ndl.grad(lambda x, y: ndl.grad(f, 1)(x, y), 0)(TWO, THREE).item()
    np.testing.assert_allclose([xy, yx], 2 * 2 * np.cos(6) - 12 * np.sin(6), rtol=1e-12)


def test_gradient_penalty_reaches_weights_that_the_function_closes_over() -> None:
    w, x = leaf([2, 3]), Tensor([5.0, 7.0], dtype=ndl.float64)
    slope = ndl.grad(lambda x: (w * x * x).sum())(x)  # 2 w x
    (slope * slope).sum().backward()  # by w: 8 w x^2
    assert gradient(w) == [8 * 2 * 25, 8 * 3 * 49]


def test_gradient_penalty_reaches_the_argument_too() -> None:
    w, x = leaf(3), leaf(2)
    ndl.grad(lambda x: w * x * x)(x).backward()  # 2 w x
    assert (gradient(w), gradient(x)) == (4, 6)


def test_gradient_of_a_gradient_reaches_a_weight_assigned_in_between() -> None:
    w = leaf(3)
    pullback = ndl.vjp(lambda x: w * x * x, TWO)[1]
    w.data = 100.0
    (slope,) = pullback(Tensor(1.0, dtype=ndl.float64))  # 2 w x, of the weight of then
    slope.backward()
    assert (slope.item(), gradient(w)) == (12, 4)


def test_gradient_of_what_nobody_asks_for_has_no_graph() -> None:
    value, found = ndl.value_and_grad(lambda x: x * x)(TWO)
    assert (value.is_leaf, found.is_leaf) == (True, True)


# -- rules ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def twin(monkeypatch: pytest.MonkeyPatch) -> Op[..., Any]:
    """A primitive (a, b) -> a + b without gradient rules."""

    @primitive(broadcasted)
    def twin(a: Tensor, b: Tensor) -> Tensor: ...

    monkeypatch.setitem(KERNELS, ("twin", "numpy"), np.add)
    return twin


def test_rules_are_asked_only_for_inputs_that_need_it(twin: Op[..., Any]) -> None:
    def never(*_: Any) -> Tensor:
        raise AssertionError

    twin.vjp(lambda g, y, a, b: g * 5, never)
    x = leaf([1, 2])
    twin(x, Tensor([1.0, 1.0], dtype=ndl.float64)).sum().backward()
    assert gradient(x) == [5, 5]


def test_none_as_a_rule_means_no_gradient_by_definition(twin: Op[..., Any]) -> None:
    twin.vjp(lambda g, y, a, b: g, None)
    x, y = leaf([1, 2]), leaf([1, 2])
    twin(x, y).sum().backward()
    assert (gradient(x), y.grad) == ([1, 1], None)


def test_rule_gets_the_output_and_the_inputs(twin: Op[..., Any]) -> None:
    twin.vjp(lambda g, y, a, b: g * y + a, lambda g, y, a, b: g * b)
    x, y = leaf([1, 2]), leaf([10, 20])
    twin(x, y).sum().backward()
    assert (gradient(x), gradient(y)) == ([12, 24], [10, 20])


def test_joint_rule_gives_all_gradients_and_may_leave_out_some(twin: Op[..., Any]) -> None:
    twin.vjp_joint(lambda g, y, a, b: (g * 2, None))
    x, y = leaf([1, 2]), leaf([1, 2])
    twin(x, y).sum().backward()
    assert (gradient(x), y.grad) == ([2, 2], None)


def test_joint_rule_has_its_broadcasting_undone(twin: Op[..., Any]) -> None:
    twin.vjp_joint(lambda g, y, a, b: (g, g * 2))
    x, y = leaf([1, 2]), leaf([[1], [2]])
    twin(x, y).sum().backward()
    assert (gradient(x), gradient(y)) == ([2, 2], [[4], [4]])


def test_missing_rule_says_how_to_give_one(twin: Op[..., Any]) -> None:
    with pytest.raises(MissingGradientError) as caught:
        twin(leaf([1, 2]), leaf([1])).sum().backward()
    assert str(caught.value) == (
        "gradient of twin: no gradient rule\n  a: float64[2] on numpy\n  b: float64[1] on numpy\n"
        "  hint: twin.vjp(...) gives one rule for each operand"
    )


def test_missing_rule_is_no_matter_where_nobody_needs_it(twin: Op[..., Any]) -> None:
    x = leaf([1, 2])
    (twin(x.detach(), x.detach()) * x).sum().backward()
    assert gradient(x) == [2, 4]


@pytest.mark.parametrize(
    ("rule", "text", "spec"),
    [
        (lambda g: ndl.ones(3, dtype="float64"), "the rule returned another shape", "float64[3]"),
        (lambda g: g.sum(), "the rule returned another shape", "float64[]"),
        (lambda g: ndl.ones((1, 3), dtype="float64"), "the rule returned another shape", "float64[1, 3]"),
        (lambda g: g.astype("float32"), "the rule returned another dtype or device", "float32[2]"),
        (lambda g: 3.0, "the rule returned 3.0, not a tensor", None),
        (lambda g: np.ones(2), "the rule returned ndarray array([1., 1.]), not a tensor", None),
    ],
    ids=["size", "axes", "more axes", "dtype", "number", "array"],
)
def test_rule_that_returns_something_else_is_named(
    twin: Op[..., Any], rule: Callable[[Tensor], Any], text: str, spec: str | None
) -> None:
    twin.vjp(lambda g, y, a, b: rule(g), None)
    with pytest.raises(GradientError) as caught:
        twin(leaf([1, 2]), leaf([1])).sum().backward()
    details = f"\n  input: float64[2] on numpy\n  gradient: {spec} on numpy" if spec else ""
    assert str(caught.value) == f"gradient of twin: {text}\n  a: float64[2] on numpy\n  b: float64[1] on numpy{details}"


@pytest.mark.parametrize(
    ("rule", "given"),
    [
        (lambda g, y, a, b: (g,), "1 gradients"),
        (lambda g, y, a, b: (g, g, g), "3 gradients"),
        (lambda g, y, a, b: 3, "3"),
        (lambda g, y, a, b: g, "Tensor Tensor([1., 1.], float64[2] on numpy)"),  # of two elements, as many as there are inputs
    ],
    ids=["too few", "too many", "number", "tensor"],
)
def test_joint_rule_that_returns_another_number_of_gradients_is_named(twin: Op[..., Any], rule: Any, given: str) -> None:
    twin.vjp_joint(rule)
    with pytest.raises(GradientError) as caught:
        twin(leaf([1, 2]), leaf([1])).sum().backward()
    operands = "  a: float64[2] on numpy\n  b: float64[1] on numpy"
    assert str(caught.value) == f"gradient of twin: the rule returned {given} for 2 inputs\n{operands}"


def test_op_that_fails_inside_a_rule_says_so_itself(twin: Op[..., Any]) -> None:
    twin.vjp(lambda g, y, a, b: g @ Tensor([1.0], dtype=ndl.float64), None)
    with pytest.raises(ShapeError, match=r"^matmul: inner dimensions differ, 2 != 1"):
        twin(leaf([1, 2]), leaf([1])).sum().backward()


def test_composite_without_a_rule_is_differentiated_through_its_body_despite_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    @composite(elementwise)
    def cubed(x: Tensor) -> Tensor:
        return x * x * x

    calls = []

    def kernel(x: Any) -> Any:
        calls.append(1)
        return x**3

    monkeypatch.setitem(KERNELS, ("cubed", "numpy"), kernel)
    x = leaf([2, 3])
    y = cubed(x)
    assert (y.tolist(), calls) == ([8, 27], [1])
    y.sum().backward()
    assert (gradient(x), calls) == ([12, 27], [1])
    assert ndl.grad(ndl.grad(lambda x: cubed(x)))(TWO).item() == 12


def test_composite_with_a_rule_is_differentiated_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    @composite(elementwise)
    def straight(x: Tensor) -> Tensor:
        return ndl.round(x)

    straight.vjp(lambda g, y, x: g * 7)
    x = leaf([1.2, 2.7])
    y = straight(x)
    assert y.node is not None
    assert (y.tolist(), y.node.op) == ([1, 3], straight)
    y.sum().backward()
    assert gradient(x) == [7, 7]


# -- ops with several outputs -----------------------------------------------------------------------------------------------


@pytest.fixture(params=["kernel", "body"])
def both(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Op[..., Any]:
    """An op (x) -> (2 x, 3 x), by a kernel or by its body, with a rule of its own."""

    @composite(lambda x: ((x, x), {}))
    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        return x * 2, x * 3

    if request.param == "kernel":
        monkeypatch.setitem(KERNELS, ("both", "numpy"), lambda x: (x * 2, x * 3))
    return both.vjp(lambda g, y, x: g[0] * 2 + g[1] * 3)


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        (lambda a, b: a * 10 + b * 100, 320),
        (lambda a, b: a * 10, 20),
        (lambda a, b: b * 100, 300),
        (lambda a, b: a + a + b * b, 4 + 2 * 6 * 3),
    ],
    ids=["both", "first", "second", "twice"],
)
def test_outputs_may_be_used_in_part(both: Op[..., Any], use: Callable[..., Tensor], expected: float) -> None:
    x = leaf(2)
    use(*both(x)).backward()
    assert gradient(x) == expected


def test_outputs_of_one_op_differentiate_twice(both: Op[..., Any]) -> None:
    def f(x: Tensor) -> Tensor:
        a, b = both(x)
        return a * b * b  # 18 x^3

    assert ndl.grad(ndl.grad(f))(TWO).item() == 18 * 6 * 2


def test_outputs_without_a_rule_are_differentiated_through_the_body() -> None:
    x = leaf([3, 1, 2])
    values, places = ndl.topk(x, k=2)
    (values * Tensor([10.0, 100.0], dtype=ndl.float64)).sum().backward()
    assert (places.requires_grad, gradient(x)) == (False, [10, 0, 100])


# -- depth and memory -----------------------------------------------------------------------------------------------------

DEPTH = 50_000


def chain(x: Tensor) -> Tensor:
    for _ in range(DEPTH):
        x = x * 1.0
    return x


def test_deep_graph_is_walked_and_released_without_overflow() -> None:
    x = leaf(1)
    y = chain(x)
    y.backward(retain_graph=True)
    assert gradient(x) == 1
    del y  # still holding its graph


def test_deep_graph_that_was_never_walked_is_released_without_overflow() -> None:
    x = leaf(1)
    before = live_tensors()
    y = chain(x)
    assert live_tensors() > before + DEPTH // 2
    del y
    assert live_tensors() == before


def test_training_as_a_function_keeps_no_tensors() -> None:
    w, lr, counts = Tensor([1.0, 2.0]), 0.01, []
    for step in range(3000):
        w = w - lr * ndl.grad(lambda w: (w * w).sum())(w)
        if step in (100, 2999):
            counts.append(live_tensors())
    assert counts[0] == counts[1]


def test_training_in_place_keeps_memory_flat() -> None:
    w, lr, used = Tensor([1.0, 2.0], requires_grad=True), 0.01, []
    tracemalloc.start()
    try:
        for step in range(10_000):
            w.grad = None
            (w * w).sum().backward()
            w.data = w.data - lr * w.grad
            if step in (100, 9999):
                used.append((live_tensors(), tracemalloc.get_traced_memory()[0]))
    finally:
        tracemalloc.stop()
    assert used[0][0] == used[1][0]
    assert abs(used[1][1] - used[0][1]) < 20_000


def test_training_without_data_grows_the_graph() -> None:
    w = leaf([1, 2])
    before = live_tensors()
    for _ in range(100):
        w = w - 0.01 * w
    assert live_tensors() >= before + 100
