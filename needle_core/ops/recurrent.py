"""Recurrent networks over whole sequences.

Time comes first. An op returns the states after every step: these and its operands are all that the gradient needs, which is an
op of its own (`..._grad`). It finds the gates of all steps by products of whole sequences, and so it does the gradients for the
weights: only what one step hands on to another goes step by step, forward as backward.

The sizes are t steps, n samples, i features and d hidden units. The blocks of weights and biases follow each other along the
last axis, one for each gate. With `reverse`, the last step is taken first; y[s] is still the state after step s.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from needle_core.doors import promoting, to_floating
from needle_core.errors import ArgumentError, ShapeError
from needle_core.op import Door, composite
from needle_core.ops.activation import relu, sigmoid
from needle_core.ops.create import zeros, zeros_like
from needle_core.ops.elementary import tanh
from needle_core.ops.elementwise import less
from needle_core.ops.linalg import by_matrix, linear
from needle_core.ops.reduce import sum
from needle_core.ops.shape import concat, expand_dims, split, stack
from needle_core.spec import Spec
from needle_core.tensor import Tensor

__all__ = [
    "gru", "gru_grad", "lstm", "lstm_grad", "rnn", "rnn_grad",
]  # fmt: skip

Attrs: TypeAlias = dict[str, Any]

# -- doors ------------------------------------------------------------------------------------------------------------------


def _recurrent(gates: int, x: Spec, **operands: Spec) -> Spec:
    """The spec of the states after every step; refuses what does not fit."""
    if x.ndim != 3 or operands["h"].ndim != 2:
        raise ShapeError("x has the axes (time, sample, feature), and h (sample, unit)")
    (t, n, i), d = x.shape, operands["h"].shape[1]
    shapes = {"h": (n, d), "c": (n, d), "w_ih": (i, gates * d), "w_hh": (d, gates * d)}
    for name, spec in operands.items():
        shape = shapes.get(name, (gates * d,))  # of a bias
        if spec.shape != shape:
            raise ShapeError(f"{name} needs the shape {list(shape)} for {n} samples, {i} features and {d} units")
    return x.like(shape=(t, n, d))


@promoting(to_floating)
def _rnn(
    x: Spec, h: Spec, w_ih: Spec, w_hh: Spec, bias: Spec, *, nonlinearity: str = "tanh", reverse: bool = False
) -> tuple[Spec, Attrs]:
    if nonlinearity not in ("tanh", "relu"):
        raise ArgumentError(f"nonlinearity is 'tanh' or 'relu', not {nonlinearity!r}")
    y = _recurrent(1, x, h=h, w_ih=w_ih, w_hh=w_hh, bias=bias)
    return y, {"nonlinearity": nonlinearity, "reverse": bool(reverse)}


@promoting(to_floating)
def _lstm(
    x: Spec, h: Spec, c: Spec, w_ih: Spec, w_hh: Spec, bias: Spec, *, reverse: bool = False
) -> tuple[tuple[Spec, ...], Attrs]:
    y = _recurrent(4, x, h=h, c=c, w_ih=w_ih, w_hh=w_hh, bias=bias)
    return (y, y), {"reverse": bool(reverse)}


@promoting(to_floating)
def _gru(x: Spec, h: Spec, w_ih: Spec, w_hh: Spec, b_ih: Spec, b_hh: Spec, *, reverse: bool = False) -> tuple[Spec, Attrs]:
    return _recurrent(3, x, h=h, w_ih=w_ih, w_hh=w_hh, b_ih=b_ih, b_hh=b_hh), {"reverse": bool(reverse)}


def _gradient_of(door: Door, states: int) -> Door:
    """The door of a gradient: it takes the gradients for that many sequences of states, these, and what `door` takes."""

    @promoting(to_floating)
    def gradient(*specs: Spec, **attrs: Any) -> tuple[tuple[Spec, ...], Attrs]:
        operands = specs[2 * states :]
        y, canonical = door(*operands, **attrs)
        shape = (y[0] if isinstance(y, tuple) else y).shape
        if any(s.shape != shape for s in specs[: 2 * states]):
            raise ShapeError(f"states and their gradients need the shape {list(shape)} of all steps")
        return operands, canonical

    return gradient


# -- steps ------------------------------------------------------------------------------------------------------------------


def _steps(x: Tensor, reverse: bool) -> range:
    """The steps in the order of computing."""
    t = x.shape[0]
    return range(t - 1, -1, -1) if reverse else range(t)


def _sequence(by_step: dict[int, Tensor], like: Tensor) -> Tensor:
    """What was found for each step, in the order of time; each has the last two axes of `like`."""
    if not by_step:
        return zeros((0, *like.shape[-2:]), dtype=like.dtype, device=like.device)
    return stack([by_step[s] for s in range(len(by_step))])


def _before(y: Tensor, h: Tensor, reverse: bool) -> Tensor:
    """The states before every step: those after it, one step on, and the first of all."""
    first = expand_dims(h, 0)
    return concat(y, first)[1:] if reverse else concat(first, y)[:-1]


def _by_bias(g: Tensor) -> Tensor:
    return sum(g, axes=(0, 1))


# -- the plain network ------------------------------------------------------------------------------------------------------


@composite(_gradient_of(_rnn, states=1))
def rnn_grad(
    g: Tensor, y: Tensor, x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, bias: Tensor,
    *, nonlinearity: str = "tanh", reverse: bool = False,
) -> tuple[Tensor, ...]:  # fmt: skip
    """The gradients of rnn for x, h, w_ih, w_hh and bias, from its result y."""
    slope = less(0, y).astype(y.dtype) if nonlinearity == "relu" else 1 - y * y
    dh, das = zeros_like(h), {}
    for s in reversed(_steps(x, reverse)):
        das[s] = (dh + g[s]) * slope[s]
        dh = das[s] @ w_hh.mT
    da = _sequence(das, like=h)
    return da @ w_ih.mT, dh, by_matrix(da, x), by_matrix(da, _before(y, h, reverse)), _by_bias(da)


@composite(_rnn)
def rnn(
    x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, bias: Tensor, *, nonlinearity: str = "tanh", reverse: bool = False
) -> Tensor:
    """The states of a recurrent network after every step, from the state h before the first.

        h <- f(x[s] @ w_ih + h @ w_hh + bias),  f the `nonlinearity`, "tanh" or "relu"

    Shapes:   x (t, n, i), h (n, d), w_ih (i, d), w_hh (d, d), bias (d) -> (t, n, d)
    Gradient: of relu 0 at 0
    Raises:   ShapeError if the sizes do not fit
    Source:   Elman 1990, doi:10.1207/s15516709cog1402_1
    """
    f, a, ys = relu if nonlinearity == "relu" else tanh, linear(x, w_ih, bias), {}
    for s in _steps(x, reverse):
        h = ys[s] = f(a[s] + h @ w_hh)
    return _sequence(ys, like=h)


rnn.vjp_joint(lambda g, y, *operands, **attrs: rnn_grad(g, y, *operands, **attrs))


# -- long short-term memory -------------------------------------------------------------------------------------------------


@composite(_gradient_of(_lstm, states=2))
def lstm_grad(
    gy: Tensor, gc: Tensor, y: Tensor, cs: Tensor,
    x: Tensor, h: Tensor, c: Tensor, w_ih: Tensor, w_hh: Tensor, bias: Tensor, *, reverse: bool = False,
) -> tuple[Tensor, ...]:  # fmt: skip
    """The gradients of lstm for x, h, c, w_ih, w_hh and bias, from its results y and cs."""
    before = _before(y, h, reverse)
    a = linear(x, w_ih, bias) + before @ w_hh
    (i, f, g, o), u = _lstm_gates(a), tanh(cs)
    by_i, by_f, by_g = g * i * (1 - i), _before(cs, c, reverse) * f * (1 - f), i * (1 - g * g)
    by_o, by_c = u * o * (1 - o), o * (1 - u * u)
    dh, dc, das = zeros_like(h), zeros_like(c), {}
    for s in reversed(_steps(x, reverse)):
        dh = dh + gy[s]
        dc = dc + gc[s] + dh * by_c[s]
        das[s] = concat(dc * by_i[s], dc * by_f[s], dc * by_g[s], dh * by_o[s], axis=-1)
        dh, dc = das[s] @ w_hh.mT, dc * f[s]
    da = _sequence(das, like=a)
    return da @ w_ih.mT, dh, dc, by_matrix(da, x), by_matrix(da, before), _by_bias(da)


@composite(_lstm)
def lstm(
    x: Tensor, h: Tensor, c: Tensor, w_ih: Tensor, w_hh: Tensor, bias: Tensor, *, reverse: bool = False
) -> tuple[Tensor, Tensor]:
    """The states h and c of long short-term memory after every step, from those before the first.

        i, f, g, o = the blocks of x[s] @ w_ih + h @ w_hh + bias, all but g through sigmoid, g through tanh
        c <- f c + i g
        h <- o tanh(c)

    Shapes:   x (t, n, i), h and c (n, d), w_ih (i, 4d), w_hh (d, 4d), bias (4d) -> (t, n, d), (t, n, d)
    Raises:   ShapeError if the sizes do not fit
    Source:   Gers, Schmidhuber & Cummins 2000, doi:10.1162/089976600300015015
    """
    a, ys, cs = linear(x, w_ih, bias), {}, {}
    for s in _steps(x, reverse):
        i, f, g, o = _lstm_gates(a[s] + h @ w_hh)
        c = cs[s] = f * c + i * g
        h = ys[s] = o * tanh(c)
    return _sequence(ys, like=h), _sequence(cs, like=c)


def _lstm_gates(a: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    i, f, g, o = split(a, 4, axis=-1)
    return sigmoid(i), sigmoid(f), tanh(g), sigmoid(o)


lstm.vjp_joint(lambda g, y, *operands, reverse: lstm_grad(*g, *y, *operands, reverse=reverse))


# -- the gated recurrent unit -----------------------------------------------------------------------------------------------


@composite(_gradient_of(_gru, states=1))
def gru_grad(
    g: Tensor, y: Tensor,
    x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor, *, reverse: bool = False,
) -> tuple[Tensor, ...]:  # fmt: skip
    """The gradients of gru for x, h, w_ih, w_hh, b_ih and b_hh, from its result y."""
    before = _before(y, h, reverse)
    b = linear(before, w_hh, b_hh)
    (r, z, n), u = _gru_gates(linear(x, w_ih, b_ih), b), split(b, 3, axis=-1)[2]
    by_n = (1 - z) * (1 - n * n)
    by_r, by_z, by_u = by_n * u * r * (1 - r), (before - n) * z * (1 - z), by_n * r
    dh, dhs, dbs = zeros_like(h), {}, {}
    for s in reversed(_steps(x, reverse)):
        dh = dhs[s] = dh + g[s]
        dbs[s] = concat(dh * by_r[s], dh * by_z[s], dh * by_u[s], axis=-1)
        dh = dh * z[s] + dbs[s] @ w_hh.mT
    db = _sequence(dbs, like=b)
    dr, dz, _ = split(db, 3, axis=-1)
    da = concat(dr, dz, _sequence(dhs, like=h) * by_n, axis=-1)
    return da @ w_ih.mT, dh, by_matrix(da, x), by_matrix(db, before), _by_bias(da), _by_bias(db)


@composite(_gru)
def gru(x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor, *, reverse: bool = False) -> Tensor:
    """The states of a gated recurrent unit after every step, from the state h before the first.

        ar, az, an = the blocks of x[s] @ w_ih + b_ih,  br, bz, bn = those of h @ w_hh + b_hh
        r, z, n = sigmoid(ar + br), sigmoid(az + bz), tanh(an + r bn)
        h <- (1 - z) n + z h

    Shapes:   x (t, n, i), h (n, d), w_ih (i, 3d), w_hh (d, 3d), b_ih and b_hh (3d) -> (t, n, d)
    Raises:   ShapeError if the sizes do not fit
    Source:   Cho et al. 2014, arXiv:1406.1078, with the reset gate after the product
    """
    a, ys = linear(x, w_ih, b_ih), {}
    for s in _steps(x, reverse):
        _, z, n = _gru_gates(a[s], linear(h, w_hh, b_hh))
        h = ys[s] = n + z * (h - n)
    return _sequence(ys, like=h)


def _gru_gates(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    (ar, az, an), (br, bz, bn) = split(a, 3, axis=-1), split(b, 3, axis=-1)
    r = sigmoid(ar + br)
    return r, sigmoid(az + bz), tanh(an + r * bn)


gru.vjp_joint(lambda g, y, *operands, reverse: gru_grad(g, y, *operands, reverse=reverse))
