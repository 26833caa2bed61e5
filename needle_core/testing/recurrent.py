"""Declarations of recurrent networks. The references take one sample and one step at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, TypeAlias

import numpy as np

from needle_core.errors import ArgumentError, ShapeError
from needle_core.testing.reduce import FROM_ZERO
from needle_core.testing.samples import (
    COMPLEX,
    Array,
    Input,
    Reference,
    Refusal,
    declare,
    floats,
    real,
    refuses,
    sample,
)


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def _tanh(x: Array) -> Array:
    return np.asarray(np.tanh(x))


def _ramp(x: Array) -> Array:
    return np.where(x.real > 0, x, 0 * x)


def _walk(x: Array, reverse: bool) -> Iterator[tuple[int, int, int | None]]:
    """Every sample with every step of it, in the order of computing, and the step before; None before the first."""
    steps = list(range(len(x)))[:: -1 if reverse else 1]
    for k in range(x.shape[1]):
        yield from ((k, s, before) for s, before in zip(steps, [None, *steps], strict=False))


def _back(x: Array, reverse: bool) -> list[tuple[int, int, int | None]]:
    return list(_walk(x, reverse))[::-1]


def _zeros(x: Array, d: int, *others: Array) -> Array:
    """Of the shape of all states, in the dtype where the operands meet."""
    return np.zeros((*x.shape[:2], d), np.result_type(x, *others))


def _empty_like(*operands: Array) -> list[Array]:
    """Where gradients for the operands are added up."""
    return [np.zeros(a.shape, np.result_type(*operands)) for a in operands]


# -- the plain network ------------------------------------------------------------------------------------------------------


def _rnn(x: Array, h: Array, w_ih: Array, w_hh: Array, bias: Array, nonlinearity: str = "tanh", reverse: bool = False) -> Array:
    y = _zeros(x, h.shape[1], h, w_ih, w_hh, bias)
    for k, s, p in _walk(x, reverse):
        a = x[s, k] @ w_ih + (h[k] if p is None else y[p, k]) @ w_hh + bias
        y[s, k] = _tanh(a) if nonlinearity == "tanh" else _ramp(a)
    return y


def _rnn_grad(
    g: Array, y: Array, x: Array, h: Array, w_ih: Array, w_hh: Array, bias: Array, nonlinearity: str = "tanh",
    reverse: bool = False,
) -> tuple[Array, ...]:  # fmt: skip
    dx, dh, dw_ih, dw_hh, db, *_ = _empty_like(x, h, w_ih, w_hh, bias, g, y)
    for k, s, p in _back(x, reverse):
        slope = 1 - y[s, k] ** 2 if nonlinearity == "tanh" else y[s, k].real > 0
        da = (dh[k] + g[s, k]) * slope
        dx[s, k], dh[k] = w_ih @ da, w_hh @ da
        dw_ih += np.outer(x[s, k], da)
        dw_hh += np.outer(h[k] if p is None else y[p, k], da)
        db += da
    return dx, dh, dw_ih, dw_hh, db


# -- long short-term memory -------------------------------------------------------------------------------------------------


def _lstm(x: Array, h: Array, c: Array, w_ih: Array, w_hh: Array, bias: Array, reverse: bool = False) -> tuple[Array, Array]:
    y, cs = (_zeros(x, h.shape[1], h, c, w_ih, w_hh, bias) for _ in range(2))
    for k, s, p in _walk(x, reverse):
        h1, c1 = (h[k], c[k]) if p is None else (y[p, k], cs[p, k])
        i, f, g, o = np.split(x[s, k] @ w_ih + h1 @ w_hh + bias, 4)
        cs[s, k] = _sigmoid(f) * c1 + _sigmoid(i) * _tanh(g)
        y[s, k] = _sigmoid(o) * _tanh(cs[s, k])
    return y, cs


def _lstm_grad(
    gy: Array, gc: Array, y: Array, cs: Array, x: Array, h: Array, c: Array, w_ih: Array, w_hh: Array, bias: Array,
    reverse: bool = False,
) -> tuple[Array, ...]:  # fmt: skip
    dx, dh, dc, dw_ih, dw_hh, db, *_ = _empty_like(x, h, c, w_ih, w_hh, bias, gy, gc, y, cs)
    for k, s, p in _back(x, reverse):
        h1, c1 = (h[k], c[k]) if p is None else (y[p, k], cs[p, k])
        a, f, g, o = np.split(x[s, k] @ w_ih + h1 @ w_hh + bias, 4)
        i, f, g, o, u = _sigmoid(a), _sigmoid(f), _tanh(g), _sigmoid(o), _tanh(cs[s, k])
        to_h = dh[k] + gy[s, k]
        to_c = dc[k] + gc[s, k] + to_h * o * (1 - u * u)
        da = np.concatenate([to_c * g * i * (1 - i), to_c * c1 * f * (1 - f), to_c * i * (1 - g * g), to_h * u * o * (1 - o)])
        dx[s, k], dh[k], dc[k] = w_ih @ da, w_hh @ da, to_c * f
        dw_ih += np.outer(x[s, k], da)
        dw_hh += np.outer(h1, da)
        db += da
    return dx, dh, dc, dw_ih, dw_hh, db


# -- the gated recurrent unit -----------------------------------------------------------------------------------------------


def _gru_gates(x: Array, h: Array, w_ih: Array, w_hh: Array, b_ih: Array, b_hh: Array) -> tuple[Array, ...]:
    (ar, az, an), (br, bz, bn) = np.split(x @ w_ih + b_ih, 3), np.split(h @ w_hh + b_hh, 3)
    r = _sigmoid(ar + br)
    return r, _sigmoid(az + bz), _tanh(an + r * bn), bn


def _gru(
    x: Array, h: Array, w_ih: Array, w_hh: Array, b_ih: Array, b_hh: Array, reverse: bool = False
) -> Array:  # fmt: skip
    y = _zeros(x, h.shape[1], h, w_ih, w_hh, b_ih, b_hh)
    for k, s, p in _walk(x, reverse):
        h1 = h[k] if p is None else y[p, k]
        _, z, n, _ = _gru_gates(x[s, k], h1, w_ih, w_hh, b_ih, b_hh)
        y[s, k] = (1 - z) * n + z * h1
    return y


def _gru_grad(
    g: Array, y: Array, x: Array, h: Array, w_ih: Array, w_hh: Array, b_ih: Array, b_hh: Array, reverse: bool = False
) -> tuple[Array, ...]:
    dx, dh, dw_ih, dw_hh, db_ih, db_hh, *_ = _empty_like(x, h, w_ih, w_hh, b_ih, b_hh, g, y)
    for k, s, p in _back(x, reverse):
        h1 = h[k] if p is None else y[p, k]
        r, z, n, bn = _gru_gates(x[s, k], h1, w_ih, w_hh, b_ih, b_hh)
        to_h = dh[k] + g[s, k]
        dn, dz = to_h * (1 - z) * (1 - n * n), to_h * (h1 - n) * z * (1 - z)
        dr = dn * bn * r * (1 - r)
        da, db = np.concatenate([dr, dz, dn]), np.concatenate([dr, dz, dn * r])
        dx[s, k], dh[k] = w_ih @ da, to_h * z + w_hh @ db
        dw_ih += np.outer(x[s, k], da)
        dw_hh += np.outer(h1, db)
        db_ih += da
        db_hh += db
    return dx, dh, dw_ih, dw_hh, db_ih, db_hh


# -- declarations -----------------------------------------------------------------------------------------------------------

Call: TypeAlias = tuple[list[Input], dict[str, Any]]

_SIZES: Final = ((2, 1, 2, 3), (3, 2, 1, 1), (1, 1, 1, 1), (0, 2, 2, 3), (2, 0, 2, 3), (2, 2, 0, 2), (2, 2, 3, 0))


def _operands(t: int, n: int, i: int, d: int, gates: int, states: int = 1, biases: int = 1) -> list[Input]:
    return [real(t, n, i), *[real(n, d)] * states, real(i, gates * d), real(d, gates * d), *[real(gates * d)] * biases]


def _calls(**counts: int) -> list[Call]:
    """There and back in time."""
    return [(_operands(*sizes, **counts), way) for sizes in _SIZES for way in ({}, {"reverse": True})]


def _with_relu(t: int, n: int, i: int, d: int) -> list[Input]:
    """Operands of rnn of which the bias alone decides what is above zero."""
    near = [real(t, n, i, low=-0.3, high=0.3), real(n, d), real(i, d, low=-0.5, high=0.5), real(d, d, low=-0.1, high=0.1)]
    return [*near, real(d, kinks=(0.0,), margin=1.5)]


def _declare(
    name: str, references: tuple[Reference, Reference], calls: list[Call], refusals: list[Refusal], states: int = 1
) -> None:
    """Declare an op and its gradient, which takes any numbers for states and their gradients."""
    ahead = [sample(*operands, **attrs) for operands, attrs in calls]
    back = []
    for operands, attrs in calls:
        (t, n, _), (_, d) = operands[0].shape, operands[1].shape
        back.append(sample(*[real(t, n, d, low=-1, high=1, kinks=(0.0,))] * (2 * states), *operands, **attrs))
    what: dict[str, Any] = {"gradient": COMPLEX, "result": floats, "rounds": 16, "either_zero": FROM_ZERO, "lax": _SATURATED}
    wrong = [back[0].inputs[0], real(1, 1, 1), *back[0].inputs[2:]]
    declare(name, references[0], ahead, terms=8, refusals=refusals, **what)
    declare(name + "_grad", references[1], back, terms=32, **what,
            refusals=[refuses(ShapeError, "states and their gradients need the shape [2, 1, 3]", *wrong)])  # fmt: skip


_SATURATED: Final = "a gate that an infinity has closed is 0 times what it lets through"
_NO_SEQUENCE: Final = "x has the axes (time, sample, feature), and h (sample, unit)"


_declare("rnn", (_rnn, _rnn_grad), [
    *_calls(gates=1),
    *((_with_relu(*sizes), {"nonlinearity": "relu", **way}) for sizes in _SIZES[:3] for way in ({}, {"reverse": True})),
], [
    refuses(ArgumentError, "nonlinearity is 'tanh' or 'relu', not 'gelu'", *_operands(2, 3, 1, 2, 1), nonlinearity="gelu"),
    refuses(ShapeError, _NO_SEQUENCE, real(3, 1), real(3, 2), real(1, 2), real(2, 2), real(2)),
    refuses(ShapeError, _NO_SEQUENCE, real(2, 3, 1), real(2), real(1, 2), real(2, 2), real(2)),
    refuses(ShapeError, "h needs the shape [3, 2] for 3 samples, 1 features and 2 units",
            real(2, 3, 1), real(4, 2), real(1, 2), real(2, 2), real(2)),
    refuses(ShapeError, "w_ih needs the shape [1, 2]", real(2, 3, 1), real(3, 2), real(2, 2), real(2, 2), real(2)),
    refuses(ShapeError, "w_hh needs the shape [2, 2]", real(2, 3, 1), real(3, 2), real(1, 2), real(2, 4), real(2)),
    refuses(ShapeError, "bias needs the shape [2]", real(2, 3, 1), real(3, 2), real(1, 2), real(2, 2), real(1)),
])  # fmt: skip
_declare("lstm", (_lstm, _lstm_grad), _calls(gates=4, states=2), [
    refuses(ShapeError, "c needs the shape [3, 2]", real(2, 3, 1), real(3, 2), real(3, 1), real(1, 8), real(2, 8), real(8)),
    refuses(ShapeError, "w_ih needs the shape [1, 8]", real(2, 3, 1), real(3, 2), real(3, 2), real(1, 2), real(2, 8), real(8)),
], states=2)  # fmt: skip
_declare("gru", (_gru, _gru_grad), _calls(gates=3, biases=2), [
    refuses(ShapeError, "b_hh needs the shape [6]", real(2, 3, 1), real(3, 2), real(1, 6), real(2, 6), real(6), real(2)),
])  # fmt: skip
