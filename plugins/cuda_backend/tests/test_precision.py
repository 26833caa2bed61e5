"""Half precision by autocast, and TF32 where it is allowed: what reaches the libraries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core.spec import DType, Spec, bfloat16, float32, float64
from needle_cuda_backend import convolution, linalg
from needle_cuda_backend.backend import driver_of
from needle_cuda_backend.recipe import Call


@pytest.fixture
def tf32() -> Iterator[None]:
    ndl.set_matmul_precision("tf32")
    yield
    ndl.set_matmul_precision("float32")


def product(dtype: DType) -> Any:
    a, b, y = (Spec.of(shape, dtype, ndl.device("numpy")) for shape in ((8, 16), (16, 4), (8, 4)))
    return linalg.matmul(Call((a, b), (y,), {})).operations[0].matrices


def convolved(dtype: DType) -> Any:
    shapes = ((2, 8, 8, 4), (6, 3, 3, 4), (2, 6, 6, 6))
    x, weight, y = (Spec.of(shape, dtype, ndl.device("numpy")) for shape in shapes)
    attrs = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1}
    return convolution.conv(Call((x, weight), (y,), attrs)).operations[0].description


def test_products_and_convolutions_are_float32_unless_told_otherwise() -> None:
    assert not product(float32).tf32
    assert not convolved(float32).tf32


@pytest.mark.usefixtures("tf32")
def test_tf32_is_taken_where_it_is_allowed_and_for_float32_alone() -> None:
    assert product(float32).tf32
    assert convolved(float32).tf32
    assert not product(float64).tf32
    assert not product(bfloat16).tf32


def test_a_compiled_function_is_captured_anew_for_another_precision(cuda: ndl.Device) -> None:
    double = ndl.compile(lambda x: x @ x)
    x = ndl.Tensor(np.eye(4, dtype=np.float32), device=cuda)
    double(x)
    ndl.set_matmul_precision("tf32")
    try:
        double(x)
    finally:
        ndl.set_matmul_precision("float32")
    assert "2 programs" in double.report()


def test_autocast_gives_the_library_half_precision(cuda: ndl.Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """And float32 comes back: so do gradients."""
    driver: Any = driver_of(cuda)
    seen: list[DType] = []
    prepare = driver.cublaslt.prepare
    monkeypatch.setattr(
        driver.cublaslt, "prepare", lambda matrices, nbytes: seen.append(matrices.dtype) or prepare(matrices, nbytes)
    )
    w = ndl.nn.Parameter(ndl.Tensor(np.full((16, 8), 0.125, np.float32), device=cuda))
    x = ndl.Tensor(np.ones((4, 16), np.float32), device=cuda)

    @ndl.compile(keep_grads=True)
    def step() -> ndl.Tensor:
        with ndl.autocast("bfloat16"):
            y = x @ w
        loss = y.sum()
        loss.backward()
        return loss

    assert step().item() == 4 * 16 * 8 * 0.125
    assert set(seen) == {bfloat16}
    assert w.grad is not None
    assert w.grad.dtype is float32
    assert (w.grad.numpy() == 4).all()
