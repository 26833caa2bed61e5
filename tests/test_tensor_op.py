"""Ops written as classes, as the course writes them."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core import Node, Tensor, TensorOp
from needle_core.errors import (
    ArgumentError,
    DtypeError,
    GradientError,
    KernelError,
    MissingGradientError,
    NeedleError,
)
from needle_core.op import OPS, register_op
from tests.devices import fallback
from tests.leaves import leaf

__all__ = ["fallback"]

HERE = ndl.default_device()

pytestmark = pytest.mark.usefixtures("fallback")


class Swish(TensorOp):
    """x sigmoid(x)."""

    def compute(self, x: Any) -> Any:
        return x / (1 + np.exp(-x))

    def gradient(self, out_grad: Tensor, node: Node) -> Tensor:
        (x,) = node.inputs
        s = ndl.sigmoid(x)
        return out_grad * (s + x * s * (1 - s))


class Scale(TensorOp):
    """factor x."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def compute(self, x: Any) -> Any:
        return x * self.factor

    def gradient(self, out_grad: Tensor, node: Node) -> Tensor:
        return out_grad * self.factor


class Both(TensorOp):
    """x + 1 and 2 x."""

    def compute(self, x: Any) -> Any:
        return x + 1, 2 * x

    def gradient(self, out_grad: Any, node: Node) -> Tensor:
        return out_grad[0] + 2 * out_grad[1]


class Product(TensorOp):
    """a b, broadcast."""

    def compute(self, a: Any, b: Any) -> Any:
        return a * b

    def gradient(self, out_grad: Tensor, node: Node) -> tuple[Tensor, Tensor]:
        a, b = node.inputs
        return out_grad * b, out_grad * a


class Total(TensorOp):
    """The sum of any number of tensors."""

    def compute(self, *xs: Any) -> Any:
        return sum(xs)

    def gradient(self, out_grad: Tensor, node: Node) -> tuple[Tensor, ...]:
        return (out_grad,) * len(node.inputs or ())


class Cube(TensorOp):
    def compute(self, x: Any) -> Any:
        return x**3


def op(compute: Callable[..., Any] | None = None, gradient: Any = None) -> TensorOp:
    """An op called Made with these methods."""
    methods = {"compute": compute, "gradient": gradient}
    return type("Made", (TensorOp,), {name: f for name, f in methods.items() if f is not None})()


X = np.array([-1.0, 0.0, 2.0])
S = 1 / (1 + np.exp(-X))

# -- what it computes -----------------------------------------------------------------------------------------------------


def test_compute_gives_the_value() -> None:
    np.testing.assert_allclose(Swish()(Tensor(X)).numpy(), X * S, rtol=1e-12)


def test_gradient_gives_the_gradient() -> None:
    x = leaf(X)
    Swish()(x).sum().backward()
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), S + X * S * (1 - S), rtol=1e-12)


def test_gradient_written_in_ops_differentiates_again() -> None:
    found = ndl.grad(ndl.grad(lambda x: Swish()(x)))(Tensor(2.0, dtype=ndl.float64))
    s = 1 / (1 + np.exp(-2.0))
    np.testing.assert_allclose(found.item(), 2 * s * (1 - s) + 2 * s * (1 - s) * (1 - 2 * s), rtol=1e-12)


def test_fields_are_attributes() -> None:
    x = leaf([1, 2])
    double, triple = Scale(2), Scale(3.0)
    y = double(x) + triple(x)
    y.sum().backward()
    assert (y.tolist(), x.grad is not None and x.grad.tolist()) == ([5, 10], [5, 5])


def test_broadcasting_of_several_inputs_is_undone() -> None:
    a, b = leaf([[1, 2], [3, 4]]), leaf([10, 100])
    Product()(a, b).sum().backward()
    assert a.grad is not None
    assert b.grad is not None
    assert (a.grad.tolist(), b.grad.tolist()) == ([[10, 100], [10, 100]], [4, 6])


@pytest.mark.parametrize("count", [1, 2, 5])
def test_compute_may_take_any_number_of_inputs(count: int) -> None:
    xs = [leaf([1.0]) for _ in range(count)]
    y = Total()(*xs)
    y.backward()
    assert y.item() == count
    assert [x.grad is not None and x.grad.item() for x in xs] == [1] * count


def test_numbers_arrays_and_lists_are_taken() -> None:
    y = Product()([1, 2], np.array([3.0, 4.0]))
    assert (y.tolist(), y.dtype) == ([3, 8], ndl.float64)
    assert Product()(Tensor([1.0, 2.0]), 3).tolist() == [3, 6]


def test_nothing_is_recorded_without_need() -> None:
    x = leaf(X)
    with ndl.no_grad():
        assert Swish()(x).is_leaf
    assert Swish()(x.detach()).is_leaf
    assert op(lambda self, x: x.astype(np.int64))(x).is_leaf


def test_result_of_compute_is_copied() -> None:
    kept = np.zeros(2)
    y = op(lambda self, x: kept)(Tensor([1.0, 2.0]))
    kept[0] = 9
    assert y.tolist() == [0, 0]


def test_compute_cannot_write_into_its_inputs() -> None:
    def double(self: TensorOp, x: Any) -> Any:
        x *= 2
        return x

    x = Tensor([1.0, 2.0])
    with pytest.raises(KernelError, match=r"^Made: the kernel raised ValueError: .*read-only"):
        op(double)(x)
    assert x.tolist() == [1, 2]


