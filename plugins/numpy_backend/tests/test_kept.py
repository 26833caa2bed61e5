"""Gradients that are given what their op has computed: the same bits as without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core import tree
from needle_core.op import KERNELS
from needle_core.spec import DTYPES
from needle_numpy_backend.kept import PAIRS, paired

Array = Any
ndl.device("numpy")  # so that its kernels are in the table
RNG = np.random.default_rng(0)


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
    x = RNG.normal(size=(40, 1000))
    x[0, :6] = [np.inf, -np.inf, np.nan, 1e4, -1e4, 0]
    forms = {"permuted": x.T, "one": x[1, 1]}
    return [np.asarray(forms.get(layout, x))], {"approximate": "none" if layout == "exact" else "tanh"}


CASES: dict[str, tuple[Callable[[str], tuple[list[Array], dict[str, Any]]], list[str], int]] = {
    "scaled_dot_product_attention_grad": (attention, ["plain", "permuted", "bool mask", "added mask"], 4),
    "gelu_grad": (numbers, ["plain", "exact", "permuted", "one"], 1),
    "layer_norm_grad": (rows, ["plain", "permuted"], 2),
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
    expected = KERNELS[name, "numpy"](g, *operands[:count], **attrs)
    made = pair.given(kept, *[g, *operands[:count]][pair.reads], **attrs)
    pairs = zip(made, expected, strict=True) if isinstance(expected, tuple) else [(made, expected)]
    assert all(same(a, b) for a, b in pairs)
    assert all(same(a, b) for a, b in zip(operands, before, strict=True))


def same(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def norm(x: ndl.Tensor, w: ndl.Tensor) -> ndl.Tensor:
    y: ndl.Tensor = ndl.layer_norm(x, w, w, eps=1e-5)
    return y


def grad(g: ndl.Tensor, x: ndl.Tensor, w: ndl.Tensor, eps: float = 1e-5) -> tuple[ndl.Tensor, ...]:
    return tuple(ndl.ops.layer_norm_grad(g, x, w, eps=eps))


@pytest.mark.parametrize(
    ("function", "pairs"),
    [
        pytest.param(lambda x, y, w: (norm(x, w), grad(y, x, w)), 1, id="one"),
        pytest.param(lambda x, y, w: (norm(x, w), grad(y, x, w), grad(x, x, w)), 1, id="an op keeps for one gradient"),
        pytest.param(lambda x, y, w: (norm(x, w), norm(y, w), grad(x, y, w), grad(y, x, w)), 2, id="two"),
        pytest.param(lambda x, y, w: (norm(x, w), grad(x, y, w)), 0, id="other operands"),
        pytest.param(lambda x, y, w: (norm(x, w), grad(y, x, w, 1e-3)), 0, id="another attribute"),
        pytest.param(lambda x, y, w: (grad(y, x, w), norm(x, w)), 0, id="the op comes later"),
    ],
)
def test_pairs_are_joined_and_the_numbers_stay(function: Callable[..., Any], pairs: int) -> None:
    tensors = [ndl.Tensor(RNG.normal(size=shape)) for shape in ((6, 8), (6, 8), (8,))]
    step = ndl.compile(function)
    for y, z in zip(leaves(step(*tensors)), leaves(function(*tensors)), strict=True):
        assert same(y.numpy(), z.numpy())
    _, functions = paired(step.graph.unfused())
    assert len(functions) == 2 * pairs


def leaves(value: Any) -> list[ndl.Tensor]:
    return tree.flatten(value)[0]


def test_a_gradient_without_a_mask_is_not_that_of_attention_with_one() -> None:
    q, k, v, g = (ndl.Tensor(heads("plain")) for _ in range(4))
    mask = ndl.Tensor(np.tri(5, dtype=np.bool_))

    def function(q: ndl.Tensor, k: ndl.Tensor, v: ndl.Tensor, g: ndl.Tensor) -> Any:
        attrs = {"causal": False, "scale": 0.5}
        masked = ndl.scaled_dot_product_attention(q, k, v, mask, **attrs)
        return masked, ndl.ops.scaled_dot_product_attention_grad(g, q, k, v, **attrs)

    for y, z in zip(leaves(ndl.compile(function)(q, k, v, g)), leaves(function(q, k, v, g)), strict=True):
        assert same(y.numpy(), z.numpy())
