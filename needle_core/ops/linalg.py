"""Products of matrices and tensors."""

from __future__ import annotations

import builtins
import functools
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from needle_core.doors import contracted, normalize_axis, promoting, reduced, to_common, to_floating
from needle_core.errors import ArgumentError, ShapeError, brief
from needle_core.op import composite, primitive
from needle_core.ops.elementary import sqrt
from needle_core.ops.elementwise import abs, equal, square, where
from needle_core.ops.reduce import max, sum
from needle_core.ops.shape import broadcast_to, moveaxis, permute_dims, reshape
from needle_core.spec import Spec
from needle_core.tensor import Axes, Operand, Tensor

__all__ = [
    "diagonal", "einsum", "gemm", "linear", "matmul", "outer", "tensordot", "trace", "vecdot", "vector_norm",
]  # fmt: skip


@primitive(contracted, product=True)
def matmul(a: Operand, b: Operand) -> Tensor:
    """Matrix product over the last axis of a and the one before the last of b, batched over the rest.

    Shapes:   a (*s, m, k), b (*s, k, n) -> (*s, m, n); a or b may be a vector (k), whose place is missing in the result
    Dtypes:   numbers; float16 and bfloat16 accumulate in float32
    Raises:   ShapeError if the inner dimensions differ
    """