def test_op_shows_its_name_and_operands() -> None:
    assert (repr(Swish()), Swish().name, Swish().operands) == ("<primitive Swish>", "Swish", ("x",))
    assert (Product().operands, Total().operands) == (("a", "b"), ("*xs",))


@pytest.mark.parametrize("instance", [Swish(), Scale(3)], ids=repr)
def test_op_survives_pickling_with_its_fields(instance: TensorOp) -> None:
    other = pickle.loads(pickle.dumps(instance))
    assert type(other) is type(instance)
    np.testing.assert_array_equal(other(Tensor(X)).numpy(), instance(Tensor(X)).numpy())


def test_op_can_be_registered_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("needle_core.op.OPS", dict(OPS))
    register_op(Swish())
    with pytest.raises(ArgumentError, match="an op is already called 'Swish'"):
        register_op(Swish())


# -- what its errors say ----------------------------------------------------------------------------------------------------

SPEC = f"float32[2] on {HERE}"
T = Tensor([1.0, 2.0])


@pytest.mark.parametrize(
    ("run", "error", "text"),
    [
        (lambda: Swish()(), ArgumentError, "Swish: takes 1 tensor (x), got 0"),
        (lambda: Swish()(T, T), ArgumentError, f"Swish: takes 1 tensor (x), got 2\n  x: {SPEC}"),
        (lambda: Product()(T), ArgumentError, f"Product: takes 2 tensors (a, b), got 1\n  a: {SPEC}"),
        (lambda: Total()(), ArgumentError, "Total: takes at least 1 tensor (*xs), got 0"),
        (lambda: Swish()(None), ArgumentError, "Swish: no tensor can be made of None\n  x: None"),
        (
            lambda: op(lambda self, x: 1 / 0)(T),
            KernelError,
            f"Made: the kernel raised ZeroDivisionError: division by zero\n  x: {SPEC}",
        ),
        (
            lambda: op(lambda self, x: x[5])(T),
            KernelError,
            f"Made: the kernel raised IndexError: index 5 is out of bounds for axis 0 with size 2\n  x: {SPEC}",
        ),
    ],
    ids=["no input", "too many", "too few", "none of any number", "not a tensor", "exception", "bounds"],
)
def test_call_that_fails_names_the_class_and_operands(run: Callable[[], Any], error: type[NeedleError], text: str) -> None:
    with pytest.raises(error) as caught:
        run()
    lines = [line for line in str(caught.value).splitlines() if "hint: attributes are keywords" not in line]
    assert "\n".join(lines) == text


@pytest.mark.parametrize(
    ("result", "error"),
    [("text", NeedleError), (None, NeedleError), (np.zeros(2, np.int16), DtypeError), ([[1], [2, 3]], NeedleError)],
    ids=["text", "None", "int16", "ragged"],
)
def test_result_that_is_no_array_is_refused(result: Any, error: type[NeedleError]) -> None:
    with pytest.raises(error, match=rf"^Made: .*\n  x: {SPEC.replace('[', '.').replace(']', '.')}"):
        op(lambda self, x: result)(T)


def test_class_without_compute_says_what_to_define() -> None:
    with pytest.raises(NeedleError, match=r"Made must define compute\(self, \*arrays\)"):
        op()(T)


def test_class_without_gradient_says_what_to_define() -> None:
    assert Cube()(T).tolist() == [1, 8]
    with pytest.raises(MissingGradientError) as caught:
        Cube()(leaf([1, 2])).sum().backward()
    assert str(caught.value) == (
        f"gradient of Cube: no gradient rule\n  x: float64[2] on {HERE}\n  hint: define Cube.gradient(self, out_grad, node)"
    )


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (lambda self, g, node: (g, g), "the rule returned 2 gradients for 1 inputs"),
        (lambda self, g, node: 3.0, "the rule returned 3.0, not a tensor"),
        (lambda self, g, node: g.sum(), "the rule returned another shape"),
    ],
    ids=["count", "number", "shape"],
)
def test_gradient_that_does_not_fit_names_the_class(given: Callable[..., Any], text: str) -> None:
    with pytest.raises(GradientError) as caught:
        op(lambda self, x: x, given)(leaf([1, 2])).sum().backward()
    assert str(caught.value).startswith(f"gradient of Made: {text}\n  x: float64[2] on {HERE}")


def test_tensor_op_has_what_every_op_has() -> None:
    class Same(TensorOp):
        def compute(self, x: Any) -> Any:
            return x

    same = Same()
    same.forget()
    assert same.of_one(Tensor(2.0)).numpy() == same.of_two(Tensor(2.0)).numpy() == 2


def test_op_without_operands_is_on_the_default_device() -> None:
    class Three(TensorOp):
        def compute(self) -> Any:
            return np.arange(3.0)

    y = Three()()
    assert (y.tolist(), y.device) == ([0, 1, 2], HERE)


def test_compute_may_return_several_arrays() -> None:
    x = leaf([1.0, 2.0])
    more, double = Both()(x)
    assert (more.tolist(), double.tolist()) == ([2, 3], [2, 4])
    (more * double).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [6, 10]  # of 2 x (x + 1)
