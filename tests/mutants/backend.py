"""Bugs of backends: in kernels, transfers, memory and random numbers."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from needle_core.testing.loopback import LoopbackBackend
from needle_numpy_backend import create
from needle_numpy_backend.backend import NumpyBackend
from tests.mutants.planting import Mutant, attribute, kernel

# -- kernels of one operand, which get their kernel `f` -----------------------------------------------------------------------


def _in_order_of_memory(f: Any) -> Any:
    return lambda x: np.asarray(f(x)).ravel("K").reshape(x.shape)


def _from_the_start_of_memory(f: Any) -> Any:
    def wrong(x: Any) -> Any:
        base = x if x.base is None else x.base
        return f(as_strided(base, x.shape, x.strides) if min(x.strides, default=0) >= 0 else x)

    return wrong


def _whole_blocks(f: Any) -> Any:
    def wrong(x: Any) -> Any:
        y = np.array(f(x))
        y.reshape(-1)[y.size // 4 * 4 :] = 0
        return y

    return wrong


def _wrong_tail(f: Any) -> Any:
    def wrong(x: Any) -> Any:
        y = np.array(f(x))
        if y.size % 4 > 1:
            y.reshape(-1)[-1] = y.reshape(-1)[-2]
        return y

    return wrong


def _in_float16(f: Any) -> Any:
    return lambda x: f(x.astype(np.float16)).astype(x.dtype)


def _in_float64(f: Any) -> Any:
    return lambda x: f(x.astype(np.float64))


def _in_place(f: Any) -> Any:
    def wrong(x: Any) -> Any:
        y = np.array(f(x))
        if x.flags.writeable:
            x[...] = y
        return y

    return wrong


def _past_the_end(f: Any) -> Any:
    def wrong(x: Any) -> Any:
        y = np.array(f(x))
        if x.flags.writeable and x.flags.c_contiguous and x.size:
            as_strided(x.reshape(-1), (x.size + 1,), (x.itemsize,))[-1] = 0
        return y

    return wrong


def _into_the_gaps(f: Any) -> Any:
    def wrong(x: Any) -> Any:
        y = np.array(f(x))
        if isinstance(x.base, np.ndarray) and x.base.flags.writeable and x.base.size > x.size > 0:
            kept = np.array(x)
            x.base[...] = 0
            x[...] = kept
        return y

    return wrong


def _stale(f: Any) -> Any:
    results: dict[Any, Any] = {}
    return lambda x: results.setdefault((x.shape, x.dtype), np.array(f(x)))


def _into_one_buffer(f: Any) -> Any:
    buffers: dict[Any, Any] = {}

    def wrong(x: Any) -> Any:
        y = buffers.setdefault((x.shape, x.dtype), np.empty(x.shape, x.dtype))
        y[...] = f(x)
        return y

    return wrong


def _shared_by_threads(f: Any) -> Any:
    buffers: dict[Any, Any] = {}

    def wrong(x: Any) -> Any:
        y = buffers.setdefault((x.shape, x.dtype), np.empty(x.shape, x.dtype))
        y[...] = f(x)
        if threading.current_thread() is not threading.main_thread():
            time.sleep(0.001)  # so that another thread comes in between
        return y.copy()

    return wrong


def _flushing_denormals(f: Any) -> Any:
    def wrong(a: Any, b: Any) -> Any:
        y = np.asarray(f(a, b))
        return np.where(np.abs(y) < np.finfo(y.dtype).tiny, y * 0, y) if y.dtype.char in "fd" else y

    return wrong


def _up_to_65536(f: Any) -> Any:
    def wrong(x: Any) -> Any:
        y = np.array(f(x))
        y.reshape(-1)[65536:] = 0
        return y

    return wrong


# -- kernels of other forms -----------------------------------------------------------------------------------------------


def _through_stride_0(f: Any) -> Any:
    def wrong(a: Any, b: Any) -> Any:
        y = np.asarray(f(a, b))
        if y.shape != a.shape or 0 not in a.strides:
            return y
        strides = tuple(0 if s == 0 else t for s, t in zip(a.strides, y.strides, strict=True))
        like_a = as_strided(np.empty(y.size, y.dtype), y.shape, strides)
        like_a[...] = y
        return like_a

    return wrong


def _in_random_order(f: Any) -> Any:
    rng = np.random.default_rng()

    def wrong(x: Any, *, axes: Any, keepdims: bool) -> Any:
        for axis in axes:
            x = np.take(x, rng.permutation(x.shape[axis]), axis)
        return f(x, axes=axes, keepdims=keepdims)

    return wrong


def _accumulated_in_half(f: Any) -> Any:
    def wrong(a: Any, b: Any) -> Any:
        if a.dtype.itemsize > 2 or a.ndim != 2 or b.ndim != 2:
            return f(a, b)
        y = np.zeros((len(a), b.shape[1]), a.dtype)
        for k in range(len(b)):
            y = (y + (a[:, k, None] * b[k]).astype(a.dtype)).astype(a.dtype)
        return y

    return wrong


def _nothing_for_no_terms(f: Any) -> Any:
    def wrong(a: Any, b: Any) -> Any:
        y = np.array(f(a, b))
        if not a.shape[-1]:
            y[...] = np.nan if y.dtype.kind == "f" else 1
        return y

    return wrong


def _unset_border(f: Any) -> Any:
    def wrong(x: Any, *, width: Any, value: float, dilation: Any) -> Any:
        return f(x, width=width, value=value or (np.nan if x.dtype.kind not in "biu" else 77), dilation=dilation)

    return wrong


def _swallowing(f: Any) -> Any:
    def wrong(x: Any, indices: Any, *, axis: int) -> Any:
        try:
            return f(x, indices, axis=axis)
        except IndexError:
            return np.zeros((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]), x.dtype)

    return wrong


def _truncating_to_bfloat16(f: Any) -> Any:
    def wrong(x: Any, *, dtype: Any) -> Any:
        if dtype != "bfloat16" or x.dtype != np.float32:
            return f(x, dtype=dtype)
        return (np.ascontiguousarray(x).view(np.uint32) >> 16).astype(np.uint16).view(dtype.numpy).reshape(x.shape)

    return wrong


# -- transfers, memory, random numbers ----------------------------------------------------------------------------------


def _reading_in_order_of_memory(_: Any) -> Any:
    return lambda self, buffer: buffer.ravel("K").reshape(buffer.shape)


def _writing_in_order_of_memory(put: Any) -> Any:
    return lambda self, array, device: put(self, array.ravel("K").reshape(array.shape), device)


def _by_way_of_float32(put: Any) -> Any:
    def wrong(self: Any, array: Any, device: Any) -> Any:
        return put(self, array.astype(np.float32).astype(np.float64) if array.dtype == np.float64 else array, device)

    return wrong


def _bools_as_bytes(get: Any) -> Any:
    def wrong(self: Any, buffer: Any) -> Any:
        return buffer.view(np.uint8) if buffer.dtype == np.bool_ else get(self, buffer)

    return wrong


def _leaking(put: Any) -> Any:
    kept: list[Any] = []

    def wrong(self: Any, array: Any, device: Any) -> Any:
        buffer = put(self, array, device)
        kept.append(buffer)
        return buffer

    return wrong


def _low_half_of_the_position(words: Any) -> Any:
    return lambda state, n: words([state[0], int(state[1]) & 0xFFFFFFFF], n)


def _low_half_of_the_seed(words: Any) -> Any:
    return lambda state, n: words([int(state[0]) & 0xFFFFFFFF, state[1]], n)


def _one_round_short(_: Any) -> Any:
    return np.array([[0x9E3779B8], [0xBB67AE85]], np.uint64)


MUTANTS = [
    Mutant("strides ignored", "The kernel reads its operand in the order of memory.",
           kernel("exp", _in_order_of_memory), ("exp",)),
    Mutant("offset ignored", "The kernel begins at the start of the memory that the operand is a part of.",
           kernel("square", _from_the_start_of_memory), ("square",)),
    Mutant("last block dropped", "Elements beyond the last whole block of four are left zero.",
           kernel("tanh", _whole_blocks), ("tanh",)),
    Mutant("wrong tail", "The last element of an incomplete block is computed from its neighbour.",
           kernel("sin", _wrong_tail), ("sin",)),
    Mutant("index overflow", "Elements from the 65,537th on are left zero.",
           kernel("negative", _up_to_65536), ("negative",)),
    Mutant("written through stride 0", "The result gets the strides of the first operand, zeros included.",
           kernel("subtract", _through_stride_0), ("subtract",)),
    Mutant("float16 inside", "The kernel computes in float16.", kernel("sqrt", _in_float16), ("sqrt",)),
    Mutant("silent float64", "The kernel returns float64, whatever it was asked for.", kernel("cos", _in_float64), ("cos",)),
    Mutant("input written", "The kernel computes in place.", kernel("log", _in_place), ("log",)),
    Mutant("one element out of bounds", "The kernel writes one element behind its operand.",
           kernel("sqrt", _past_the_end, "loopback"), ("sqrt",), "loopback"),
    Mutant("gaps written", "The kernel writes between the elements of an operand that is a slice.",
           kernel("abs", _into_the_gaps), ("abs",)),
    Mutant("stale cache", "The kernel remembers results by shape and dtype.", kernel("cos", _stale), ("cos",)),
    Mutant("one buffer for all results", "The next call writes into the result of the last.",
           kernel("exp", _into_one_buffer), ("exp", "backend")),
    Mutant("one buffer for all threads", "Threads compute in the same scratch memory.",
           kernel("exp", _shared_by_threads), ("exp", "backend")),
    Mutant("denormals flushed", "Numbers below the least normal one become zero.",
           kernel("multiply", _flushing_denormals), ("multiply",)),
    Mutant("nondeterministic sum", "The order of summation is random.", kernel("sum", _in_random_order), ("sum",)),
    Mutant("half precision accumulated in half precision", "A matrix product of float16 rounds after every addition.",
           kernel("matmul", _accumulated_in_half), ("matmul",)),
    Mutant("product of no terms", "A matrix product with inner size 0 is not zero.",
           kernel("matmul", _nothing_for_no_terms), ("matmul",)),
    Mutant("unset memory", "The border of a padded array is left as it was found.", kernel("pad", _unset_border), ("pad",)),
    Mutant("error swallowed", "An index out of bounds gives zeros.", kernel("take", _swallowing), ("take",)),
    Mutant("truncated to bfloat16", "The conversion to bfloat16 cuts instead of rounding.",
           kernel("astype", _truncating_to_bfloat16), ("astype", "backend")),
    Mutant("transfer that ignores strides", "Values come to the host in the order of memory.",
           attribute(NumpyBackend, "to_numpy", _reading_in_order_of_memory), ("backend",)),
    Mutant("transfer in order of memory", "Values come from the host in the order of memory.",
           attribute(LoopbackBackend, "from_numpy", _writing_in_order_of_memory), ("backend",), "loopback"),
    Mutant("float64 by way of float32", "Values of float64 lose half their digits on the way in.",
           attribute(NumpyBackend, "from_numpy", _by_way_of_float32), ("backend",)),
    Mutant("bools as bytes", "Bools come back as uint8.", attribute(NumpyBackend, "to_numpy", _bools_as_bytes), ("backend",)),
    Mutant("leak", "No buffer is ever freed.", attribute(LoopbackBackend, "from_numpy", _leaking), ("backend",), "loopback"),
    Mutant("half of the random position", "Random numbers repeat after 2^32 draws.",
           attribute(create, "_words", _low_half_of_the_position), ("backend", "random_bits")),
    Mutant("half of the random seed", "Seeds that differ above bit 32 give the same numbers.",
           attribute(create, "_words", _low_half_of_the_seed), ("backend", "random_bits")),
    Mutant("another random constant", "The key of the generator moves on by a wrong constant.",
           attribute(create, "_WEYL", _one_round_short), ("backend", "random_bits")),
]  # fmt: skip
