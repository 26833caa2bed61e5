"""The part of the module `cudnn` that Needle calls, on host memory: NumPy computes what a graph describes.

All is read and written by the sizes and strides of the tensors alone, and what cuDNN refuses is refused. Sums are float32.
"""

from __future__ import annotations

import ctypes
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Any, Self, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

Array: TypeAlias = npt.NDArray[Any]
Ints: TypeAlias = Sequence[int]

data_type = Enum("data_type", ["NOT_SET", "FLOAT", "DOUBLE", "HALF", "BFLOAT16"])
heur_mode = Enum("heur_mode", ["A", "B", "FALLBACK"])
diagonal_alignment = Enum("diagonal_alignment", ["TOP_LEFT", "BOTTOM_RIGHT"])
numerical_note = Enum(
    "numerical_note",
    ["TENSOR_CORE", "DOWN_CONVERT_INPUTS", "REDUCED_PRECISION_REDUCTION", "FFT", "NONDETERMINISTIC", "WINOGRAD"],
)

_FORMATS = {
    data_type.FLOAT: np.dtype(np.float32),
    data_type.HALF: np.dtype(np.float16),
    data_type.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
}
_ALIGNMENT = 16
_WORKSPACE_BYTES = 1024
_MOST_COLUMNS = 1 << 22  # elements, which stay in the cache
_handles: dict[int, int] = {}  # the stream of each
_numbers = itertools.count(1)


class GraphNotSupportedError(Exception):
    """What no engine of cuDNN computes."""


cudnnGraphNotSupportedError = GraphNotSupportedError  # noqa: N816


def create_handle() -> int:
    handle = next(_numbers)
    _handles[handle] = 0
    return handle


def destroy_handle(handle: int, /) -> None:
    del _handles[handle]


def set_stream(handle: int, stream: int) -> None:
    if handle not in _handles:
        raise RuntimeError("cudnn_status: CUDNN_STATUS_BAD_PARAM: no such handle")
    _handles[handle] = stream


class Operand:
    """Sizes, strides in elements and format of an operand."""

    def __init__(self, dim: Ints, stride: Ints, data_type: Any, name: str, uid: int) -> None:
        self.dim, self.stride, self.format, self.name, self.uid = list(dim), list(stride), data_type, name, uid
        self.is_output = False

    def set_output(self, is_output: bool, /) -> Self:
        self.is_output = is_output
        return self

    def set_dim(self, dim: Ints, /) -> Self:
        self.dim = list(dim)
        return self

    def set_stride(self, stride: Ints, /) -> Self:
        self.stride = list(stride)
        return self

    def set_uid(self, uid: int, /) -> Self:
        self.uid = uid
        return self

    def set_data_type(self, data_type: Any) -> Self:
        self.format = data_type
        return self

    def at(self, address: int) -> Array:
        """The elements at this address, where the strides say."""
        reach = 1 + sum((n - 1) * step for n, step in zip(self.dim, self.stride, strict=True))
        dtype = _FORMATS[self.format]
        memory = (ctypes.c_char * (reach * dtype.itemsize)).from_address(address)
        return as_strided(np.frombuffer(memory, dtype), self.dim, [step * dtype.itemsize for step in self.stride])


