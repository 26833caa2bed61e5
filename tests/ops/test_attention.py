"""Attention where the declarations do not reach: golden numbers, queries that see nothing, large scores and long sequences."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core.tensor import Tensor

# PyTorch 2.13, float64: F.scaled_dot_product_attention(q, k, v, is_causal=True) of the operands below; gradients for (1, -2)
# as the cotangent of every query.
RESULT = [0.0, 0.644217687237691, 0.7447258480871505, 0.8097144743497362, 0.1526083534552535, 0.4599778802529874,
          -0.8715757724135877, -0.9824526126243326, -0.7077238737983927, -0.30111473627603674, -0.44609483596838684,
          -0.3766153559640421]  # fmt: skip
BY_QUERY = [-0.08356338567156839, -0.012968766117208215, 0.06954927719678398, 0.08812403579897785]  # of query 1
BY_KEY = [-0.14490136094346234, -0.027831986672348357, 0.11482598779154005, 0.15191347862706026]  # of key 0
BY_VALUE = [1.9547713654427703, -3.9095427308855406, 0.8412410690005035, -1.682482138001007]  # of values 0 and 1


def _operands() -> tuple[Tensor, Tensor, Tensor]:
    count = np.arange(24.0)
    arrays = np.sin(count).reshape(2, 3, 4), np.cos(count).reshape(2, 3, 4), np.sin(0.7 * np.arange(12)).reshape(2, 3, 2)
    return tuple(Tensor(x, requires_grad=True) for x in arrays)  # type: ignore[return-value]


def test_attention_and_its_gradients_are_those_of_pytorch() -> None:
    q, k, v = _operands()
    y = ndl.scaled_dot_product_attention(q, k, v, causal=True)
    y.backward(Tensor(np.broadcast_to([1.0, -2.0], y.shape)))
    np.testing.assert_allclose(y.numpy().ravel(), RESULT, rtol=1e-12, atol=1e-15)
    for x, expected, first in ((q, BY_QUERY, 4), (k, BY_KEY, 0), (v, BY_VALUE, 0)):
        assert x.grad is not None
        np.testing.assert_allclose(x.grad.numpy().ravel()[first : first + 4], expected, rtol=1e-12)


@pytest.mark.parametrize("body", [False, True])
@pytest.mark.parametrize(
    "mask", [np.array([[True, False], [False, False]]), np.array([[0, -math.inf], [-math.inf, -math.inf]])]
)
def test_a_query_that_sees_nothing_gives_zeros_and_gradients_of_zero(mask: Any, body: bool) -> None:
    q, k, v = (Tensor(np.full((2, 3), c), requires_grad=True) for c in (1.0, 2.0, 3.0))
    attention: Any = ndl.scaled_dot_product_attention
    y = (attention.run_body if body else attention)(q, k, v, Tensor(mask))
    y.sum().backward()
    assert y.tolist() == [[3, 3, 3], [0, 0, 0]]
    assert q.grad is not None
    assert v.grad is not None
    assert q.grad.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert v.grad.tolist() == [[1, 1, 1], [0, 0, 0]]


def test_more_queries_than_keys_see_nothing_at_first_if_causal() -> None:
    one = ndl.ones((2, 3))
    assert ndl.scaled_dot_product_attention(ndl.ones((4, 3)), one, one, causal=True).tolist() == [[0] * 3] * 2 + [[1] * 3] * 2


@pytest.mark.parametrize("body", [False, True])
def test_a_score_that_is_nan_is_not_hidden(body: bool) -> None:
    x, mask = Tensor([[math.nan], [1.0]]), Tensor([True, True])
    attention: Any = ndl.scaled_dot_product_attention
    y = (attention.run_body if body else attention)(x, x, ndl.ones((2, 1)), mask)
    assert np.isnan(y.numpy()).all()


def test_the_last_queries_of_a_sequence_see_what_they_see_in_the_whole() -> None:
    q, k, v = _operands()
    whole = ndl.scaled_dot_product_attention(q, k, v, causal=True)
    np.testing.assert_allclose(
        ndl.scaled_dot_product_attention(q[:, -1:], k, v, causal=True).numpy(), whole[:, -1:].numpy(), rtol=1e-14
    )


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_large_scores_do_not_overflow(dtype: str) -> None:
    q, k = Tensor([[100.0]], dtype=dtype), Tensor([[100.0], [-100.0]], dtype=dtype)
    assert ndl.scaled_dot_product_attention(q, k, Tensor([[1.0], [2.0]], dtype=dtype)).tolist() == [[1.0]]


def test_equal_keys_give_the_mean_of_long_sequences_in_half_precision() -> None:
    v = np.random.default_rng(0).uniform(0, 1, (4096, 2)).astype(np.float16)
    y = ndl.scaled_dot_product_attention(ndl.zeros((1, 4), dtype="float16"), ndl.zeros((4096, 4), dtype="float16"), Tensor(v))
    np.testing.assert_allclose(y.numpy()[0], v.astype(np.float64).mean(0), rtol=1e-3)


def test_gradients_of_gradients_through_the_causal_op() -> None:
    q, k, v = _operands()
    mask = Tensor(np.tri(3, dtype=bool))

    def slope(**how: Any) -> Tensor:
        masks = [] if how else [mask]
        f = ndl.grad(lambda t: (ndl.scaled_dot_product_attention(t, k, v, *masks, **how) ** 2).sum())
        second: Tensor = ndl.grad(lambda t: (f(t) ** 2).sum())(q)
        return second

    np.testing.assert_allclose(slope(causal=True).numpy(), slope().numpy(), rtol=1e-10, atol=1e-14)


def test_weights_add_up_to_one_and_none_lies_ahead() -> None:
    q, k, _ = _operands()
    p = ndl.attention_weights(q, k, causal=True).numpy()
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-14)
    assert not np.triu(p, 1).any()
