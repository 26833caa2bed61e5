"""Gradients that are given what their op has computed: the same bits as without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core.op import KERNELS
from needle_core.spec import DTYPES
from needle_numpy_backend.kept import PAIRS

Array = Any
RNG = np.random.default_rng(0)
EDGES = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e30, -1e30, 45.0, -45.0]


def heads(layout: str) -> Array:
    values = RNG.normal(size=(2, 5, 3, 4))
    return values.transpose(0, 2, 1, 3) if layout == "permuted" else np.ascontiguousarray(values.transpose(0, 2, 1, 3))


def attention(layout: str) -> tuple[list[Array], dict[str, Any]]:
    masks: dict[str, list[Array]] = {
        "bool mask": [RNG.random((5, 5)) < 0.7],
        "added mask": [np.where(RNG.random((5, 5)) < 0.7, 0.0, -np.inf)],
    }
    return [*(heads(layout) for _ in range(3)), *masks.get(layout, [])], {"causal": layout != "bool mask", "scale": 0.5}


def rows(layout: str) -> tuple[list[Array], dict[str, Any]]:
    x = RNG.normal(size=(6, 8))
    return [x.T.copy().T if layout == "permuted" else x, RNG.normal(size=8), RNG.normal(size=8)], {"eps": 1e-5}


def numbers(layout: str) -> tuple[list[Array], dict[str, Any]]:
    x = np.concatenate([EDGES, RNG.normal(size=300 if layout != "large" else 70_000)])
    return [x[::2] if layout == "permuted" else x], {"approximate": "none" if layout == "exact" else "tanh"}


CASES: dict[str, tuple[Callable[[str], tuple[list[Array], dict[str, Any]]], list[str], int]] = {
    "scaled_dot_product_attention_grad": (attention, ["plain", "permuted", "bool mask", "added mask"], 4),
    "layer_norm_grad": (rows, ["plain", "permuted"], 2),
    "gelu_grad": (numbers, ["plain", "permuted", "exact", "large"], 1),
}
"""For each gradient what makes operands and attributes of the op, in which forms, and how many of them the gradient gets."""


def test_each_pair_is_tested() -> None:
    assert CASES.keys() == PAIRS.keys()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize(("name", "layout"), [(name, layout) for name, (_, layouts, _) in CASES.items() for layout in layouts])
def test_a_pair_gives_the_bits_of_its_kernels(name: str, layout: str, dtype: str) -> None:
    make, _, count = CASES[name]
    operands, attrs = make(layout)
    numpy_dtype = DTYPES[dtype].numpy
    operands = [x if x.dtype == np.bool_ else x.astype(numpy_dtype, order="K") for x in operands]
    before = [x.copy() for x in operands]
    pair = PAIRS[name]
    y, kept = pair.keeping(*operands, **attrs)
    assert same(y, KERNELS[pair.op, "numpy"](*operands, **attrs))
    g = RNG.normal(size=y.shape).astype(numpy_dtype)
    for _ in range(2):  # what is kept is not used up
        made = pair.given(kept, g, *operands[:count], **attrs)
        expected = KERNELS[name, "numpy"](g, *operands[:count], **attrs)
        pairs = zip(made, expected, strict=True) if isinstance(expected, tuple) else [(made, expected)]
        assert all(same(a, b) for a, b in pairs)
    assert all(same(a, b) for a, b in zip(operands, before, strict=True))


def same(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def test_a_compiled_step_pairs_an_op_with_its_gradient() -> None:
    x = ndl.Tensor(RNG.normal(size=(4, 8)), requires_grad=True)

    @ndl.compile
    def step() -> ndl.Tensor:
        x.grad = None
        ndl.gelu(x, approximate="tanh").sum().backward()
        assert x.grad is not None
        return x.grad

    gradient = step()
    x.grad = None
    ndl.gelu(x, approximate="tanh").sum().backward()
    assert x.grad is not None
    assert same(gradient.numpy(), x.grad.numpy())


def test_gradients_of_other_operands_are_computed_on_their_own() -> None:
    def function(x: ndl.Tensor, y: ndl.Tensor, g: ndl.Tensor) -> Any:
        return ndl.gelu(x), ndl.ops.gelu_grad(g, y), ndl.ops.gelu_grad(g, x, approximate="tanh"), ndl.ops.gelu_grad(g, x)

    tensors = [ndl.Tensor(RNG.normal(size=5)) for _ in range(3)]
    for a, b in zip(ndl.compile(function)(*tensors), function(*tensors), strict=True):
        assert same(a.numpy(), b.numpy())