class Graph:
    """A graph of one operation."""

    _STAGES = ("validate", "build_operation_graph", "create_execution_plans", "check_support", "build_plans")

    def __init__(
        self, *, io_data_type: Any, intermediate_data_type: Any, compute_data_type: Any, handle: int | None = None
    ) -> None:
        if intermediate_data_type is not data_type.FLOAT or compute_data_type is not data_type.FLOAT:
            raise GraphNotSupportedError(f"computing in {compute_data_type}")
        self._io, self._handle, self._stage = io_data_type, handle, 0
        self._tensors: list[Operand] = []
        self._compute: Callable[..., tuple[Array, ...]] | None = None
        self._inputs: list[Operand] = []
        self._outputs: list[Operand] = []
        self._check: Callable[[], None] = lambda: None

    def tensor(self, dim: Ints, stride: Ints, data_type: Any = data_type.NOT_SET, name: str = "", uid: int = -1) -> Operand:
        made = Operand(dim, stride, data_type, name, uid)
        self._tensors.append(made)
        return made

    def conv_fprop(
        self, image: Operand, weight: Operand, pre_padding: Ints, post_padding: Ints, stride: Ints, dilation: Ints
    ) -> Operand:
        windows = _Windows(pre_padding, post_padding, stride, dilation)
        (y,) = self._operation([image, weight], 1, lambda x, w: (windows.forward(x, w, y.dim),))
        self._check = lambda: windows.check(image, weight, y)
        return y

    def conv_dgrad(
        self, loss: Operand, filter: Operand, pre_padding: Ints, post_padding: Ints, stride: Ints, dilation: Ints
    ) -> Operand:
        windows = _Windows(pre_padding, post_padding, stride, dilation)
        (x,) = self._operation([loss, filter], 1, lambda g, w: (windows.input_grad(g, w, x.dim),))
        self._check = lambda: windows.check(x, filter, loss)
        return x

    def conv_wgrad(
        self, image: Operand, loss: Operand, pre_padding: Ints, post_padding: Ints, stride: Ints, dilation: Ints
    ) -> Operand:
        windows = _Windows(pre_padding, post_padding, stride, dilation)
        (w,) = self._operation([image, loss], 1, lambda x, g: (windows.weight_grad(x, g, w.dim),))
        self._check = lambda: windows.check(image, w, loss)
        return w

    def sdpa(
        self,
        q: Operand,
        k: Operand,
        v: Operand,
        attn_scale: float,
        generate_stats: bool,
        diagonal_alignment: Any = diagonal_alignment.TOP_LEFT,
        diagonal_band_right_bound: int | None = None,
    ) -> list[Operand | None]:
        scores = _Scores(attn_scale, diagonal_alignment, diagonal_band_right_bound)
        made = self._operation([q, k, v], 2 if generate_stats else 1, lambda *x: scores.forward(*x)[: 1 + generate_stats])
        self._check = lambda: scores.check(q, k, v, *made, *[None] * (2 - len(made)))
        return [made[0], made[1] if generate_stats else None]

    def sdpa_backward(
        self,
        q: Operand,
        k: Operand,
        v: Operand,
        o: Operand,
        dO: Operand,  # noqa: N803
        stats: Operand,
        attn_scale: float,
        diagonal_alignment: Any = diagonal_alignment.TOP_LEFT,
        diagonal_band_right_bound: int | None = None,
        use_deterministic_algorithm: bool = False,
    ) -> list[Operand]:
        scores = _Scores(attn_scale, diagonal_alignment, diagonal_band_right_bound)
        made = self._operation([q, k, v, o, dO, stats], 3, scores.backward)

        def check() -> None:
            scores.check(q, k, v, o, stats)
            if k.dim[2] == q.dim[2] == 1:
                raise GraphNotSupportedError("one query and one key")
            if any(g.dim != x.dim for g, x in zip((*made, dO), (q, k, v, o), strict=True)):
                raise GraphNotSupportedError("a gradient has the sizes of what it is for")

        self._check = check
        return made

    def validate(self) -> None:
        self._reach("validate")
        if self._compute is None:
            raise RuntimeError("the graph has no operation")
        for x in self._tensors:
            x.format = self._io if x.format is data_type.NOT_SET else x.format
            if not x.dim or len(x.dim) != len(x.stride):
                raise RuntimeError(f"tensor {x.uid}: sizes {x.dim} and strides {x.stride} are not set")
            if min(x.dim) < 1 or min(x.stride) < 0:
                raise RuntimeError(f"tensor {x.uid}: sizes {x.dim} and strides {x.stride}")
            if x in self._outputs and not x.is_output:
                raise RuntimeError(f"tensor {x.uid} is nobody's: it is neither read nor an output")
        if len({x.uid for x in self._tensors}) < len(self._tensors) or min(x.uid for x in self._tensors) < 0:
            raise RuntimeError("each tensor needs a uid of its own")
        self._check()

    def build_operation_graph(self) -> None:
        self._reach("build_operation_graph")

    def create_execution_plans(self, modes: Sequence[Any], /) -> None:
        self._reach("create_execution_plans")
        if not modes or not all(isinstance(mode, heur_mode) for mode in modes):
            raise TypeError("create_execution_plans takes a list of heur_mode")

    def deselect_numeric_notes(self, notes: Sequence[Any], /) -> None:
        if not all(isinstance(note, numerical_note) for note in notes):
            raise TypeError("deselect_numeric_notes takes a list of numerical_note")

    def check_support(self) -> None:
        self._reach("check_support")

    def build_plans(self) -> None:
        self._reach("build_plans")

    def get_workspace_size(self) -> int:
        return _WORKSPACE_BYTES

    def execute(self, tensor_to_device_buffer: dict[int, int], workspace: int, handle: int | None = None) -> None:
        if self._stage < len(self._STAGES) or self._compute is None:
            raise RuntimeError("the graph has no plan")
        if (self._handle if handle is None else handle) not in _handles:
            raise RuntimeError("cudnn_status: CUDNN_STATUS_BAD_PARAM: no such handle")
        if not workspace or workspace % _ALIGNMENT:
            raise RuntimeError(f"a workspace of {_WORKSPACE_BYTES} bytes at {workspace:#x}")
        places = {}
        for x in self._tensors:
            address = tensor_to_device_buffer.get(x.uid)
            if not address or address % _ALIGNMENT:
                raise RuntimeError(f"uid {x.uid} is at {address} in the variant pack")
            places[x.uid] = x.at(address)
        ctypes.memset(workspace, 0xFF, _WORKSPACE_BYTES)  # what is in use there is lost
        with np.errstate(all="ignore"):
            results = self._compute(*(places[x.uid].astype(np.float32) for x in self._inputs))
            for x, result in zip(self._outputs, results, strict=True):
                places[x.uid][...] = result

    def _operation(self, inputs: list[Operand], outputs: int, compute: Callable[..., tuple[Array, ...]]) -> list[Operand]:
        if self._compute is not None:
            raise GraphNotSupportedError("the simulation runs one operation a graph")
        self._inputs, self._compute = inputs, compute
        self._outputs = [Operand([], [], data_type.NOT_SET, "", -1) for _ in range(outputs)]
        self._tensors += self._outputs
        return self._outputs

    def _reach(self, stage: str) -> None:
        if self._STAGES[self._stage] != stage:
            raise RuntimeError(f"{stage} before {self._STAGES[self._stage]}")
        self._stage += 1


