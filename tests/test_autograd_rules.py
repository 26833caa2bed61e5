"""Gradient rules: when they are asked, what they may return, and what is said of those that are wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core import Tensor, composite, primitive
from needle_core.doors import broadcasted, elementwise
from needle_core.errors import GradientError, MissingGradientError, ShapeError
from needle_core.op import KERNELS, Op
from tests.leaves import gradient, leaf

HERE = ndl.default_device()
BACKEND = HERE.backend.name

TWO, THREE = Tensor(2.0, dtype=ndl.float64), Tensor(3.0, dtype=ndl.float64)
# -- rules ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def twin(monkeypatch: pytest.MonkeyPatch) -> Op[..., Any]:
    """A primitive (a, b) -> a + b without gradient rules."""

    @primitive(broadcasted)
    def twin(a: Tensor, b: Tensor) -> Tensor: ...

    monkeypatch.setitem(KERNELS, ("twin", BACKEND), np.add)
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
        f"gradient of twin: no gradient rule\n  a: float64[2] on {HERE}\n  b: float64[1] on {HERE}\n"
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
    details = f"\n  input: float64[2] on {HERE}\n  gradient: {spec} on {HERE}" if spec else ""
    assert str(caught.value) == f"gradient of twin: {text}\n  a: float64[2] on {HERE}\n  b: float64[1] on {HERE}{details}"


@pytest.mark.parametrize(
    ("rule", "given"),
    [
        (lambda g, y, a, b: (g,), "1 gradients"),
        (lambda g, y, a, b: (g, g, g), "3 gradients"),
        (lambda g, y, a, b: 3, "3"),
        (
            lambda g, y, a, b: g,
            f"Tensor([1., 1.], float64[2] on {HERE})",
        ),  # of two elements, as many as there are inputs
    ],
    ids=["too few", "too many", "number", "tensor"],
)
def test_joint_rule_that_returns_another_number_of_gradients_is_named(twin: Op[..., Any], rule: Any, given: str) -> None:
    twin.vjp_joint(rule)
    with pytest.raises(GradientError) as caught:
        twin(leaf([1, 2]), leaf([1])).sum().backward()
    operands = f"  a: float64[2] on {HERE}\n  b: float64[1] on {HERE}"
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
        return np.asarray(x**3)

    monkeypatch.setitem(KERNELS, ("cubed", BACKEND), kernel)
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
        monkeypatch.setitem(KERNELS, ("both", BACKEND), lambda x: (np.asarray(x * 2), np.asarray(x * 3)))
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


def test_rule_of_an_op_with_several_outputs_gets_all_of_them() -> None:
    @composite(lambda a: ((a, a), {}))
    def both(a: Tensor) -> tuple[Tensor, Tensor]:
        return ndl.exp(a), 3 * a

    both.vjp(lambda g, y, a: g[0] * y[0] + 3 * g[1])
    a = Tensor([1.0, 2.0], dtype="float64", requires_grad=True)
    first, second = both(a)
    (first + second).sum().backward()
    assert a.grad is not None
    np.testing.assert_allclose(a.grad.numpy(), np.exp([1.0, 2.0]) + 3)
