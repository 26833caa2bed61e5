"""Matrix products: cuBLASLt for floating dtypes, programs for integers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from needle_core.graph.program import Instruction, Load, Program, Store, broadcast_steps, row_major
from needle_core.precision import matmul_precision
from needle_core.spec import DType, int64
from needle_cuda_backend.cublaslt import Matrices, products
from needle_cuda_backend.loops import recipe_of
from needle_cuda_backend.recipe import Call, Place, Recipe, inputs_of


class MatrixProduct(NamedTuple):
    """A batch of products by cuBLASLt."""

    matrices: Matrices
    a: Place
    b: Place
    bias: Place | None
    y: Place


def matmul(call: Call) -> Recipe:
    (a, b), recipe = call.inputs, Recipe()
    left = (1, *a.shape) if a.ndim == 1 else a.shape
    right = (*b.shape, 1) if b.ndim == 1 else b.shape
    x, w = inputs_of(2)
    product(recipe, x, w, Place("output"), left, right, a.dtype, fixed=call.fixed)
    return recipe


def gemm(call: Call) -> Recipe:
    (a, b), recipe = call.inputs, Recipe()
    x, w = inputs_of(2)
    product(recipe, x, w, Place("output"), a.shape, b.shape, a.dtype, **call.attrs, fixed=call.fixed)
    return recipe


def linear(call: Call) -> Recipe:
    (x, weight, _), recipe = call.inputs, Recipe()
    left = (1, *x.shape) if x.ndim == 1 else x.shape
    a, b, bias = inputs_of(3)
    product(recipe, a, b, Place("output"), left, weight.shape, x.dtype, bias=bias, fixed=call.fixed)
    return recipe


def product(
    recipe: Recipe,
    a: Place,
    b: Place,
    y: Place,
    a_shape: Sequence[int],
    b_shape: Sequence[int],
    dtype: DType,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    bias: Place | None = None,
    add: bool = False,
    fixed: bool = False,
) -> None:
    """Append y = op(a) op(b), plus a bias over the last axis, or to what y was with `add`."""
    (m, k), n = a_shape[:-3:-1] if transpose_a else a_shape[-2:], b_shape[-2 if transpose_b else -1]
    batch = _broadcast(a_shape[:-2], b_shape[:-2])
    shape = (*batch, m, n)
    if not math.prod(shape):
        return
    if add:
        between = recipe.space(math.prod(shape) * dtype.itemsize)
        product(
            recipe, a, b, between, a_shape, b_shape, dtype, transpose_a=transpose_a, transpose_b=transpose_b, fixed=fixed
        )  # fmt: skip
        recipe.then(_sum(shape, shape, dtype, fixed), [y, between], [y])
    elif not k:
        recipe.then(recipe_of(Program(shape, (), ((0, dtype),), (), (Store(0, 0, dtype),)), fixed), [], [y])
        if bias is not None:
            recipe.then(_sum(shape, (n,), dtype, fixed), [y, bias], [y])
    elif dtype.is_floating:
        flags = {"transpose_a": transpose_a, "transpose_b": transpose_b}
        flags |= {"bias": bias is not None, "tf32": matmul_precision() == "tf32"}
        found = products(tuple(a_shape), tuple(b_shape), dtype=dtype, out=dtype, **flags)
        size = dtype.itemsize
        places = math.gcd(*(place.offset for place in (a, b, y, bias) if place is not None))
        for matrices, i, j, o in found:
            aligned = matrices._replace(alignment=math.gcd(matrices.alignment, places))
            recipe.operations.append(MatrixProduct(aligned, a.plus(i * size), b.plus(j * size), bias, y.plus(o * size)))
    else:
        program = _integers(a_shape, b_shape, shape, dtype, (transpose_a, transpose_b))
        recipe.then(recipe_of(program, fixed), [a, b], [y])
        if bias is not None:
            recipe.then(_sum(shape, (n,), dtype, fixed), [y, bias], [y])


def _sum(shape: tuple[int, ...], other: tuple[int, ...], dtype: DType, fixed: bool) -> Recipe:
    loads = (Load(0, dtype, row_major(shape)), Load(1, dtype, broadcast_steps(other, shape)))
    return recipe_of(Program(shape, loads, (), (Instruction("add", (0, 1), {}, dtype),), (Store(0, 2, dtype),)), fixed)


def _integers(a: Sequence[int], b: Sequence[int], shape: tuple[int, ...], dtype: DType, turned: tuple[bool, bool]) -> Program:
    """The product of operands of these shapes, of which the last two axes may be `turned`, as sums along an axis of its own."""
    steps = [broadcast_steps(tuple(x), (*shape[:-2], *x[-2:])) for x in (a, b)]
    (*left, by_m, by_k), (*right, to_k, to_n) = (
        (*s[:-2], s[-1], s[-2]) if t else s for s, t in zip(steps, turned, strict=True)
    )
    loads = Load(0, dtype, (*left, by_m, 0, by_k)), Load(1, dtype, (*right, 0, to_n, to_k))
    terms = Instruction("multiply", (0, 1), {}, dtype), Instruction("astype", (2,), {}, int64)
    return Program((*shape, a[-2 if turned[0] else -1]), loads, (), terms, (Store(0, 3, dtype, "sum", (len(shape),)),))


def _broadcast(a: Sequence[int], b: Sequence[int]) -> tuple[int, ...]:
    ndim = max(len(a), len(b))
    pairs = zip((1,) * (ndim - len(a)) + tuple(a), (1,) * (ndim - len(b)) + tuple(b), strict=True)
    return tuple(y if x == 1 else x for x, y in pairs)
