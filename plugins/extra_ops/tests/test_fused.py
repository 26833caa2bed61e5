"""fused_add_scalars: an op that returns a TensorTuple."""

from __future__ import annotations

import doctest
from pathlib import Path

import numpy as np
import pytest

import needle_core as ndl
from needle_core.backend import chosen_device
from needle_core.errors import ArgumentError, ShapeError
from needle_extra_ops import FusedAddScalars, TensorTuple, fused_add_scalars


def test_it_returns_a_tensor_tuple_of_both_sums() -> None:
    y = fused_add_scalars(ndl.Tensor([1.0, 2.0]), 0.5, -3)
    assert type(y) is TensorTuple
    assert [t.numpy().tolist() for t in y] == [[1.5, 2.5], [-2.0, -1.0]]


def test_it_returns_one_by_whatever_way_it_runs() -> None:
    x = ndl.Tensor([1.0], requires_grad=True)
    for run in (x, x.detach(), ndl.Tensor([1]), [1.0], 1):  # recorded, not recorded, promoted, lifted
        for _ in range(2):  # and remembered
            assert type(fused_add_scalars(run, 0.5, 2.0)) is TensorTuple
    with ndl.no_grad():
        assert type(fused_add_scalars(x, 0.5, 2.0)) is TensorTuple


def test_the_plugin_offers_it_by_name() -> None:
    assert ndl.ops.fused_add_scalars is fused_add_scalars


def test_the_class_of_the_course_is_the_op_with_its_numbers_fixed() -> None:
    y = FusedAddScalars(1.0, 2.0)(ndl.Tensor([1.0]))
    assert type(y) is TensorTuple
    assert [t.item() for t in y] == [2.0, 3.0]


def test_the_dtype_is_that_of_addition() -> None:
    assert [t.dtype for t in fused_add_scalars(ndl.Tensor([1]), 1, 2)] == ["int64", "int64"]
    assert [t.dtype for t in fused_add_scalars(ndl.Tensor([1]), 1, 2.5)] == ["float32", "float32"]
    assert [t.dtype for t in fused_add_scalars(ndl.Tensor([1.0], dtype="float16"), 1, 2.5)] == ["float16", "float16"]


def test_the_gradient_is_the_sum_of_both_and_that_of_a_number_the_sum_over_all() -> None:
    x, c0, c1 = ndl.Tensor([[1.0, 2.0]]), ndl.Tensor(1.0), ndl.Tensor(2.0)

    def f(x: ndl.Tensor, c0: ndl.Tensor, c1: ndl.Tensor) -> ndl.Tensor:
        y = fused_add_scalars(x, c0, c1)
        return 2 * y[0].sum() + 3 * y[1].sum()

    gradients = ndl.grad(f, argnums=(0, 1, 2))(x, c0, c1)
    assert [g.numpy().tolist() for g in gradients] == [[[5.0, 5.0]], 4.0, 6.0]


def test_one_of_the_results_is_enough_for_a_gradient() -> None:
    x = ndl.Tensor([1.0, 2.0], requires_grad=True)
    (fused_add_scalars(x, 1, 2)[1] * ndl.Tensor([4.0, 7.0])).sum().backward()
    assert x.grad is not None
    assert x.grad.numpy().tolist() == [4.0, 7.0]


def test_gradients_of_every_order() -> None:
    def f(x: ndl.Tensor) -> ndl.Tensor:  # (x + 1)^2 (x + 2)
        y = fused_add_scalars(x, 1, 2)
        return y[0] * y[0] * y[1]

    x, derivative, found = ndl.Tensor(3.0, dtype="float64"), f, []
    for _ in range(4):
        derivative = ndl.grad(derivative)
        found.append(derivative(x).item())
    p = np.poly1d([1, 1]) ** 2 * np.poly1d([1, 2])
    assert found == [p.deriv(n)(3.0) for n in (1, 2, 3, 4)]


def test_a_sum_of_results_is_a_tensor_tuple_with_gradients() -> None:
    x = ndl.Tensor([1.0], requires_grad=True)
    total = fused_add_scalars(x, 1, 2) + FusedAddScalars(3, 4)(x)
    assert [t.item() for t in total] == [6.0, 8.0]
    (total[0] * total[1]).backward()  # (2x + 4)(2x + 6)
    assert x.grad is not None
    assert x.grad.item() == 28.0


def test_what_is_no_number_is_refused() -> None:
    x = ndl.Tensor([1.0, 2.0])
    with pytest.raises(ShapeError, match="fused_add_scalars: c1 is a single number, not a tensor with 1 axes"):
        fused_add_scalars(x, 1, x)
    with pytest.raises(ArgumentError, match=r"takes 3 tensors \(x, c0, c1\), got 2"):
        fused_add_scalars(x, 1)  # type: ignore[call-arg]


def test_the_readme_holds() -> None:
    chosen = chosen_device()
    ndl.set_default_device("numpy")  # which its outputs name
    try:
        assert doctest.testfile(str(Path(__file__).parents[1] / "README.md"), module_relative=False).failed == 0
    finally:
        ndl.set_default_device(chosen)
