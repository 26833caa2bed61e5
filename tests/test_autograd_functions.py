"""grad, value_and_grad and vjp: gradients of functions of trees, once and again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core import Tensor
from needle_core.errors import ArgumentError, GradientError, NeedleError, ShapeError
from tests.leaves import gradient, leaf

HERE = ndl.default_device()

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
            f"  returned: Tensor(4., float64[] on {HERE}, requires_grad=True)",
        ),
        (
            lambda: ndl.grad(product)(a=TWO, b=THREE),
            ArgumentError,
            "grad: argnums 0 do not name different ones of 0 positional arguments",
        ),
        (
            lambda: ndl.grad(lambda x: x * x)(Tensor([1.0, 2.0])),
            GradientError,
            f"grad: the function must return a single number\n  returned: float32[2] on {HERE}",
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
            f"vjp: a cotangent must be like its value\n  value: float64[] on {HERE}\n  cotangent: float32[1] on {HERE}",
        ),
        ((TWO, 1.0), ShapeError, f"vjp: a cotangent must be like its value\n  value: float64[] on {HERE}\n  cotangent: 1.0"),
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
