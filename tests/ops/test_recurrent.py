"""Recurrent networks over whole sequences where the declarations do not reach."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core.errors import ShapeError
from needle_core.op import KERNELS

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
STATES = {"rnn": 1, "lstm": 2, "gru": 1}


def operands(op: str, t: int, n: int, i: int, d: int, dtype: str = "float64", scale: float = 0.5) -> list[ndl.Tensor]:
    """Random operands."""
    rng, width = np.random.default_rng(0), GATES[op] * d
    shapes = [(t, n, i), *[(n, d)] * STATES[op], (i, width), (d, width), *[(width,)] * (2 if op == "gru" else 1)]
    return [ndl.Tensor((scale * rng.normal(size=s)).astype(dtype)) for s in shapes]


def states(op: str, *inputs: Any, **attrs: Any) -> list[np.ndarray[Any, Any]]:
    y = getattr(ndl, op)(*inputs, **attrs)
    return [s.numpy() for s in (y if isinstance(y, tuple) else (y,))]


def test_lstm_of_one_unit_by_hand() -> None:
    """All gates of a unit without weights are open half, by their biases: c = c/2 + tanh(1)/2."""
    zero, bias = ndl.zeros((1, 4)), ndl.Tensor([0.0, 0.0, 1.0, 0.0])
    y, c = ndl.lstm(ndl.zeros((2, 1, 1)), ndl.zeros((1, 1)), ndl.ones((1, 1)), zero, zero, bias)
    first = 0.5 + math.tanh(1) / 2
    expected = [first, first / 2 + math.tanh(1) / 2]
    np.testing.assert_allclose(c.numpy().ravel(), expected, rtol=1e-6)
    np.testing.assert_allclose(y.numpy().ravel(), [math.tanh(v) / 2 for v in expected], rtol=1e-6)


def test_gru_with_a_closed_update_gate_keeps_its_state() -> None:
    x, h, w_ih, w_hh, b_ih, b_hh = operands("gru", 5, 2, 3, 4)
    b_ih = ndl.Tensor(np.repeat([0.0, 1e3, 0.0], 4))
    y = ndl.gru(x, h, w_ih, w_hh, b_ih, b_hh).numpy()
    np.testing.assert_allclose(y, np.broadcast_to(h.numpy(), y.shape), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("op", GATES)
def test_a_sequence_is_its_steps_one_after_the_other(op: str) -> None:
    x, *rest = operands(op, 6, 3, 4, 5)
    before, weights = rest[: STATES[op]], rest[STATES[op] :]
    whole = states(op, x, *before, *weights)
    for s in range(6):
        found = states(op, x[s : s + 1], *before, *weights)
        for a, b in zip(found, whole, strict=True):
            np.testing.assert_allclose(a[0], b[s], rtol=1e-12, atol=1e-14)
        before = [ndl.Tensor(a[0]) for a in found]


@pytest.mark.parametrize("op", GATES)
def test_reverse_is_the_way_back_of_the_turned_sequence(op: str) -> None:
    x, *rest = operands(op, 6, 3, 4, 5)
    back, there = states(op, x, *rest, reverse=True), states(op, ndl.Tensor(x.numpy()[::-1].copy()), *rest)
    for a, b in zip(back, there, strict=True):
        np.testing.assert_allclose(a[::-1], b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("op", GATES)
def test_a_sample_does_not_see_the_others(op: str) -> None:
    x, *rest = operands(op, 4, 3, 2, 5)
    begin, weights = rest[: STATES[op]], rest[STATES[op] :]
    alone = states(op, x[:, 1:2], *(h[1:2] for h in begin), *weights)
    for a, b in zip(alone, states(op, x, *rest), strict=True):
        np.testing.assert_allclose(a[:, 0], b[:, 1], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("op", GATES)
def test_gates_that_are_wide_open_or_closed_neither_overflow_nor_stop(op: str) -> None:
    inputs = operands(op, 8, 2, 3, 4, "float32", scale=1e3)
    for t in inputs:
        t.requires_grad = True
    y = getattr(ndl, op)(*inputs)
    ndl.sum(y[0] if isinstance(y, tuple) else y).backward()
    assert np.isfinite(states(op, *inputs)).all()
    assert all(t.grad is not None and np.isfinite(t.grad.numpy()).all() for t in inputs)


@pytest.mark.parametrize("op", GATES)
def test_the_kernels_of_a_long_sequence_agree_with_the_body(op: str) -> None:
    inputs = operands(op, 40, 16, 10, 20, "float64", 0.3)
    bodies = ndl.op.OPS[op].run_body(*inputs, reverse=True)
    bodies = bodies if isinstance(bodies, tuple) else (bodies,)
    for a, b in zip(states(op, *inputs, reverse=True), bodies, strict=True):
        np.testing.assert_allclose(a, b.numpy(), rtol=1e-10, atol=1e-12)
    rng = np.random.default_rng(1)
    more = [ndl.Tensor(rng.normal(size=b.shape)) for b in bodies]
    gradient = ndl.op.OPS[op + "_grad"]
    for a, b in zip(gradient(*more, *bodies, *inputs), gradient.run_body(*more, *bodies, *inputs), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-9, atol=1e-10)


@pytest.mark.skipif(
    ("lstm", ndl.default_device().backend.name) not in KERNELS,
    reason="a body rounds after every op, a kernel after every state",
)
def test_half_precision_is_rounded_once_a_state() -> None:
    """Float16 states are within two roundings of those in float64, after 50 steps: what is handed on is not rounded."""
    wide = operands("lstm", 50, 4, 8, 8, scale=0.3)
    half = [t.astype("float16") for t in wide]
    exact = states("lstm", *(t.astype("float64") for t in half))
    for a, b in zip(states("lstm", *half), exact, strict=True):
        assert a.dtype == np.float16
        np.testing.assert_allclose(a.astype(np.float64), b, rtol=2**-10, atol=1e-5)


def test_the_gradient_for_one_input_is_that_of_all() -> None:
    inputs = operands("lstm", 3, 2, 2, 2)

    def loss(*tensors: ndl.Tensor) -> ndl.Tensor:
        y, c = ndl.lstm(*tensors)
        return ndl.sum(y * y) + ndl.sum(c)

    together = ndl.grad(loss, tuple(range(6)))(*inputs)
    for k, expected in enumerate(together):
        np.testing.assert_array_equal(ndl.grad(loss, k)(*inputs).numpy(), expected.numpy())


def test_errors_say_which_operand_does_not_fit() -> None:
    x, h, c, w_ih, w_hh, bias = operands("lstm", 3, 2, 4, 5)
    with pytest.raises(ShapeError) as caught:
        ndl.lstm(x, h, c, w_ih.mT, w_hh, bias)
    assert str(caught.value) == (
        "lstm: w_ih needs the shape [4, 20] for 2 samples, 4 features and 5 units\n"
        f"  x: float64[3, 2, 4] on {x.device}\n"
        f"  h: float64[2, 5] on {x.device}\n"
        f"  c: float64[2, 5] on {x.device}\n"
        f"  w_ih: float64[20, 4] on {x.device}\n"
        f"  w_hh: float64[5, 20] on {x.device}\n"
        f"  bias: float64[20] on {x.device}"
    )
