"""Recurrent networks step by step, against the kernels of the NumPy backend in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from needle_core import Tensor
from needle_core.op import OPS
from needle_core.spec import DTYPES
from needle_cuda_backend.recurrent import gru, gru_grad, lstm, lstm_grad, rnn, rnn_grad

RNG = np.random.default_rng(0)
EPS = {"float16": 2**-11, "bfloat16": 2**-8, "float32": 2**-23, "float64": 2**-52}
SIZES = [
    (3, 2, 4, 5), (1, 3, 2, 8), (3, 1, 2, 4), (3, 8, 2, 1), (4, 1, 3, 130), (0, 2, 3, 4), (2, 2, 0, 3), (2, 0, 3, 2),
    (3, 3, 2, 3),
]  # fmt: skip
"""t, n, i, d; with packs of whole rows, of samples, of both, and of none."""
GATES = {"lstm": 4, "gru": 3, "rnn": 1}


def _operands(name: str, sizes: tuple[int, int, int, int], dtype: str) -> list[Any]:
    t, n, i, d = sizes
    wide = GATES[name] * d
    shapes: list[tuple[int, ...]] = [(t, n, i), (n, d), *([(n, d)] if name == "lstm" else []), (i, wide), (d, wide), (wide,)]
    shapes += [(wide,)] if name == "gru" else []
    return [(RNG.normal(size=s) / (1 + d) ** 0.5).astype(DTYPES[dtype].numpy) for s in shapes]


def _expected(name: str, operands: list[Any], attrs: dict[str, Any]) -> tuple[Any, ...]:
    y = OPS[name](*(Tensor(a.astype(np.float64), device="numpy") for a in operands), **attrs)
    return tuple(x.numpy() for x in (y if isinstance(y, tuple) else (y,)))


@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("network", [lstm, gru, rnn])
def test_states_and_their_gradients(simulated: Any, case: Any, network: Any, reverse: bool, dtype: str) -> None:
    name, gradient = network.__name__, {"lstm": lstm_grad, "gru": gru_grad, "rnn": rnn_grad}[network.__name__]
    cases, expected = [], []
    for k, sizes in enumerate(SIZES):
        attrs = {"reverse": reverse, **({"nonlinearity": ("tanh", "relu")[k % 2]} if name == "rnn" else {})}
        operands = _operands(name, sizes, dtype)
        states = _expected(name, operands, attrs)
        given = [RNG.normal(size=s.shape).astype(DTYPES[dtype].numpy) for s in states]
        given += [s.astype(DTYPES[dtype].numpy) for s in states] + operands
        cases += [case(network, operands, attrs, fixed=k % 5 < 4), case(gradient, given, attrs, fixed=k % 5 < 4)]
        expected += [states, _expected(f"{name}_grad", given, attrs)]
    for ys, zs in zip(simulated.results(cases), expected, strict=True):
        for y, z in zip(ys, zs, strict=True):
            scale = max(1.0, float(np.abs(z).max(initial=0)))
            np.testing.assert_allclose(y.astype(np.float64), z, rtol=0, atol=32 * scale * EPS[dtype])
