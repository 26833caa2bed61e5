"""Convolutions and attention by cuDNN, as graphs of one operation that its front end builds and runs.

`supports` says what cuDNN is asked for; the rest is for kernels of our own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from needle_core.errors import KernelError
from needle_core.spec import DType, bfloat16, float16, float32

__all__ = ["Attention", "Convolution", "Cudnn", "Prepared", "attention", "self_attention", "supports"]

Sizes: TypeAlias = tuple[int, ...]

ALIGNMENT: Final = 256
"""Bytes, of what lies in the workspace. Operands begin at multiples of 16 bytes."""

_NAMES: Final = {float16: "HALF", bfloat16: "BFLOAT16", float32: "FLOAT"}
_OPERANDS: Final = {"forward": ("x", "weight", "y"), "input_grad": ("y", "weight", "x"), "weight_grad": ("y", "x", "weight")}

# -- descriptions -----------------------------------------------------------------------------------------------------------


class Convolution(NamedTuple):
    """A convolution of channels-last images, or its gradient for the image or the weight, with `before` and `after` zeros.

        y[n, t, o] = sum_k,c x[n, t stride + k dilation - before, c] weight[o, k, c]

    Shapes: x (n, *s, c), weight (o, *k, c / groups), y (n, *t, o); gradients have the shapes of what they are for
    Runs:   "forward" x, weight -> y; "input_grad" y, weight -> x; "weight_grad" y, x -> weight
    """

    kind: Literal["forward", "input_grad", "weight_grad"]
    dtype: DType
    x: Sizes
    weight: Sizes
    y: Sizes
    stride: Sizes
    before: Sizes
    after: Sizes
    dilation: Sizes
    groups: int = 1
    tf32: bool = False


class Attention(NamedTuple):
    """softmax(q k^T scale) v, or with `backward` its gradients, for which the forward pass is computed again.

    Shapes:  q, y and g (batch, heads, queries, width), k, v (batch, heads, keys, width); strides of the first three of these
             axes in elements, the last is contiguous; gradients lie like what they are for, g like y
    Numbers: with `causal`, query i sees the keys up to i + keys - queries
    Runs:    q, k, v -> y; with `backward` g, q, k, v -> the gradients for q, k, v
    """

    dtype: DType
    batch: int
    heads: int
    queries: int
    keys: int
    width: int
    scale: float
    causal: bool
    q: Sizes
    k: Sizes
    v: Sizes
    y: Sizes
    backward: bool = False


def attention(
    dtype: DType, q: Sizes, k: Sizes, v: Sizes, *, scale: float, causal: bool = False, backward: bool = False
) -> Attention | None:
    """Attention of contiguous q (*b, t, d), k (*b, s, d), v (*b, s, d); None where a batch is broadcast or widths differ."""
    if not q[:-2] == k[:-2] == v[:-2] or not q[-1] == k[-1] == v[-1]:
        return None
    heads, batch = q[-3] if len(q) > 2 else 1, math.prod(q[:-3])
    (t, d), s = q[-2:], k[-2]
    by_query, by_key = (heads * t * d, t * d, d), (heads * s * d, s * d, d)
    return Attention(dtype, batch, heads, t, s, d, scale, causal, by_query, by_key, by_key, by_query, backward)


def self_attention(
    dtype: DType, x: Sizes, *, heads: int, scale: float, causal: bool = False, backward: bool = False
) -> tuple[Attention, Sizes]:
    """Attention of contiguous x (*b, t, 3 h d) to itself, y (*b, t, h d), and where q, k and v begin in x, in elements.

    The gradient for x is laid out like x: those for q, k and v begin at the same places in it.
    """
    *batch, t, wide = x
    width = wide // (3 * heads)
    apart, beside = (t * wide, width, wide), (t * heads * width, width, heads * width)
    description = Attention(dtype, math.prod(batch), heads, t, t, width, scale, causal, apart, apart, apart, beside, backward)
    return description, (0, heads * width, 2 * heads * width)


def supports(x: Convolution | Attention) -> bool:
    """Whether cuDNN is asked for this: what it has engines for on every device from sm_80 on."""
    return _supports_attention(x) if isinstance(x, Attention) else _supports_convolution(x)


def _supports_convolution(x: Convolution) -> bool:
    shapes = (x.x, x.weight, x.y)
    return (
        x.dtype in _NAMES
        and 3 <= len(x.x) <= 5
        and all(0 < math.prod(shape) < 2**31 for shape in shapes)  # engines count elements in 32 bits
        and x.x[-1] == x.weight[-1] * x.groups
        and x.weight[0] % x.groups == 0
    )


def _supports_attention(x: Attention) -> bool:
    axes = (x.batch, x.heads, x.queries)
    return (
        x.dtype in (float16, bfloat16)
        and all((*axes, x.keys))
        and x.width % 8 == 0
        and 0 < x.width <= (128 if x.backward or x.queries == 1 else 256)
        and all(step or n == 1 for steps in (x.q, x.k, x.v, x.y) for n, step in zip(axes, steps, strict=True))
        and (x.queries <= x.keys or not x.causal)  # else there are queries without keys
        and (x.keys > 1 or not x.backward)
    )


# -- the library ------------------------------------------------------------------------------------------------------------


class _Graph(NamedTuple):
    """A built graph, and the numbers of its operands in the order in which they are given."""

    graph: Any
    operands: tuple[int, ...]
    workspace_bytes: int


class Prepared(NamedTuple):
    """What `Cudnn.run` runs. `workspace_bytes` is what it needs; `kept` are offsets in it of what one graph leaves another."""

    description: Convolution | Attention
    graphs: tuple[_Graph, ...]
    workspace_bytes: int
    kept: tuple[int, ...] = ()


class Cudnn:
    """A handle of cuDNN. `library` is the module `cudnn`; addresses and streams are integers.

    With `deterministic`, the same numbers give the same bits.

    Raises: KernelError with the description, whenever the library refuses something
    """

    def __init__(self, library: Any, *, deterministic: bool = True) -> None:
        self._library, self._deterministic = library, deterministic
        self._stream: int | None = None
        with _naming(library, "the handle", None):
            self._handle = library.create_handle()

    def prepare(self, description: Convolution | Attention) -> Prepared:
        """The best engine that the library knows for this."""
        with _naming(self._library, "prepare", description):
            if isinstance(description, Convolution):
                built = self._convolution(description)
                return Prepared(description, (built,), built.workspace_bytes)
            forward = self._attention(description)
            if not description.backward:
                return Prepared(description, (forward,), forward.workspace_bytes)
            backward = self._attention_grad(description)
            rows = description.batch * description.heads * description.queries
            sizes = (max(forward.workspace_bytes, backward.workspace_bytes), rows * description.width * 2, rows * 4)
            y, stats, end = (sum(-(-n // ALIGNMENT) * ALIGNMENT for n in sizes[:i]) for i in (1, 2, 3))
            return Prepared(description, (forward, backward), end, (y, stats))

    def run(self, prepared: Prepared, addresses: Sequence[int], workspace: int, stream: int) -> None:
        """Issue it on the stream; operands first, results last, as the description says what it `Runs`."""
        with _naming(self._library, "run", prepared.description):
            if stream != self._stream:
                self._library.set_stream(handle=self._handle, stream=stream)
                self._stream = stream
            if not prepared.kept:
                self._execute(prepared.graphs[0], addresses, workspace)
                return
            forward, backward = prepared.graphs
            y, stats = (workspace + offset for offset in prepared.kept)
            g, *inputs = addresses[:4]
            self._execute(forward, (*inputs, y, stats), workspace)
            self._execute(backward, (*inputs, y, g, stats, *addresses[4:]), workspace)

    def close(self) -> None:
        """Give the handle back; a second time does nothing."""
        handle, self._handle = self._handle, None
        if handle is not None:
            self._library.destroy_handle(handle)

    def _execute(self, built: _Graph, addresses: Sequence[int], workspace: int) -> None:
        built.graph.execute(dict(zip(built.operands, addresses, strict=True)), workspace, handle=self._handle)

    def _graph(self, dtype: DType) -> Any:
        types = self._library.data_type
        return self._library.pygraph(
            io_data_type=getattr(types, _NAMES[dtype]),
            intermediate_data_type=types.FLOAT,
            compute_data_type=types.FLOAT,
            handle=self._handle,
        )

    def _convolution(self, x: Convolution) -> _Graph:
        graph, notes = self._graph(x.dtype), self._library.numerical_note
        *inputs, result = _OPERANDS[x.kind]
        operands = [graph.tensor(*_channels_last(getattr(x, name)), name=name, uid=i) for i, name in enumerate(inputs, 1)]
        wide = (0,) * (4 - len(x.x))  # cuDNN convolves over two axes at least: over one of a single element, and ours
        windows = {
            "pre_padding": [*wide, *x.before],
            "post_padding": [*wide, *x.after],
            "stride": [*(1 for _ in wide), *x.stride],
            "dilation": [*(1 for _ in wide), *x.dilation],
        }
        if x.kind == "forward":
            y = graph.conv_fprop(image=operands[0], weight=operands[1], **windows)
        elif x.kind == "input_grad":
            y = graph.conv_dgrad(loss=operands[0], filter=operands[1], **windows)
        else:
            y = graph.conv_wgrad(image=operands[1], loss=operands[0], **windows)
        self._result(y, *_channels_last(getattr(x, result)), uid=3)
        # Not what rounds factors or sums to less than they have, nor transforms whose error is that of the largest element.
        without = [notes.DOWN_CONVERT_INPUTS, notes.REDUCED_PRECISION_REDUCTION, notes.FFT, notes.WINOGRAD]
        if x.dtype is float32 and not x.tf32:
            without.append(notes.TENSOR_CORE)  # there, float32 is TF32
        if self._deterministic:
            without.append(notes.NONDETERMINISTIC)
        return self._built(graph, (1, 2, 3), without)

    def _attention(self, x: Attention) -> _Graph:
        graph = self._graph(x.dtype)
        q, k, v = (self._rows(graph, x, name, i) for i, name in enumerate("qkv", 1))
        y, stats = graph.sdpa(q=q, k=k, v=v, generate_stats=x.backward, **self._mask(x))
        self._result(y, *_by_heads(x, "y"), uid=4)
        if not x.backward:
            return self._built(graph, (1, 2, 3, 4))
        stats.set_data_type(self._library.data_type.FLOAT)
        self._result(stats, *_statistics(x), uid=5)
        return self._built(graph, (1, 2, 3, 4, 5))

    def _attention_grad(self, x: Attention) -> _Graph:
        graph = self._graph(x.dtype)
        q, k, v, y, g = (self._rows(graph, x, name, i) for i, name in enumerate("qkvyy", 1))
        stats = graph.tensor(*_statistics(x), data_type=self._library.data_type.FLOAT, name="stats", uid=6)
        gradients = graph.sdpa_backward(
            q=q, k=k, v=v, o=y, dO=g, stats=stats, use_deterministic_algorithm=self._deterministic, **self._mask(x)
        )
        for uid, (gradient, name) in enumerate(zip(gradients, "qkv", strict=True), 7):
            self._result(gradient, *_by_heads(x, name), uid=uid)
        return self._built(graph, tuple(range(1, 10)))

    def _mask(self, x: Attention) -> dict[str, Any]:
        corners = self._library.diagonal_alignment
        corner = corners.TOP_LEFT if x.queries == x.keys else corners.BOTTOM_RIGHT
        return {
            "attn_scale": x.scale,
            **({"diagonal_alignment": corner, "diagonal_band_right_bound": 0} if x.causal else {}),
        }

    def _rows(self, graph: Any, x: Attention, name: str, uid: int) -> Any:
        return graph.tensor(*_by_heads(x, name), name=f"{name}{uid}", uid=uid)

    def _result(self, tensor: Any, dim: list[int], stride: list[int], uid: int) -> None:
        tensor.set_output(True).set_dim(dim).set_stride(stride).set_uid(uid)

    def _built(self, graph: Any, operands: tuple[int, ...], without: Sequence[Any] = ()) -> _Graph:
        modes = self._library.heur_mode
        graph.validate()
        graph.build_operation_graph()
        graph.create_execution_plans([modes.A, modes.FALLBACK])
        if without:
            graph.deselect_numeric_notes(list(without))
        graph.check_support()
        graph.build_plans()
        return _Graph(graph, operands, graph.get_workspace_size())


def _channels_last(shape: Sizes) -> tuple[list[int], list[int]]:
    """Sizes and strides of a contiguous (n, *s, c) in cuDNN's order (n, c, *s), with two spatial axes at least."""
    n, *space, c = shape
    space = [1] * (2 - len(space)) + space
    steps = [c * math.prod(space[i:]) for i in range(len(space) + 1)]
    return [n, c, *space], [steps[0], 1, *steps[1:]]


def _by_heads(x: Attention, name: str) -> tuple[list[int], list[int]]:
    rows = x.keys if name in "kv" else x.queries
    return [x.batch, x.heads, rows, x.width], [*getattr(x, name), 1]


def _statistics(x: Attention) -> tuple[list[int], list[int]]:
    """Of the logarithms of the sums that the softmax divides by."""
    return [x.batch, x.heads, x.queries, 1], [x.heads * x.queries, x.queries, 1, 1]


@contextmanager
def _naming(library: Any, what: str, description: Convolution | Attention | None) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError, TypeError, library.cudnnGraphNotSupportedError) as cause:
        said = str(cause).strip().partition("\n")[0]
        details = {} if description is None else {"description": description}
        raise KernelError(f"cuDNN refuses {what}: {said}", details=details) from cause
