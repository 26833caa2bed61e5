"""Declarations of the ops that rearrange elements."""

from __future__ import annotations

from typing import Any

import numpy as np

from needle_core.errors import ArgumentError, ShapeError
from needle_core.testing.samples import COMPLEX, Array, declare, mask, real, refuses, sample


def _slice(x: Array, start: Any, stop: Any, step: Any = None) -> Array:
    if any(last > n for last, n in zip(stop, x.shape, strict=True)):
        raise ValueError("NumPy would clip what stands out")
    return x[tuple(map(slice, start, stop, step or [1] * x.ndim))]


def _pad(x: Array, width: Any, value: float = 0, dilation: Any = None) -> Array:
    dilation = dilation or (1,) * x.ndim
    spread = np.full([(n - 1) * d + 1 if n else 0 for n, d in zip(x.shape, dilation, strict=True)], value, x.dtype)
    spread[tuple(slice(None, None, d) for d in dilation)] = x
    return (
        np.pad(spread, [(width, width)] * x.ndim if isinstance(width, int) else width, constant_values=value)
        if x.ndim
        else spread
    )


def _dilate(x: Array, axes: Any = None, dilation: int = 0) -> Array:
    for axis in range(x.ndim) if axes is None else np.atleast_1d(axes):
        pieces = np.moveaxis(x, axis, 0)
        rows = [row for piece in pieces for row in (piece, *[np.zeros_like(piece)] * dilation)]
        x = np.moveaxis(np.array(rows, x.dtype) if rows else pieces, 0, axis)
    return x


def _undilate(x: Array, axes: Any = None, dilation: int = 0) -> Array:
    for axis in range(x.ndim) if axes is None else np.atleast_1d(axes):
        x = np.take(x, np.arange(0, x.shape[axis], dilation + 1), axis)
    return x


def _declare(name: str, reference: Any, samples: Any, refusals: Any = ()) -> None:
    copied = name in ("pad", "concat", "stack", "roll", "dilate")
    declare(name, reference, samples, gradient=COMPLEX, exact=True, refusals=refusals,
            aliases="" if copied else "a view, where strides can tell it")  # fmt: skip


_declare("reshape", lambda x, shape: x.reshape(shape), [
    sample(real(), shape=()), sample(real(), shape=(1, 1)), sample(real(6), shape=(2, 3)), sample(real(2, 3, 4), shape=(4, -1)),
    sample(real(2, 6), shape=-1), sample(real(0, 3), shape=(3, 0)), sample(real(1, 1), shape=()),
    sample(real(2, 0), shape=(-1, 2)),
], [refuses(ShapeError, "cannot put 6 elements into shape [4]", real(2, 3), shape=4),
    refuses(ShapeError, "negative size", real(6), shape=(-1, -1)),
    refuses(ShapeError, "cannot put 0 elements", real(0), shape=(0, -1))])  # fmt: skip
_declare("permute_dims", lambda x, axes=None: np.transpose(x, axes), [
    sample(real()), sample(real(3)), sample(real(2, 3)), sample(real(2, 3, 4), axes=(2, 0, 1)),
    sample(real(2, 3, 4), axes=(1, -1, 0)),
    sample(real(2, 0, 3), axes=(1, 0, 2)),
], [refuses(ShapeError, "not a permutation", real(2, 3), axes=(0, 0)),
refuses(ShapeError, "not a permutation", real(2, 3), axes=(0,)),
    refuses(ShapeError, "out of range", real(2, 3), axes=(0, 2))])  # fmt: skip
_declare("broadcast_to", lambda x, shape: np.broadcast_to(x, shape), [
    sample(real(), shape=()), sample(real(), shape=(2, 3)), sample(real(3), shape=(2, 3)),
    sample(real(2, 1, 3), shape=(2, 4, 3)),
    sample(real(1), shape=(0,)), sample(real(1, 1), shape=(3, 1, 2)), sample(real(0, 1), shape=(2, 0, 3)),
    sample(real(1), shape=4),
], [refuses(ShapeError, "shape [2, 3] does not broadcast to [2]", real(2, 3), shape=(2,)),
    refuses(ShapeError, "does not broadcast", real(3), shape=(2,)),
    refuses(ShapeError, "negative size", real(3), shape=(-1, 3))])  # fmt: skip
_declare("expand_as", lambda x, like: np.broadcast_to(x, like.shape), [
    sample(real(), mask()), sample(real(), mask(2, 3)), sample(real(3), mask(2, 3)), sample(real(2, 1, 3), mask(2, 4, 3)),
    sample(real(1), mask(0)), sample(real(0, 1), mask(2, 0, 3)),
], [refuses(ShapeError, "shape [3] does not broadcast to [2]", real(3), mask(2))])  # fmt: skip
_declare("strided_slice", _slice, [
    sample(real(), start=(), stop=()), sample(real(7), start=(1,), stop=(6,), step=(2,)),
    sample(real(7), start=(2,), stop=(2,)),
    sample(real(4, 5), start=(0, 1), stop=(3, 5), step=(1, 3)), sample(real(3, 0), start=(1, 0), stop=(2, 0)),
    sample(real(6, 5), start=(1, 0), stop=(6, 5), step=(4, 2)),
], [refuses(ShapeError, "need one number for each", real(2, 3), start=(0,), stop=(1,)),
    refuses(ShapeError, "do not hold", real(3), start=(2,), stop=(4,)),
    refuses(ShapeError, "do not hold", real(3), start=(0,), stop=(2,), step=(0,))])  # fmt: skip
