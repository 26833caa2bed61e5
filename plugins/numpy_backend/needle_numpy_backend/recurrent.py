"""Kernels of recurrent networks.

What does not depend on the step before is computed for all steps at once; what is left of a step is one small product and a
few operations in place. Sigmoids are tanh(x / 2) / 2 + 1/2, where the halves of x are taken from the weights: then one tanh
does for the gates of a step. That makes a step of an LSTM with 100 units and 16 samples 19 us, half of it the product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def _widened(kernel: Callable[..., tuple[Array, ...]]) -> Callable[..., Any]:
    """The kernel, with half precision computed in float32; a single result stands alone."""

    @wraps(kernel)
    def run(*operands: Array, **attrs: Any) -> Any:
        dtype = operands[0].dtype
        if dtype.itemsize == 2:
            operands = tuple(a.astype(np.float32) for a in operands)
        results = tuple(y.astype(dtype, copy=False) for y in kernel(*operands, **attrs))
        return results if len(results) > 1 else results[0]

    return run


# -- the plain network ------------------------------------------------------------------------------------------------------


@_widened
def rnn(x: Array, h: Array, w_ih: Array, w_hh: Array, bias: Array, *, nonlinearity: str, reverse: bool) -> tuple[Array, ...]:
    y = _affine(x, w_ih, bias)
    product = np.empty_like(h)
    for (y_s,) in _steps(reverse, y):
        y_s += np.matmul(h, w_hh, out=product)
        h = np.maximum(y_s, 0, out=y_s) if nonlinearity == "relu" else np.tanh(y_s, out=y_s)
    return (y,)


@_widened
def rnn_grad(
    g: Array, y: Array, x: Array, h: Array, w_ih: Array, w_hh: Array, bias: Array, *, nonlinearity: str, reverse: bool
) -> tuple[Array, ...]:
    da = (y > 0).astype(y.dtype) if nonlinearity == "relu" else 1 - y * y  # the slopes at first
    dh = np.zeros_like(h)
    for da_s, g_s in _steps(not reverse, da, g):
        dh += g_s
        da_s *= dh
        np.matmul(da_s, w_hh.T, out=dh)
    return _product(da, w_ih.T), dh, _by_weight(x, da), _by_weight(_before(y, h, reverse), da), _by_bias(da)


# -- long short-term memory -------------------------------------------------------------------------------------------------


@_widened
def lstm(x: Array, h: Array, c: Array, w_ih: Array, w_hh: Array, bias: Array, *, reverse: bool) -> tuple[Array, ...]:
    half = _halves(h, 0.5, 0.5, 1, 0.5)
    a, w = _affine(x, w_ih * half, bias * half), w_hh * half
    y, cs = (np.empty((*x.shape[:2], h.shape[1]), x.dtype) for _ in range(2))
    scale = np.tile(half, (len(h), 1))
    shift, gates = 1 - scale, np.empty_like(scale)
    i, f, g, o = np.split(gates, 4, axis=-1)
    for a_s, y_s, c_s in _steps(reverse, a, y, cs):
        np.matmul(h, w, out=gates)
        gates += a_s
        np.tanh(gates, out=gates)
        gates *= scale
        gates += shift
        i *= g
        c = np.multiply(f, c, out=c_s)
        c += i
        h = np.tanh(c, out=y_s)
        h *= o
    return y, cs


@_widened
def lstm_grad(
    gy: Array, gc: Array, y: Array, cs: Array, x: Array, h: Array, c: Array, w_ih: Array, w_hh: Array, bias: Array,
    *, reverse: bool,
) -> tuple[Array, ...]:  # fmt: skip
    half, (n, d) = _halves(h, 0.5, 0.5, 1, 0.5), h.shape
    scale = np.tile(half, (n, 1))
    inputs = np.concatenate((x, _before(y, h, reverse)), axis=-1)
    gates = _affine(inputs, np.concatenate((w_ih, w_hh)) * half, bias * half)
    np.tanh(gates, out=gates)
    da = gates * gates  # in turn: the slopes of the gates, what these do to c or h, the gradients
    np.subtract(1, da, out=da)
    da *= scale * scale
    gates *= scale
    gates += 1 - scale
    (i, f, g, o), u = np.split(gates, 4, axis=-1), np.tanh(cs)
    for block, other in zip(np.split(da, 4, axis=-1), (g, _before(cs, c, reverse), i, u), strict=True):
        block *= other
    u *= u
    by_c = np.subtract(1, u, out=u)
    by_c *= o
    dh, dc, more = np.zeros_like(h), np.zeros_like(c), np.empty_like(c)
    for da_s, f_s, gy_s, gc_s, by_c_s in _steps(not reverse, da, f, gy, gc, by_c):
        dh += gy_s
        dc += gc_s
        dc += np.multiply(dh, by_c_s, out=more)
        by_gate = da_s.reshape(n, 4, d)
        by_gate[:, :3] *= dc[:, None]
        by_gate[:, 3] *= dh
        np.matmul(da_s, w_hh.T, out=dh)
        dc *= f_s
    dw_ih, dw_hh = np.split(_by_weight(inputs, da), [x.shape[2]])
    return _product(da, w_ih.T), dh, dc, dw_ih, dw_hh, _by_bias(da)


# -- the gated recurrent unit -----------------------------------------------------------------------------------------------


@_widened
def gru(x: Array, h: Array, w_ih: Array, w_hh: Array, b_ih: Array, b_hh: Array, *, reverse: bool) -> tuple[Array, ...]:
    d, half = h.shape[1], _halves(h, 0.5, 0.5, 1)
    a, w = _affine(x, w_ih * half, b_ih * half), w_hh * half
    y, b = np.empty((*x.shape[:2], d), x.dtype), np.tile(b_hh * half, (len(h), 1))
    gates = np.empty_like(b)
    rz, (r, z, n) = gates[:, : 2 * d], np.split(gates, 3, axis=-1)
    for a_s, h_s in _steps(reverse, a, y):
        np.matmul(h, w, out=gates)
        gates += b
        rz += a_s[:, : 2 * d]
        _open(rz)
        n *= r
        n += a_s[:, 2 * d :]
        np.tanh(n, out=n)
        h = np.subtract(h, n, out=h_s)
        h *= z
        h += n
    return (y,)


@_widened
def gru_grad(
    g: Array, y: Array, x: Array, h: Array, w_ih: Array, w_hh: Array, b_ih: Array, b_hh: Array, *, reverse: bool
) -> tuple[Array, ...]:
    d, half, before = h.shape[1], _halves(h, 0.5, 0.5, 1), _before(y, h, reverse)
    a, b = _affine(x, w_ih * half, b_ih * half), _affine(before, w_hh * half, b_hh * half)
    rz, n, u = a[..., : 2 * d], a[..., 2 * d :], b[..., 2 * d :]
    rz += b[..., : 2 * d]
    _open(rz)
    r, z = np.split(rz, 2, axis=-1)
    n += r * u
    np.tanh(n, out=n)
    dn = (1 - z) * (1 - n * n)  # like db what the gates do to h, then the gradients
    by_u = dn * r
    db = np.concatenate((by_u * u * (1 - r), (before - n) * z * (1 - z), by_u), axis=-1)
    dh, more = np.zeros_like(h), np.empty_like(h)
    for db_s, dn_s, z_s, g_s in _steps(not reverse, db, dn, z, g):
        dh += g_s
        dn_s *= dh
        by_gate = db_s.reshape(len(h), 3, d)
        by_gate *= dh[:, None]
        dh *= z_s
        dh += np.matmul(db_s, w_hh.T, out=more)
    da = np.concatenate((db[..., : 2 * d], dn), axis=-1)
    return _product(da, w_ih.T), dh, _by_weight(x, da), _by_weight(before, db), _by_bias(da), _by_bias(db)


# -- what they are made of --------------------------------------------------------------------------------------------------


def _steps(reverse: bool, *arrays: Array) -> Iterator[tuple[Array, ...]]:
    """Views of the arrays at each step, in the order of computing."""
    return zip(*(a[::-1] if reverse else a for a in arrays), strict=True)


def _before(y: Array, h: Array, reverse: bool) -> Array:
    """The states before every step."""
    return np.concatenate((y, h[None]))[1:] if reverse else np.concatenate((h[None], y))[:-1]


def _halves(h: Array, *factors: float) -> Array:
    """The factors, one for each gate, in front of its units."""
    return np.repeat(np.array(factors, h.dtype), h.shape[1])


def _open(a: Array) -> None:
    """From halves of pre-activations to sigmoids, in place."""
    np.tanh(a, out=a)
    a *= 0.5
    a += 0.5


def _rows(x: Array) -> Array:
    """All steps of all samples, one below the other."""
    return x.reshape(x.shape[0] * x.shape[1], x.shape[2])


def _product(x: Array, w: Array) -> Array:
    return (_rows(x) @ w).reshape(*x.shape[:2], w.shape[1])


def _affine(x: Array, w: Array, bias: Array) -> Array:
    y = _product(x, w)
    y += bias
    return y


def _by_weight(x: Array, g: Array) -> Array:
    return np.asarray(_rows(x).T @ _rows(g))


def _by_bias(g: Array) -> Array:
    return np.asarray(_rows(g).sum(0))
