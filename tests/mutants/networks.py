"""Bugs of the ops that networks are made of: convolutions, pools, resizing, recurrence, attention, normalisation, tables."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

import needle_core as ndl
from needle_core import nn
from needle_core.nn import convolution as convolution_layers
from needle_core.ops import convolution
from needle_numpy_backend import attention as numpy_attention
from tests.mutants.planting import Mutant, attribute, kernel

# -- images -----------------------------------------------------------------------------------------------------------------


def _next_to_each_other(f: Any) -> Any:
    def wrong(x: Any, weight: Any, *, dilation: Any, **attrs: Any) -> Any:
        y = f(x, weight, dilation=dilation, **attrs)
        closer = f(x, weight, dilation=(1,) * len(dilation), **attrs)
        return closer[tuple(map(slice, y.shape))]

    return wrong


def _groups_rolled(f: Any) -> Any:
    return lambda x, weight, *, groups, **attrs: f(x, np.roll(weight, len(weight) // groups, 0), groups=groups, **attrs)


def _extra_in_front(widths: Any) -> Any:
    def wrong(padding: Any, *sizes: Any) -> Any:
        found = widths(padding, *sizes)
        return tuple((b, a) for a, b in found) if padding == "same" else found

    return wrong


def _mean_over_samples(f: Any) -> Any:
    return lambda g, x, **attrs: f(g, x, **attrs) / np.asarray(max(len(x), 1), x.dtype)


def _symmetric_padding(f: Any) -> Any:
    return lambda *operands, padding, **attrs: f(*operands, padding=tuple((b, a) for a, b in padding), **attrs)


def _overlaps_overwritten(_: Any) -> Any:
    def wrong(x: Any, *, shape: Any, stride: Any, dilation: Any) -> Any:
        y, n = np.zeros((len(x), *shape, x.shape[-1]), x.dtype), len(shape)
        spans = [(k - 1) * d + 1 for k, d in zip(x.shape[1 + n : -1], dilation, strict=True)]
        windows = sliding_window_view(y, spans, tuple(range(1, n + 1)), writeable=True)
        windows = windows[(slice(None), *(slice(None, None, s) for s in stride))][
            (..., *(slice(None, None, d) for d in dilation))
        ]
        windows[tuple(map(slice, (len(x), *x.shape[1 : 1 + n])))] = np.moveaxis(x, -1, 1 + n)
        return y

    return wrong


def _surrounded_by_zeros(f: Any) -> Any:
    def wrong(x: Any, *, padding: Any, **attrs: Any) -> Any:
        return f(np.pad(x, ((0, 0), *padding, (0, 0))), padding=((0, 0),) * len(padding), **attrs)

    return wrong


def _always_counting_padding(f: Any) -> Any:
    return lambda x, *, count_include_pad, **attrs: f(x, count_include_pad=True, **attrs)


def _rounded_down(_: Any) -> Any:
    def wrong(x: Any, *, size: Any) -> Any:
        for axis, t in enumerate(size, 1):
            s = x.shape[axis]
            bounds = [(i * s // t, max((i + 1) * s // t, i * s // t + 1)) for i in range(t)]
            x = np.stack([x.take(range(*b), axis).max(axis) for b in bounds], axis)
        return x

    return wrong


def _other_corners(f: Any) -> Any:
    return lambda x, *, mode, align_corners, **attrs: f(
        x, mode=mode, align_corners=not align_corners and mode != "nearest", **attrs
    )


def _zeros_before(_: Any) -> Any:
    def wrong(x: Any, *, axes: Any, dilation: int) -> Any:
        y = np.zeros([n * (dilation + 1) if i in axes else n for i, n in enumerate(x.shape)], x.dtype)
        y[tuple(slice(dilation, None, dilation + 1) if i in axes else slice(None) for i in range(x.ndim))] = x
        return y

    return wrong


def _skipping_nan(f: Any) -> Any:
    return lambda x, **attrs: f(np.where(np.isnan(x), x.dtype.type(-np.inf), x), **attrs)


def _whole_for_each_tie(f: Any) -> Any:
    def wrong(g: Any, x: Any, **attrs: Any) -> Any:
        return f(g, x + np.arange(x.size, dtype=x.dtype).reshape(x.shape) * np.spacing(np.abs(x).max(initial=1)), **attrs)

    return wrong


def _rounded_for_each_channel(f: Any) -> Any:
    def wrong(x: Any, weight: Any, *, groups: int, **attrs: Any) -> Any:
        if groups > 1 or x.dtype.itemsize > 2 or not x.shape[-1]:
            return f(x, weight, groups=groups, **attrs)
        y = 0
        for i in range(x.shape[-1]):
            y = y + f(x[..., i : i + 1], weight[..., i : i + 1], groups=1, **attrs)
        return y

    return wrong


# -- sequences --------------------------------------------------------------------------------------------------------------


def _never_reversed(f: Any) -> Any:
    return lambda *operands, reverse, **attrs: f(*operands, reverse=False, **attrs)


def _in_the_order_of_steps(f: Any) -> Any:
    def wrong(*operands: Any, reverse: bool, **attrs: Any) -> Any:
        y = f(*operands, reverse=reverse, **attrs)
        return y[::-1].copy() if reverse else y

    return wrong


def _output_before_cell(f: Any) -> Any:
    def swapped(w: Any) -> Any:
        i, f, g, o = np.split(w, 4, axis=-1)
        return np.concatenate((i, f, o, g), axis=-1)

    return lambda x, h, c, w_ih, w_hh, bias, *, reverse: f(
        x, h, c, swapped(w_ih), swapped(w_hh), swapped(bias), reverse=reverse
    )


def _reset_before_the_product(_: Any) -> Any:
    def wrong(x: Any, h: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, *, reverse: bool) -> Any:
        d, y = h.shape[1], np.empty((*x.shape[:2], h.shape[1]), x.dtype)
        for s in range(len(x))[:: -1 if reverse else 1]:
            a = x[s] @ w_ih + b_ih
            gates = a[:, : 2 * d] + h @ w_hh[:, : 2 * d] + b_hh[: 2 * d]
            r, z = np.split(1 / (1 + np.exp(-gates)), 2, axis=1)
            n = np.tanh(a[:, 2 * d :] + (r * h) @ w_hh[:, 2 * d :] + b_hh[2 * d :])
            h = y[s] = (1 - z) * n + z * h
        return y

    return wrong


def _of_the_last_step_alone(f: Any) -> Any:
    def wrong(g: Any, *operands: Any, reverse: bool, **attrs: Any) -> Any:
        last = np.zeros_like(g)
        at = slice(0, 1) if reverse else slice(-1, None)
        last[at] = g[at]
        return f(last, *operands, reverse=reverse, **attrs)

    return wrong


def _without_scale(f: Any) -> Any:
    return lambda *operands, scale, **attrs: f(*operands, scale=1.0, **attrs)


def _one_ahead(_: Any) -> Any:
    return lambda t, s: ~np.tri(t, s, s - t + 1, dtype=np.bool_)


def _from_the_first_key(_: Any) -> Any:
    return lambda t, s: ~np.tri(t, s, dtype=np.bool_)


def _mask_inverted(f: Any) -> Any:
    return lambda q, k, v, *mask, **attrs: f(q, k, v, *(~m if m.dtype == np.bool_ else m for m in mask), **attrs)


def _nan_for_nothing(f: Any) -> Any:
    def wrong(q: Any, k: Any, v: Any, *mask: Any, causal: bool, scale: float) -> Any:
        y, ahead = f(q, k, v, *mask, causal=causal, scale=scale), q.shape[-2] - k.shape[-2]
        if causal and ahead > 0:
            y[..., :ahead, :] = np.nan
        return y

    return wrong


def _without_cells(f: Any) -> Any:
    return lambda gy, gc, *operands, **attrs: f(gy, np.zeros_like(gc), *operands, **attrs)


def _bias_of_one_step(f: Any) -> Any:
    def wrong(*operands: Any, **attrs: Any) -> Any:
        *others, bias = f(*operands, **attrs)
        return (*others, bias / len(operands[0]))

    return wrong


# -- layers -----------------------------------------------------------------------------------------------------------------


def _both_forwards(over: Any) -> Any:
    return lambda self, x, state, reverse=False: over(self, x, state)


def _heads_interleaved(_: Any) -> Any:
    def wrong(self: Any, x: Any, part: int) -> Any:
        y = x @ self.in_proj.weight + (0 if self.in_proj.bias is None else self.in_proj.bias)
        y = y[..., part * self.dim : (part + 1) * self.dim]
        return ndl.permute_dims(y.reshape(*x.shape[:2], self.dim // self.heads, self.heads), axes=(0, 3, 1, 2))

    return wrong


def _never_first(beside: Any) -> Any:
    return lambda self, norm, x, branch: norm(x + self.dropout(branch(x)))


def _from_the_second(forward: Any) -> Any:
    return lambda self, x: x + ndl.roll(self.table, shift=-1, axis=0)[: x.shape[1]]


# -- normalisation and tables -----------------------------------------------------------------------------------------------


def _interleaved(f: Any) -> Any:
    def wrong(x: Any, weight: Any, bias: Any, *, groups: int, eps: float) -> Any:
        order = np.arange(x.shape[-1]).reshape(-1, groups).T.ravel()
        y = np.empty_like(x)
        y[..., order] = f(x[..., order], weight[order], bias[order], groups=groups, eps=eps)
        return y

    return wrong


def _centred(f: Any) -> Any:
    def wrong(x: Any, weight: Any, *, eps: float) -> Any:
        axes = tuple(range(x.ndim - weight.ndim, x.ndim))
        return f(x - x.mean(axes, keepdims=True, dtype=x.dtype), weight, eps=eps)

    return wrong


def _of_one_less(f: Any) -> Any:
    def wrong(x: Any) -> Any:
        mean, var = f(x)
        n = x.size // max(x.shape[-1], 1)
        return mean, var * var.dtype.type(n / max(n - 1, 1))

    return wrong


def _last_row_counts(_: Any) -> Any:
    def wrong(g: Any, indices: Any, *, count: int) -> Any:
        y = np.zeros((count, *g.shape[indices.ndim :]), g.dtype)
        y[indices] = g
        return y

    return wrong


def _clamped(_: Any) -> Any:
    return lambda indices, weight: np.take(weight, indices, 0, mode="clip")


MUTANTS = [
    Mutant("conv ignores dilation", "The window looks at neighbours.", kernel("conv", _next_to_each_other), ("conv",)),
    Mutant("groups of conv mixed up", "Each group has the weights of the one before.",
           kernel("conv", _groups_rolled), ("conv",)),
    Mutant("same with the extra in front", "Of an odd padding, the greater part comes first.",
           attribute(convolution, "_widths", _extra_in_front), ("conv",)),
    Mutant("padding turned around", "What is padded in front of a transposed convolution is cut off behind.",
           kernel("conv_transpose", _symmetric_padding), ("conv_transpose",)),
    Mutant("mean of the weight gradient", "The gradient of the weight is the mean over the samples.",
           kernel("conv_weight_grad", _mean_over_samples), ("conv_weight_grad",)),
    Mutant("overlapping windows overwritten", "Where windows overlap, the last one counts.",
           kernel("fold", _overlaps_overwritten), ("fold",)),
    Mutant("max_pool among zeros", "The border is padded with 0, which is greater than what is negative.",
           kernel("max_pool", _surrounded_by_zeros), ("max_pool",)),
    Mutant("avg_pool counts its padding", "The divisor is the size of the window, whatever was asked for.",
           kernel("avg_pool", _always_counting_padding), ("avg_pool",)),
    Mutant("adaptive windows too short", "The end of a window is rounded down.",
           kernel("adaptive_max_pool", _rounded_down), ("adaptive_max_pool",)),
    Mutant("corners of an image", "The corners are aligned where they should not be, and the other way around.",
           kernel("interpolate", _other_corners), ("interpolate",)),
    Mutant("dilated the wrong way", "The zeros come before each element.", kernel("dilate", _zeros_before), ("dilate",)),
    Mutant("reverse that does not", "The sequence is read from its beginning.", kernel("rnn", _never_reversed), ("rnn",)),
    Mutant("states in the order of steps", "What is read from its end is returned from its end.",
           kernel("gru", _in_the_order_of_steps), ("gru",)),
    Mutant("another order of gates", "The output gate is taken for the new cell.",
           kernel("lstm", _output_before_cell), ("lstm",)),
    Mutant("reset before the product", "The gate resets the state, not what the weights make of it.",
           kernel("gru", _reset_before_the_product), ("gru",)),
    Mutant("gradient of the last step", "Only the last state has a gradient.",
           kernel("rnn_grad", _of_the_last_step_alone), ("rnn_grad",)),
    Mutant("attention without scale", "The scores are not divided.",
           kernel("scaled_dot_product_attention", _without_scale), ("scaled_dot_product_attention",)),
    Mutant("a look into the future", "A causal query sees one key too many.",
           attribute(numpy_attention, "_future", _one_ahead), ("scaled_dot_product_attention",)),
    Mutant("causal from the first key", "With more keys than queries, the first query sees the first key alone.",
           attribute(numpy_attention, "_future", _from_the_first_key), ("scaled_dot_product_attention",)),
    Mutant("mask inverted", "Queries look where they may not.",
           kernel("scaled_dot_product_attention", _mask_inverted), ("scaled_dot_product_attention",)),
    Mutant("wrong groups of channels", "A group has every third channel, not three in a row.",
           kernel("group_norm", _interleaved), ("group_norm",)),
    Mutant("rms_norm subtracts the mean", "It is layer_norm without bias.", kernel("rms_norm", _centred), ("rms_norm",)),
    Mutant("variance of n - 1", "The batch is normalised by the variance that is for the running one.",
           kernel("batch_statistics", _of_one_less), ("batch_statistics",)),
    Mutant("rows of a table overwritten", "Of several gradients of one row, the last one counts.",
           kernel("embedding_grad", _last_row_counts), ("embedding_grad",)),
    Mutant("rows beyond the table", "An index out of bounds is taken for the last row, a negative one for the first.",
           kernel("embedding", _clamped), ("embedding",)),
    Mutant("nan swallowed by max_pool", "The maximum of a window ignores nan.",
           kernel("max_pool", _skipping_nan), ("max_pool",)),
    Mutant("one of several maxima", "Of equals in a window, the last gets the gradient.",
           kernel("max_pool_grad", _whole_for_each_tie), ("max_pool_grad",)),
    Mutant("conv accumulates in half precision", "The sum over channels is rounded to float16 after each.",
           kernel("conv", _rounded_for_each_channel), ("conv",)),
    Mutant("a query that sees nothing", "With more queries than keys, the first give nan, not 0.",
           kernel("scaled_dot_product_attention", _nan_for_nothing), ("scaled_dot_product_attention",)),
    Mutant("gradient of the cells lost", "Nothing comes back through the second result.",
           kernel("lstm_grad", _without_cells), ("lstm_grad",)),
    Mutant("gradient of the bias by step", "It is the mean over the steps, not the sum.",
           kernel("gru_grad", _bias_of_one_step), ("gru_grad",)),
    Mutant("both directions forwards", "The second direction reads the sequence from its beginning too.",
           attribute(nn.GRUCell, "over", _both_forwards), ("GRU",)),
    Mutant("heads interleaved", "A head has every second feature, not half of them in a row.",
           attribute(nn.MultiHeadAttention, "_heads", _heads_interleaved), ("MultiHeadAttention",)),
    Mutant("norm_first ignored", "The norm comes behind, whatever was asked for.",
           attribute(nn.TransformerEncoderLayer, "_beside", _never_first), ("TransformerEncoderLayer",)),
    Mutant("positions from 1", "The first position has the waves of the second.",
           attribute(nn.PositionalEncoding, "forward", _from_the_second), ("PositionalEncoding",)),
    Mutant("channels left last", "What a convolution gives in NCHW is NHWC.",
           attribute(convolution_layers, "channels_back", lambda _: lambda y, data_format: y), ("Conv1d", "Conv2d")),
]  # fmt: skip