_declare("pad", _pad, [
    sample(real(), width=2), sample(real(3), width=1), sample(real(2, 3), width=((1, 0), (0, 2)), value=3),
    sample(real(4), width=((1, 2),), dilation=(3,)), sample(real(2, 3), width=0, dilation=(2, 1)), sample(real(0, 2), width=1),
    sample(real(0), width=((2, 1),), dilation=(2,)), sample(real(2, 2), width=((0, 0), (1, 1)), value=2, dilation=(1, 4)),
], [refuses(ShapeError, "width needs a pair", real(2, 3), width=((1, 1),)),
refuses(ShapeError, "width needs a pair", real(3), width=-1),
    refuses(ShapeError, "dilation needs a number", real(3), width=0, dilation=(0,))])  # fmt: skip
_SPREAD = [
    sample(real(), dilation=2), sample(real(3), axes=0, dilation=1), sample(real(4, 6), axes=(0, 1), dilation=1),
    sample(real(2, 3, 4), axes=(-1,), dilation=2), sample(real(2, 5), axes=1, dilation=0), sample(real(2, 4), dilation=1),
    sample(real(0, 4), axes=(0, 1), dilation=3), sample(real(3, 2), axes=(), dilation=1),
]  # fmt: skip
_NOT_SPREAD = [refuses(ShapeError, "-1 zeros cannot stand after each element", real(3), axes=0, dilation=-1),
               refuses(ShapeError, "out of range", real(3), axes=1, dilation=1),
               refuses(ArgumentError, "dilation is an integer", real(3), axes=0, dilation=1.5)]  # fmt: skip
_declare("dilate", _dilate, _SPREAD, _NOT_SPREAD)
_declare("undilate", _undilate, _SPREAD, _NOT_SPREAD)
_declare("flip", lambda x, axis=None: np.flip(x, axis), [
    sample(real()), sample(real(5)), sample(real(2, 3)), sample(real(2, 3), axis=0), sample(real(2, 3, 4), axis=(0, -1)),
    sample(real(2, 0), axis=1), sample(real(2, 3), axis=()),
], [refuses(ShapeError, "out of range", real(2), axis=1)])  # fmt: skip
_declare("concat", lambda *xs, axis=0: np.concatenate(xs, axis), [
    sample(real(3)), sample(real(2), real(3)), sample(real(2, 3), real(2, 1), real(2, 2), axis=1),
    sample(real(0, 2), real(3, 2)),
    sample(real(2, 1, 3), real(2, 4, 3), axis=-2), sample(real(0), real(0)),
], [refuses(ShapeError, "shapes differ apart from axis 0", real(2, 3), real(2, 4)),
refuses(ArgumentError, "takes at least 1 tensor"),
    refuses(ShapeError, "out of range", real(), real()),
    refuses(ShapeError, "shapes differ", real(2), real(2, 2))])  # fmt: skip
_declare("stack", lambda *xs, axis=0: np.stack(xs, axis), [
    sample(real(3)), sample(real(), real()), sample(real(2, 3), real(2, 3), real(2, 3), axis=1), sample(real(0, 2), real(0, 2)),
    sample(real(2, 3), real(2, 3), axis=-1),
], [refuses(ShapeError, "shapes differ", real(2, 3), real(3)), refuses(ArgumentError, "takes at least 1 tensor"),
    refuses(ShapeError, "out of range", real(2), axis=2)])  # fmt: skip
_declare("tile", lambda x, repetitions: np.tile(x, repetitions), [
    sample(real(), repetitions=3), sample(real(3), repetitions=2), sample(real(2, 3), repetitions=(2, 1)),
    sample(real(3), repetitions=(2, 2)), sample(real(2, 3), repetitions=2), sample(real(2, 3), repetitions=(0, 2)),
    sample(real(0, 2), repetitions=(2, 2)), sample(real(2), repetitions=()),
], [refuses(ShapeError, "negative size", real(2), repetitions=-1)])  # fmt: skip
_declare("repeat", lambda x, repeats, axis: np.repeat(x, repeats, axis), [
    sample(real(3), repeats=2, axis=0), sample(real(2, 3), repeats=3, axis=-1), sample(real(2, 3, 2), repeats=2, axis=1),
    sample(real(2, 3), repeats=0, axis=0), sample(real(0, 3), repeats=2, axis=0), sample(real(1), repeats=1, axis=0),
], [refuses(ShapeError, "out of range", real(2), repeats=2, axis=1),
refuses(ShapeError, "negative size", real(2), repeats=-1, axis=0)])  # fmt: skip
_declare("roll", lambda x, shift, axis: np.roll(x, shift, axis), [
    sample(real(5), shift=2, axis=0), sample(real(5), shift=-1, axis=0), sample(real(3, 4), shift=9, axis=-1),
    sample(real(3, 4), shift=0, axis=0), sample(real(0), shift=3, axis=0), sample(real(2, 3, 4), shift=-2, axis=1),
], [refuses(ShapeError, "out of range", real(2), shift=1, axis=1)])  # fmt: skip