class _Windows:
    """What a convolution looks through. Operands come as (n, c, *s), (o, c / groups, *k), (n, o, *t), and so do results."""

    def __init__(self, before: Ints, after: Ints, stride: Ints, dilation: Ints) -> None:
        self.before, self.after, self.stride, self.dilation = before, after, stride, dilation

    def check(self, x: Operand, w: Operand, y: Operand) -> None:
        if x.format not in _FORMATS or not x.format is w.format is y.format:
            raise GraphNotSupportedError(f"a convolution of {x.format} and {w.format} to {y.format}")
        axes = len(x.dim) - 2
        if axes < 2 or any(len(a) != axes for a in (self.before, self.after, self.stride, self.dilation, w.dim[2:], y.dim[2:])):
            raise GraphNotSupportedError(f"windows over {axes} axes")
        if x.dim[1] % w.dim[1] or w.dim[0] % (x.dim[1] // w.dim[1]):
            raise GraphNotSupportedError(f"{x.dim[1]} channels with {w.dim[1]} a group do not make {w.dim[0]}")
        sizes = zip(x.dim[2:], w.dim[2:], self.before, self.after, self.stride, self.dilation, strict=True)
        places = [(n + a + b - d * (k - 1) - 1) // s + 1 for n, k, a, b, s, d in sizes]
        if y.dim != [x.dim[0], w.dim[0], *places]:
            raise RuntimeError(f"CUDNN_STATUS_BAD_PARAM: the result has the sizes {[x.dim[0], w.dim[0], *places]}, not {y.dim}")

    def forward(self, x: Array, w: Array, dim: Ints) -> Array:
        groups, kernels = self._kernels(w, x.shape[1])
        parts = [_flat(columns @ kernels.mT) for columns in self._columns(x, w.shape[2:], dim[2:], groups)]
        return np.moveaxis(np.concatenate(parts).reshape(dim[0], *dim[2:], dim[1]), -1, 1)

    def weight_grad(self, x: Array, g: Array, dim: Ints) -> Array:
        groups, start = x.shape[1] // dim[1], 0
        rows = np.ascontiguousarray(_by_group(np.moveaxis(g, 1, -1), groups).mT)
        total = np.zeros((groups, dim[0] // groups, math.prod(dim[1:])), np.float32)
        for columns in self._columns(x, dim[2:], g.shape[2:], groups):
            total += rows[:, :, start : start + columns.shape[1]] @ columns
            start += columns.shape[1]
        return np.moveaxis(total.reshape(dim[0], *dim[2:], dim[1]), -1, 1)

    def input_grad(self, g: Array, w: Array, dim: Ints) -> Array:
        n, c, *space = dim
        groups, kernels = self._kernels(w, c)
        t, k = g.shape[2:], w.shape[2:]
        wide = [m + a + b for m, a, b in zip(space, self.before, self.after, strict=True)]
        image = np.zeros((n, *wide, c), np.float32)
        spread = _by_group(np.moveaxis(g, 1, -1), groups) @ kernels
        spread = spread.reshape(groups, n, *t, math.prod(k), w.shape[1])
        for i, place in enumerate(np.ndindex(*k)):
            part = np.moveaxis(spread[..., i, :], 0, -2)
            image[:, *self._reached(place, t)] += part.reshape(n, *t, c)
        inner = (slice(a, a + m) for a, m in zip(self.before, space, strict=True))
        return np.moveaxis(image[:, *inner], -1, 1)

    def _columns(self, x: Array, k: Ints, t: Ints, groups: int) -> Iterator[Array]:
        """What the windows hold of some images at a time: (groups, places, prod(k) c / groups)."""
        padding = [(0, 0), *zip(self.before, self.after, strict=True), (0, 0)]
        image = np.pad(np.moveaxis(x, 1, -1), padding)
        c = x.shape[1]
        n, *steps, last = image.strides
        strides = (n, *np.multiply(steps, self.stride), *np.multiply(steps, self.dilation), last)
        at_once = max(1, _MOST_COLUMNS // (math.prod(t) * math.prod(k) * c))
        for first in range(0, len(image), at_once):
            some = image[first : first + at_once]
            windows = as_strided(some, (len(some), *t, *k, c), strides)
            apart = windows.reshape(len(some) * math.prod(t), math.prod(k), groups, c // groups)
            yield apart.transpose(2, 0, 1, 3).reshape(groups, len(apart), -1)

    def _kernels(self, w: Array, channels: int) -> tuple[int, Array]:
        groups = channels // w.shape[1]
        return groups, np.moveaxis(w, 1, -1).reshape(groups, len(w) // groups, -1)

    def _reached(self, place: tuple[int, ...], t: Ints) -> Iterator[slice]:
        for i, n, stride, dilation in zip(place, t, self.stride, self.dilation, strict=True):
            yield slice(i * dilation, i * dilation + (n - 1) * stride + 1, stride)


def _by_group(x: Array, groups: int) -> Array:
    """(*rows, c) as (groups, rows, c / groups)."""
    return x.reshape(-1, groups, x.shape[-1] // groups).transpose(1, 0, 2)


def _flat(y: Array) -> Array:
    """(groups, rows, o) as (rows, groups o)."""
    return y.transpose(1, 0, 2).reshape(y.shape[1], -1)


class _Scores:
    """How well keys fit queries; operands are (b, h, t, d)."""

    def __init__(self, scale: float, alignment: Any, right: int | None) -> None:
        self.scale, self.alignment, self.right = float(scale), alignment, right

    def check(self, q: Operand, k: Operand, v: Operand, y: Operand, stats: Operand | None) -> None:
        (b, h, t, d), s = q.dim, k.dim[2]
        if k.dim != [b, h, s, d] or v.dim[:3] != [b, h, s] or y.dim != [b, h, t, v.dim[3]]:
            raise GraphNotSupportedError(f"queries {q.dim}, keys {k.dim}, values {v.dim} and results {y.dim}")
        if d % 8 or v.dim[3] % 8 or d > 256:
            raise GraphNotSupportedError("hidden_dim should be multiple of 8")
        if any(x.stride[3] != 1 for x in (q, k, v, y)):
            raise GraphNotSupportedError("the last axis is contiguous")
        if q.format not in (data_type.HALF, data_type.BFLOAT16) or not q.format is k.format is v.format is y.format:
            raise GraphNotSupportedError(f"attention of {q.format}, {k.format} and {v.format} to {y.format}")
        if stats is not None and (stats.format is not data_type.FLOAT or stats.dim != [b, h, t, 1]):
            raise GraphNotSupportedError(f"statistics in {stats.format} of {stats.dim}")
        if self.right is not None and self.alignment is diagonal_alignment.BOTTOM_RIGHT and t > s:
            raise GraphNotSupportedError("Bottom right causal mask does not support max_s_q > max_s_kv")

    def of(self, q: Array, k: Array) -> Array:
        scores: Array = q @ k.mT * np.float32(self.scale)
        if self.right is None:
            return scores
        t, s = scores.shape[-2:]
        last = np.arange(t)[:, None] + self.right + (s - t if self.alignment is diagonal_alignment.BOTTOM_RIGHT else 0)
        return np.where(np.arange(s) <= last, scores, np.float32(-np.inf))

    def forward(self, q: Array, k: Array, v: Array) -> tuple[Array, ...]:
        scores = self.of(q, k)
        most = scores.max(axis=-1, keepdims=True)
        weights = np.exp(scores - most)
        total = weights.sum(axis=-1, keepdims=True)
        return weights / total @ v, most + np.log(total)

    def backward(self, q: Array, k: Array, v: Array, y: Array, g: Array, stats: Array) -> tuple[Array, ...]:
        weights = np.exp(self.of(q, k) - stats)
        by_scores = weights * (g @ v.mT - (g * y).sum(axis=-1, keepdims=True)) * np.float32(self.scale)
        return by_scores @ k, by_scores.mT @ q, weights.mT @ g


tensor, pygraph = Operand, Graph
