"""Products of matrices and tensors against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core.errors import ArgumentError, ShapeError

RNG = np.random.default_rng(3)


def arrays(*shapes: tuple[int, ...]) -> list[Any]:
    return [RNG.normal(size=shape) for shape in shapes]


FORMULAS: list[tuple[str, tuple[tuple[int, ...], ...]]] = [
    ("ij,jk->ik", ((2, 3), (3, 4))), ("ij,jk", ((2, 3), (3, 4))), ("ij,jk->ki", ((2, 3), (3, 4))), ("ba,cb", ((2, 3), (4, 2))),
    ("i,i->", ((5,), (5,))), ("i,i", ((5,), (5,))), ("i,j->ij", ((2,), (3,))), ("i,j->ji", ((2,), (3,))), ("ij->ji", ((2, 3),)),
    ("ij->", ((2, 3),)), ("ij->j", ((2, 3),)), ("ji", ((2, 3),)), ("ii->i", ((3, 3),)), ("ii", ((3, 3),)),
    ("iij->j", ((3, 3, 2),)),
    ("iji->j", ((3, 2, 3),)), ("iii->i", ((3, 3, 3),)), ("ijij->ij", ((2, 3, 2, 3),)), ("ijij->ji", ((2, 3, 2, 3),)),
    ("ii,jj->ij", ((2, 2), (3, 3))), ("ii,ij->j", ((2, 2), (2, 3))),
    ("bij,bjk->bik", ((2, 3, 4), (2, 4, 5))), ("bij,bkj->bki", ((2, 3, 4), (2, 5, 4))),
    ("bhqd,bhkd->bhqk", ((2, 2, 3, 4), (2, 2, 5, 4))),
    ("bqhd,bkhd->bhqk", ((2, 3, 2, 4), (2, 5, 2, 4))), ("ij,ij->ij", ((2, 3), (2, 3))), ("ij,ij->i", ((2, 3), (2, 3))),
    ("ij,j->ij", ((2, 3), (3,))), ("ij,i->j", ((2, 3), (2,))), ("i,->i", ((3,), ())), (",->", ((), ())), ("->", ((),)),
    ("", ((),)),
    ("ij,jk,kl->il", ((2, 3), (3, 4), (4, 5))), ("ij,jk,kl", ((2, 3), (3, 4), (4, 5))), ("i,j,k->kij", ((2,), (3,), (4,))),
    ("ij,ij,ij->ij", ((2, 3), (2, 3), (2, 3))), ("ab,bc,cd,de->ae", ((2, 3), (3, 2), (2, 4), (4, 2))),
    ("bi,bj,bij->b", ((2, 3), (2, 4), (2, 3, 4))),
    ("ijk,jl,kl->il", ((2, 3, 4), (3, 2), (4, 2))), ("a,b,ab", ((2,), (3,), (2, 3))),
    ("...", ((2, 3),)), ("...->...", ((2, 3),)), ("i...->...", ((2, 3, 4),)), ("...i->i...", ((2, 3, 4),)),
    ("...ij->...ji", ((2, 3, 4),)),
    ("...ij,...jk->...ik", ((2, 3, 4), (2, 4, 5))), ("...ij,...jk->...ik", ((2, 1, 3, 4), (5, 4, 2))),
    ("...ij,jk->...ik", ((2, 3, 4), (4, 5))),
    ("...ij,...jk", ((2, 3, 4), (4, 5))), ("i...,i...->...", ((2, 3), (2, 3))), ("...,...->...", ((2, 1), (3,))),
    ("...i,...i", ((2, 3), (3,))),
    ("i...j,jk->ik...", ((2, 3, 4, 5), (5, 2))), ("...ii->...i", ((2, 3, 3),)), ("...ii", ((2, 3, 3),)),
    ("b...,b->b...", ((2, 3), (2,))),
    ("...a,...b,...ab->...", ((2, 3), (2, 4), (2, 3, 4))), ("ij...,...->ij...", ((2, 3, 4), (4,))),
    ("...,i->i...", ((2, 3), (4,))),
    (" ij , jk -> ik ", ((2, 3), (3, 4))), ("Ab,bC->AC", ((2, 3), (3, 4))), ("Ab,bC", ((2, 3), (3, 4))),
    ("zy,yx", ((2, 3), (3, 4))),
    ("ij,jk->ik", ((2, 0), (0, 4))), ("ij,jk->ik", ((0, 3), (3, 4))), ("ij->i", ((3, 0),)), ("ii->i", ((0, 0),)),
    ("ii", ((0, 0),)),
    ("ij,jk,kl->il", ((2, 0), (0, 4), (4, 5))), ("ij,jk->ik", ((2, 1), (3, 4))), ("ij,ij->ij", ((2, 1), (2, 3))),
    ("ij,ij->ij", ((1, 3), (2, 1))),
]  # fmt: skip


@pytest.mark.parametrize(("formula", "shapes"), FORMULAS, ids=str)
def test_einsum_is_numpys(formula: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    xs = arrays(*shapes)
    expected = np.einsum(formula, *xs)
    found = ndl.einsum(formula, *map(ndl.Tensor, xs))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("formula", "shapes"), [f for f in FORMULAS if "->" in f[0]], ids=str)
def test_einsum_gradient_is_the_einsum_of_the_others(formula: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    """It is linear in each operand, so f(.., x + d, ..) - f(.., x, ..) is exact: its inner product with g is <gradient, d>."""
    xs = arrays(*shapes)
    y, pull = ndl.vjp(lambda *ts: ndl.einsum(formula, *ts), *map(ndl.Tensor, xs))
    g = RNG.normal(size=y.shape)
    for i, gradient in enumerate(pull(ndl.Tensor(g))):
        moved = list(xs)
        moved[i] = d = RNG.normal(size=xs[i].shape)
        assert gradient.shape == xs[i].shape
        assert float((gradient.numpy() * d).sum()) == pytest.approx(
            float((np.einsum(formula, *moved) * g).sum()), rel=1e-10, abs=1e-12
        )


@pytest.mark.parametrize(
    ("formula", "shapes", "error", "text"),
    [
        ("ij,jk->ik", ((2, 3), (4, 5)), ShapeError, "einsum: 'j' has sizes 3 and 4"),
        ("ii->i", ((2, 3),), ShapeError, "einsum: 'i' has sizes 2 and 3"),
        ("ij,jk->ik", ((2, 3),), ArgumentError, "einsum: 2 terms for 1 operands"),
        ("ij", ((2, 3), (3, 2)), ArgumentError, "einsum: 1 terms for 2 operands"),
        ("ijk->i", ((2, 3),), ShapeError, "does not name the 2 axes"),
        ("i->i", ((2, 3),), ShapeError, "does not name the 2 axes"),
        ("ij->ik", ((2, 3),), ArgumentError, "name different axes"),
        ("ij->ii", ((2, 3),), ArgumentError, "a formula is letters"),
        ("i1->i", ((2, 3),), ArgumentError, "a formula is letters"),
        ("i.j->ij", ((2, 3, 4),), ArgumentError, "a formula is letters"),
        ("i...j...->ij", ((2, 3, 4),), ArgumentError, "a formula is letters"),
        ("...i->i", ((2, 3),), ArgumentError, "name different axes"),
        ("ij->ij->ij", ((2, 3),), ArgumentError, "a formula is letters"),
        ("...i,...i->...", ((2, 3), (3, 3)), ShapeError, "has sizes 2 and 3"),
        ("i->i...", ((3,),), None, ""),
    ],
    ids=str,
)
def test_einsum_refuses(formula: str, shapes: Any, error: type[Exception] | None, text: str) -> None:
    xs = arrays(*shapes)
    if error is None:  # NumPy takes it as well
        assert ndl.einsum(formula, *map(ndl.Tensor, xs)).shape == np.einsum(formula, *xs).shape
        return
    with pytest.raises(error, match=text.replace("(", r"\(")):
        ndl.einsum(formula, *map(ndl.Tensor, xs))


@pytest.mark.parametrize(
    ("a", "b", "axes"),
    [((2, 3, 4), (3, 4, 5), 2), ((2, 3), (3, 4), 1), ((2,), (3,), 0), ((2, 3, 4), (4, 3, 5), ([1, 2], [1, 0])),
    ((2, 3), (2, 3), 2),
     ((2, 3, 4), (5, 3), ([-2], [-1])), ((2, 0), (0, 3), 1), ((), (), 0), ((2, 3, 4), (4, 2), ((2, 0), (0, 1)))],
    ids=str,
)  # fmt: skip
def test_tensordot_is_numpys(a: Any, b: Any, axes: Any) -> None:
    x, y = arrays(a, b)
    expected = np.tensordot(x, y, axes)
    found = ndl.tensordot(ndl.Tensor(x), ndl.Tensor(y), axes=axes)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("a", "b", "axes"),
[((2, 3), (4, 5), 1), ((2, 3), (3, 2), 3), ((2, 3), (3,), ([1, 0], [0])), ((2, 3), (2,), -1),
                                              ((2, 2), (2, 2), ([0, 0], [0, 1]))], ids=str)  # fmt: skip
def test_tensordot_refuses(a: Any, b: Any, axes: Any) -> None:
    with pytest.raises((ShapeError, ArgumentError)):
        ndl.tensordot(ndl.ones(a), ndl.ones(b), axes=axes)


@pytest.mark.parametrize("k", [-5, -1, 0, 1, 2, 9])
@pytest.mark.parametrize("shape", [(3, 3), (2, 4), (4, 2), (2, 3, 4), (0, 3)])
def test_diagonal_and_trace_are_numpys(shape: tuple[int, ...], k: int) -> None:
    (x,) = arrays(shape)
    t = ndl.Tensor(x)
    np.testing.assert_array_equal(ndl.diagonal(t, k=k).numpy(), np.diagonal(x, k, -2, -1))
    np.testing.assert_allclose(ndl.trace(t).numpy(), np.trace(x, axis1=-2, axis2=-1), rtol=1e-12)


def test_outer_and_vecdot_are_numpys() -> None:
    a, b = arrays((3,), (4,))
    np.testing.assert_array_equal(ndl.outer(ndl.Tensor(a), ndl.Tensor(b)).numpy(), np.outer(a, b))
    a, b = arrays((2, 3), (3,))
    np.testing.assert_allclose(ndl.vecdot(ndl.Tensor(a), ndl.Tensor(b)).numpy(), np.vecdot(a, b), rtol=1e-12)
    with pytest.raises(ShapeError, match="outer: both must be vectors"):
        ndl.outer(ndl.ones((2, 2)), ndl.ones(2))


def test_norm_of_zero_has_gradient_zero() -> None:
    x = ndl.Tensor([0.0, 0.0], requires_grad=True)
    ndl.vector_norm(x).backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 0]


def test_norm_does_not_overflow_needlessly_in_order_one_and_infinity() -> None:
    x = ndl.Tensor([3e38, -1e38])
    assert ndl.vector_norm(x, ord=float("inf")).item() == pytest.approx(3e38)


@pytest.mark.parametrize("order", [0, -1, "fro"])
def test_orders_of_a_norm_are_positive_numbers(order: Any) -> None:
    with pytest.raises(ArgumentError, match="ord"):
        ndl.vector_norm(ndl.ones(2), ord=order)


@pytest.mark.parametrize("n", [1, 3, 64, 257])
def test_matmul_of_integers_is_exact(n: int) -> None:
    a, b = RNG.integers(-9, 9, (5, n)), RNG.integers(-9, 9, (n, 6))
    assert (ndl.Tensor(a) @ ndl.Tensor(b)).numpy().tolist() == (a @ b).tolist()


def test_matmul_of_mixed_dtypes_meets_in_the_wider() -> None:
    y = ndl.ones((2, 3), dtype="float16") @ ndl.ones((3, 2), dtype="float32")
    assert y.dtype is ndl.float32
    assert (ndl.ones((2, 3), dtype="int32") @ ndl.ones((3, 2), dtype="float16")).dtype is ndl.float16