def _by_left(g: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    if b.ndim == 1:
        return reshape(g, shape=(*g.shape, 1)) * b
    if a.ndim == 1:
        return reshape(reshape(g, shape=(*g.shape[:-1], 1, g.shape[-1])) @ b.mT, shape=(*b.shape[:-2], b.shape[-2]))
    return g @ b.mT


def _by_right(g: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    if a.ndim == 1:
        return reshape(a, shape=(-1, 1)) * reshape(g, shape=(*g.shape[:-1], 1, g.shape[-1])) if b.ndim > 1 else g * a
    if b.ndim == 1:
        column = a.mT @ reshape(g, shape=(*g.shape, 1))
        return reshape(column, shape=column.shape[:-1])
    return by_matrix(g, a) if b.ndim == 2 else a.mT @ g


def by_matrix(g: Tensor, x: Tensor) -> Tensor:
    """The gradient for w of x @ w, one matrix for all samples: side by side they make one product."""
    if x.ndim == 2:
        return x.mT @ g
    samples = math.prod(x.shape[:-1])
    return reshape(x, shape=(samples, x.shape[-1])).mT @ reshape(g, shape=(samples, g.shape[-1]))


matmul.vjp(_by_left, _by_right)
Tensor.__matmul__ = matmul.of_two  # type: ignore[method-assign]


@promoting(to_common)
def _general(a: Spec, b: Spec, *, transpose_a: bool = False, transpose_b: bool = False) -> tuple[Spec, dict[str, Any]]:
    if min(a.ndim, b.ndim) < 2:
        raise ShapeError("both are matrices, or stacks of them")
    left, right = (x.like(shape=(*x.shape[:-2], *x.shape[:-3:-1])) if t else x for x, t in ((a, transpose_a), (b, transpose_b)))
    return contracted(left, right)[0], {"transpose_a": bool(transpose_a), "transpose_b": bool(transpose_b)}


@composite(_general, product=True)
def gemm(a: Tensor, b: Tensor, *, transpose_a: bool = False, transpose_b: bool = False) -> Tensor:
    """Matrix product of matrices of which either is given transposed: what BLAS calls by this name.

    A compiled graph has it in the place of `matmul` where transposes come before, if the backend has a kernel.

    Shapes:   a (*s, m, k), or (*s, k, m) with transpose_a; b (*s, k, n), or (*s, n, k) with transpose_b -> (*s, m, n)
    Dtypes:   as `matmul`
    Raises:   ShapeError if the inner dimensions differ, or one has less than two axes
    """
    return (a.mT if transpose_a else a) @ (b.mT if transpose_b else b)


@promoting(to_common)
def _affine(x: Spec, weight: Spec, bias: Spec) -> tuple[Spec, dict[str, Any]]:
    if weight.ndim != 2 or x.ndim < 1:
        raise ShapeError("the weight is a matrix, and x has at least one axis")
    if bias.shape != weight.shape[1:]:
        raise ShapeError(f"the bias needs the shape {list(weight.shape[1:])} of the weight's last axis, not {list(bias.shape)}")
    if x.shape[-1] != weight.shape[0]:
        raise ShapeError(f"inner dimensions differ, {x.shape[-1]} != {weight.shape[0]}")
    return contracted(x, weight)


@composite(_affine, product=True)
def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x @ weight + bias.

    Shapes:   x (*s, m), weight (m, n), bias (n) -> (*s, n)
    Raises:   ShapeError if the sizes do not fit
    """
    return x @ weight + bias


linear.vjp(
    lambda g, y, x, weight, bias: g @ permute_dims(weight, axes=(1, 0)),
    lambda g, y, x, weight, bias: by_matrix(g, x),
    lambda g, y, x, weight, bias: sum(g, axes=(*range(len(g.spec.shape) - 1),)),
)


def outer(a: Tensor, b: Tensor) -> Tensor:
    """All products of elements of two vectors (m), (n) -> (m, n)."""
    if a.ndim != 1 or b.ndim != 1:
        raise ShapeError("outer: both must be vectors", details={"a": a.spec, "b": b.spec})
    return reshape(a, shape=(-1, 1)) * b


def vecdot(a: Tensor, b: Tensor, *, axis: int = -1) -> Tensor:
    """Sum of products along an axis, batched over the rest."""
    return (a * b).sum(axis)


def tensordot(a: Tensor, b: Tensor, *, axes: int | tuple[Sequence[int], Sequence[int]] = 2) -> Tensor:
    """Sum of products over pairs of axes: the last `axes` of a with the first of b, or the axes listed for each."""
    if isinstance(axes, int):
        if not 0 <= axes <= min(a.ndim, b.ndim):
            raise ShapeError(f"tensordot: no {axes} axes to sum over", details={"a": a.spec, "b": b.spec})
        over_a, over_b = list(range(a.ndim - axes, a.ndim)), list(range(axes))
    else:
        over_a, over_b = [normalize_axis(i, a.ndim) for i in axes[0]], [normalize_axis(i, b.ndim) for i in axes[1]]
    if len(over_a) != len(over_b) or [a.shape[i] for i in over_a] != [b.shape[i] for i in over_b]:
        raise ShapeError("tensordot: the axes to sum over differ in size", details={"a": a.spec, "b": b.spec, "axes": axes})
    keep_a, keep_b = ([i for i in range(t.ndim) if i not in over] for t, over in ((a, over_a), (b, over_b)))
    inner = math.prod(a.shape[i] for i in over_a)
    left = reshape(permute_dims(a, axes=(*keep_a, *over_a)), shape=(math.prod(a.shape[i] for i in keep_a), inner))
    right = reshape(permute_dims(b, axes=(*over_b, *keep_b)), shape=(inner, math.prod(b.shape[i] for i in keep_b)))
    return reshape(left @ right, shape=(*(a.shape[i] for i in keep_a), *(b.shape[i] for i in keep_b)))


def diagonal(x: Tensor, *, k: int = 0) -> Tensor:
    """The k-th diagonal of matrices (..., n, m), counted upwards."""
    if x.ndim < 2:
        raise ShapeError("diagonal: a matrix has at least two axes", details={"x": x.spec})
    n, m = x.shape[-2:]
    rows = range(n)[builtins.max(0, -k) : builtins.max(0, m - k)]
    places = np.array([r * m + r + k for r in rows], dtype=np.int64)
    return reshape(x, shape=(*x.shape[:-2], n * m))[..., places]


def trace(x: Tensor) -> Tensor:
    """The sum of the diagonal of matrices (..., n, m)."""
    return diagonal(x).sum(-1)


@promoting(to_floating)
def _ordered(x: Spec, *, ord: Any = 2, **attrs: Any) -> tuple[Spec, dict[str, Any]]:
    if type(ord) not in (int, float) or not ord > 0:
        raise ArgumentError(f"ord is a positive number, not {brief(ord)}")
    return reduced(x, ord=ord, **attrs)


@composite(_ordered)
def vector_norm(x: Tensor, *, axis: Axes = None, axes: Axes = None, keepdims: bool = False, ord: float = 2) -> Tensor:
    """The norm of order `ord` (1, 2, inf or any positive number) over `axis`.

    Gradient: 0 at 0 for order 2
    """
    if ord == 2:
        total = sum(square(x), axes=axes, keepdims=keepdims)
        return where(equal(total, 0), 0, sqrt(where(equal(total, 0), 1, total)))
    if ord == float("inf"):
        return max(abs(x), axes=axes, keepdims=keepdims)
    if ord == 1:
        return sum(abs(x), axes=axes, keepdims=keepdims)
    return sum(abs(x) ** ord, axes=axes, keepdims=keepdims) ** (1 / ord)


# -- einsum -----------------------------------------------------------------------------------------------------------------


def einsum(subscripts: str, *operands: Tensor) -> Tensor:
    """Sums of products by Einstein's convention: einsum("bij,bjk->bik", a, b).

    Letters name axes, "..." the axes that are broadcast; letters that the result leaves out are summed over. Two operands at
    a time are multiplied as matrices, in an order that NumPy's einsum_path finds.

    Raises: ArgumentError for a malformed formula, ShapeError for sizes that differ.
    """
    terms, result = _parse(subscripts, operands)
    arrays = [_diagonals(x, term) for x, term in zip(operands, terms, strict=True)]
    sizes: dict[str, int] = {}
    for x, term in arrays:
        for letter, n in zip(term, x.shape, strict=True):
            known = sizes.get(letter, 1)
            if 1 not in (n, known) and n != known:
                raise ShapeError(f"einsum: {letter!r} has sizes {known} and {n}", details={"formula": subscripts})
            sizes[letter] = n if known == 1 else known
    arrays = [(broadcast_to(x, shape=tuple(sizes[letter] for letter in term)), term) for x, term in arrays]
    for pair in _path(arrays, result):
        chosen = [arrays.pop(i) for i in sorted(pair, reverse=True)]
        needed = set(result).union(*(term for _, term in arrays))
        arrays.append(functools.reduce(lambda a, b: _contract(a, b, needed), reversed(chosen)))
    x, term = _sum_out(*arrays[0], set(result))
    return permute_dims(x, axes=tuple(term.index(letter) for letter in result))


_Term: TypeAlias = tuple[Tensor, str]


def _parse(subscripts: str, operands: Sequence[Tensor]) -> tuple[list[str], str]:
    """One letter for each axis of each operand and of the result; the axes of "..." get letters of their own."""
    inputs, arrow, output = subscripts.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if len(terms) != len(operands):
        raise ArgumentError(f"einsum: {len(terms)} terms for {len(operands)} operands", details={"formula": subscripts})
    if any(term.count("...") > 1 for term in (*terms, output)):
        raise ArgumentError("einsum: a formula is letters, commas, ... and ->", details={"formula": subscripts})
    extra = [x.ndim - len(term.replace("...", "")) for x, term in zip(operands, terms, strict=True)]
    letters = "".join(chr(0x3B1 + i) for i in range(builtins.max(extra, default=0)))  # alpha, beta, ...: nobody else's
    for i, (term, n, x) in enumerate(zip(terms, extra, operands, strict=True)):
        if n < 0 or (n > 0 and "..." not in term):
            raise ShapeError(
                f"einsum: {term!r} does not name the {x.ndim} axes", details={"formula": subscripts, "operand": x.spec}
            )
        terms[i] = term.replace("...", letters[len(letters) - n :])
    named = "".join(terms).translate({ord(c): None for c in letters})
    if not arrow:
        output = "..." + "".join(sorted(c for c in set(named) if named.count(c) == 1))
    result = output.replace("...", letters)
    plain = output.replace("...", "")
    if not (named + plain).isascii() or not all(c.isalpha() for c in named + plain) or len(set(plain)) != len(plain):
        raise ArgumentError("einsum: a formula is letters, commas, ... and ->", details={"formula": subscripts})
    if not set(plain) <= set(named) or (letters and "..." not in output):
        raise ArgumentError("einsum: the result and the operands name different axes", details={"formula": subscripts})
    return terms, result


def _diagonals(x: Tensor, term: str) -> _Term:
    """An operand in whose term no letter repeats."""
    for letter in [c for c in dict.fromkeys(term) if term.count(c) > 1]:
        while term.count(letter) > 1:
            i, j = term.index(letter), term.rindex(letter)
            if x.shape[i] != x.shape[j]:
                raise ShapeError(f"einsum: {letter!r} has sizes {x.shape[i]} and {x.shape[j]}", details={"operand": x.spec})
            x = diagonal(moveaxis(x, (i, j), (-2, -1)))
            term = "".join(c for k, c in enumerate(term) if k not in (i, j)) + letter
    return x, term


def _path(arrays: list[_Term], result: str) -> list[tuple[int, ...]]:
    """In which order to multiply, as positions in the list, to whose end each product goes."""
    if len(arrays) < 3:
        return [(0, 1)] if len(arrays) == 2 else []
    names = {c: chr(ord("A") + i) for i, c in enumerate(dict.fromkeys("".join(term for _, term in arrays)))}
    formula = ",".join("".join(names[c] for c in term) for _, term in arrays) + "->" + "".join(names[c] for c in result)
    dummies = [np.broadcast_to(np.float32(0), x.shape) for x, _ in arrays]
    return [tuple(step) for step in np.einsum_path(formula, *dummies, optimize="greedy")[0][1:]]


def _sum_out(x: Tensor, term: str, needed: set[str]) -> _Term:
    """An operand summed over the letters that nobody needs any more."""
    gone = tuple(i for i, c in enumerate(term) if c not in needed)
    return (x.sum(gone) if gone else x), "".join(c for c in term if c in needed)


def _contract(left: _Term, right: _Term, needed: set[str]) -> _Term:
    """The product of two operands, as one matrix product batched over the letters that both have and the result keeps."""
    a, of_a = _sum_out(*left, needed | set(right[1]))
    b, of_b = _sum_out(*right, needed | set(left[1]))
    batch = [c for c in of_a if c in of_b and c in needed]
    inner = [c for c in of_a if c in of_b and c not in needed]
    rows, columns = [c for c in of_a if c not in of_b], [c for c in of_b if c not in of_a]
    sizes = dict(zip(of_a + of_b, a.shape + b.shape, strict=True))
    m, k, n = (math.prod(sizes[c] for c in group) for group in (rows, inner, columns))
    outer_shape = [sizes[c] for c in batch]
    a = reshape(permute_dims(a, axes=tuple(of_a.index(c) for c in batch + rows + inner)), shape=(*outer_shape, m, k))
    b = reshape(permute_dims(b, axes=tuple(of_b.index(c) for c in batch + inner + columns)), shape=(*outer_shape, k, n))
    return reshape(a @ b, shape=(*outer_shape, *(sizes[c] for c in rows + columns))), "".join(batch + rows + columns)
