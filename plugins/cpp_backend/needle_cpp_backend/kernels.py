"""Which native kernel computes an op. A function has the name of its op, and makes the kernel for specs and attributes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from needle_core.graph.program import broadcast_steps, row_major
from needle_core.spec import Spec
from needle_cpp_backend import programs
from needle_cpp_backend.call import Call, Kernel, code, in_float32, matrix_shapes
from needle_cpp_backend.native import native

Sizes = tuple[int, ...]


# -- reduce -----------------------------------------------------------------------------------------------------------------


def cumsum(call: Call) -> Kernel:
    x = call.inputs[0]
    return native.cumsum(code(x.dtype), *_around(x, call.attrs["axis"]))


# -- index ------------------------------------------------------------------------------------------------------------------


def take(call: Call) -> Kernel:
    x, indices = call.inputs
    return native.take(code(x.dtype), code(indices.dtype), call.attrs["axis"], *_around(x, call.attrs["axis"]), indices.size)


def embedding(call: Call) -> Kernel:
    indices, weight = call.inputs
    return _swapped(native.take(code(weight.dtype), code(indices.dtype), 0, *_around(weight, 0), indices.size))


@in_float32
def scatter_add(call: Call) -> Kernel:
    x, indices, _ = call.inputs
    axis = call.attrs["axis"]
    return native.scatter_add(code(x.dtype), code(indices.dtype), axis, *_around(x, axis), indices.size, from_zero=False)


@in_float32
def embedding_grad(call: Call) -> Kernel:
    (g, indices), y = call.inputs, call.outputs[0]
    return _swapped(native.scatter_add(code(g.dtype), code(indices.dtype), 0, *_around(y, 0), indices.size, from_zero=True))


def argsort(call: Call) -> Kernel:
    x = call.inputs[0]
    return native.argsort(code(x.dtype), *_around(x, call.attrs["axis"]), call.attrs["descending"])


# -- linalg -----------------------------------------------------------------------------------------------------------------


@in_float32
def matmul(call: Call) -> Kernel:
    return native.product(code(call.inputs[0].dtype), *matrix_shapes(call))


@in_float32
def gemm(call: Call) -> Kernel:
    a, b = call.inputs
    return native.product(code(a.dtype), a.shape, b.shape, **call.attrs)


@in_float32
def linear(call: Call) -> Kernel:
    x, weight, _ = call.inputs
    return native.product(code(x.dtype), x.shape, weight.shape, bias=True)


# -- convolution and pooling ------------------------------------------------------------------------------------------------


@in_float32
def conv(call: Call) -> Kernel:
    (x, weight), y = call.inputs, call.outputs[0]
    return native.conv(code(y.dtype), _convolution(x.shape, weight.shape, y.shape, call.attrs))


@in_float32
def conv_transpose(call: Call) -> Kernel:
    (x, weight), y = call.inputs, call.outputs[0]
    return native.conv_transpose(code(y.dtype), _convolution(y.shape, weight.shape, x.shape, call.attrs))


@in_float32
def conv_weight_grad(call: Call) -> Kernel:
    (g, x), y = call.inputs, call.outputs[0]
    return native.conv_weight_grad(code(y.dtype), _convolution(x.shape, y.shape, g.shape, call.attrs))


def _convolution(x: Sizes, weight: Sizes, y: Sizes, attrs: Mapping[str, Any]) -> Any:
    """The form of the convolution that makes y of x."""
    sliding = _sliding(weight[1:-1], attrs)
    return native.Convolution(n=x[0], c=x[-1], o=y[-1], groups=attrs["groups"], s=x[1:-1], t=y[1:-1], sliding=sliding)


def _sliding(size: Sizes, attrs: Mapping[str, Any]) -> Any:
    before, after = zip(*attrs["padding"], strict=True)
    return native.Sliding(size=size, stride=attrs["stride"], before=before, after=after, dilation=attrs["dilation"])


@in_float32
def max_pool(call: Call) -> Kernel:
    return native.max_pool(*_pooling(call.inputs[0].shape, call.outputs[0], call.attrs))


@in_float32
def max_pool_grad(call: Call) -> Kernel:
    g, x = call.inputs
    return native.max_pool_grad(*_pooling(x.shape, g, call.attrs))


@in_float32
def avg_pool(call: Call) -> Kernel:
    return native.avg_pool(*_pooling(call.inputs[0].shape, call.outputs[0], call.attrs), call.attrs["count_include_pad"])


@in_float32
def avg_pool_grad(call: Call) -> Kernel:
    g, x = call.inputs[0], call.outputs[0]
    return native.avg_pool_grad(*_pooling(x.shape, g, call.attrs), call.attrs["count_include_pad"])


def _pooling(x: Sizes, y: Spec, attrs: Mapping[str, Any]) -> tuple[Any, ...]:
    return code(y.dtype), x[0], x[1:-1], y.shape[1:-1], x[-1], _sliding(attrs["size"], attrs)


# -- rows -------------------------------------------------------------------------------------------------------------------


@in_float32
def softmax(call: Call) -> Kernel:
    return _over_rows(call, lambda dtype, rows, n: native.softmax(dtype, rows, n, logarithm=False))


@in_float32
def log_softmax(call: Call) -> Kernel:
    return _over_rows(call, lambda dtype, rows, n: native.softmax(dtype, rows, n, logarithm=True))


@in_float32
def softmax_grad(call: Call) -> Kernel:
    return _over_rows(call, native.softmax_grad)


def _over_rows(call: Call, make: Callable[..., Kernel]) -> Kernel:
    """A kernel of rows over any axes. Operands are copied if these are not the last, or if they are broadcast."""
    y, axes = call.outputs[0], call.attrs["axes"]
    kept = [i for i in range(y.ndim) if i not in axes]
    kernel = make(code(y.dtype), math.prod(y.shape[i] for i in kept), math.prod(y.shape[i] for i in axes))
    order = [*kept, *axes]
    if order == [*range(y.ndim)] and {x.shape for x in call.inputs} == {y.shape}:
        return kernel
    turned = [y.shape[i] for i in order]
    each, count = -(-y.nbytes // 64) * 64, len(call.inputs)
    steps: list[Any] = []
    for i, x in enumerate(call.inputs):
        there = broadcast_steps(x.shape, y.shape)
        copy = programs.of_copy(y.dtype, turned, tuple(there[axis] for axis in order))
        steps.append((copy, [(1 + i, 0)], [(0, i * each)]))
    back = tuple(row_major(turned)[order.index(i)] for i in range(y.ndim))
    steps.append((kernel, [(0, i * each) for i in range(count)], [(0, count * each)]))
    steps.append((programs.of_copy(y.dtype, y.shape, back), [(0, count * each)], [(1 + count, 0)]))
    return native.sequence(steps, inputs=count, outputs=1, scratch=(count + 1) * each)


@in_float32
def cross_entropy(call: Call) -> Kernel:
    x, labels = call.inputs
    return native.cross_entropy(code(x.dtype), code(labels.dtype), labels.size, x.shape[-1], **call.attrs)


@in_float32
def cross_entropy_grad(call: Call) -> Kernel:
    _, x, labels = call.inputs
    with_loss = len(call.outputs) > 1  # where a plan has joined it with its op
    return native.cross_entropy_grad(
        code(x.dtype), code(labels.dtype), labels.size, x.shape[-1], **call.attrs, with_loss=with_loss
    )


@in_float32
def layer_norm(call: Call) -> Kernel:
    x, weight, _ = call.inputs
    return native.layer_norm(code(x.dtype), _rows(x, weight), weight.size, **call.attrs)


@in_float32
def layer_norm_grad(call: Call) -> Kernel:
    _, x, weight = call.inputs
    return native.layer_norm_grad(code(x.dtype), _rows(x, weight), weight.size, **call.attrs)


def _rows(x: Spec, weight: Spec) -> int:
    return math.prod(x.shape[: x.ndim - weight.ndim])


# -- what they share --------------------------------------------------------------------------------------------------------


def _swapped(kernel: Kernel) -> Kernel:
    """A kernel with its two operands the other way round."""
    return native.sequence([(kernel, [(2, 0), (1, 0)], [(3, 0)])], inputs=2, outputs=1)


def _around(x: Spec, axis: int) -> tuple[int, int, int]:
    """x as (outer, size, inner), `axis` in the middle."""
    return math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :])
