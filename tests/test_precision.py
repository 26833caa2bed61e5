"""Mixed precision: which ops compute in less than float32, what becomes of dtypes and gradients, and where it ends.

In bfloat16 1 + 2^-10 is 1. So a product of such numbers with small whole ones is whole only if it was narrowed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

import needle_core as ndl
from needle_core import Tensor, nn
from needle_core.doors import contracted
from needle_core.errors import ArgumentError, DtypeError
from needle_core.op import KERNELS
from needle_core.precision import matmul_precision
from needle_core.testing.suite import core_ops
from tests.devices import on_the_host

ABOVE = 1 + 2.0**-10


def full(*shape: int, value: float = ABOVE, dtype: str = "float32") -> Tensor:
    return Tensor(np.full(shape, value, dtype))


def leaf(*shape: int, value: float = ABOVE) -> Tensor:
    return Tensor(np.full(shape, value, np.float32), requires_grad=True)


@pytest.fixture(autouse=True)
def precision() -> Iterator[None]:
    """Whatever a test permits is forbidden again."""
    yield
    ndl.set_matmul_precision("float32")


# -- which ops --------------------------------------------------------------------------------------------------------------

IMAGE, KERNEL = (2, 4, 4, 3), (5, 3, 3, 3)
PRODUCTS: dict[str, tuple[Callable[..., Any], float]] = {
    "matmul": (lambda: full(2, 3) @ full(3, 4, value=2), 6),
    "gemm": (lambda: ndl.gemm(full(3, 2), full(3, 4), transpose_a=True), 3),
    "linear": (lambda: ndl.linear(full(2, 3), full(3, 4), full(4, value=2)), 5),
    "conv": (lambda: ndl.conv(full(*IMAGE), full(*KERNEL)), 27),
    "conv_transpose": (lambda: ndl.conv_transpose(full(2, 1, 1, 5), full(*KERNEL)), 5),
    "conv_weight_grad": (lambda: ndl.conv_weight_grad(full(2, 2, 2, 5), full(*IMAGE), size=3), 8),
    "scaled_dot_product_attention": (lambda: ndl.scaled_dot_product_attention(full(4, 2), full(4, 2), full(4, 2)), 1),
    "self_attention": (lambda: ndl.self_attention(full(4, 12), heads=2), 1),
    "scaled_dot_product_attention_grad":
        (lambda: ndl.scaled_dot_product_attention_grad(full(4, 2), full(4, 2), full(4, 2), full(4, 2))[2], 1),
    "self_attention_grad": (lambda: ndl.self_attention_grad(full(4, 4), full(4, 12), heads=2)[0][..., 8:], 1),
    "attention_weights": (lambda: ndl.attention_weights(full(1, 1), Tensor([[0.0], [1.0]]), scale=1.0)[0, 1], 0.7310585786),
}  # fmt: skip
"""Calls that give this number everywhere, if their operands are narrowed."""


def test_every_product_of_the_core_is_here() -> None:
    assert PRODUCTS.keys() == {op.name for op in core_ops() if op.is_product}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_read_their_operands_in_half_precision(name: str) -> None:
    call, expected = PRODUCTS[name]
    with ndl.autocast("bfloat16"):
        y = call()
    assert y.dtype is ndl.float32
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-6 if name == "attention_weights" else 0)
    assert abs(call().numpy() - expected).max() > 1e-5


@pytest.mark.parametrize(
    "call",
    [
        lambda x: ndl.exp(x), lambda x: x * x, lambda x: ndl.softmax(x), lambda x: ndl.log_softmax(x), lambda x: x.sum(0),
        lambda x: ndl.vecdot(x, x), lambda x: ndl.outer(x[0], x[0]), lambda x: ndl.layer_norm(x, x[0], x[0]),
        lambda x: ndl.batch_statistics(x)[0], lambda x: ndl.mse_loss(x, 2 * x),
        lambda x: ndl.cross_entropy(x, ndl.Tensor([0, 1, 2])), lambda x: ndl.rnn(x.reshape(3, 1, 3), x[:1], x, x, x[0]),
        lambda x: ndl.gru(x.reshape(3, 1, 3), x[:1], *[ndl.concat(x, x, x, axis=1)] * 2, *[x.reshape(9)] * 2),
    ],
)  # fmt: skip
def test_all_else_computes_as_always(call: Callable[[Tensor], Tensor]) -> None:
    x = full(3, 3) + Tensor(np.arange(9, dtype=np.float32).reshape(3, 3)) / 16
    with ndl.autocast("bfloat16"):
        y = call(x)
    np.testing.assert_array_equal(y.numpy(), call(x).numpy())


def test_functions_and_layers_that_call_products_are_narrowed() -> None:
    layer = nn.Linear(3, 2)
    layer.weight.data, layer.bias.data = full(3, 2), full(2, value=1)
    with ndl.autocast("bfloat16"):
        assert ndl.einsum("ij,jk->ik", full(2, 3), full(3, 2)).tolist() == [[3, 3]] * 2
        assert ndl.tensordot(full(2, 3), full(3, 2), axes=1).tolist() == [[3, 3]] * 2
        assert layer(full(2, 3)).tolist() == [[4, 4]] * 2


def test_products_add_up_in_float32() -> None:
    """In bfloat16, 256 + 1 is 256."""
    with ndl.autocast("bfloat16"):
        assert (full(1, 384) @ full(384, 1)).item() == 384


def test_float16_narrows_less() -> None:
    """1 + 2^-10 is a number of float16, and 1 + 2^-12 is not."""
    with ndl.autocast("float16"):
        assert (full(1, 1) @ full(1, 1, value=1)).item() == ABOVE
        assert (full(1, 1, value=1 + 2.0**-12) @ full(1, 1, value=1)).item() == 1


@pytest.mark.parametrize(
    ("a", "b", "dtype", "expected"),
    [
        ("float64", "float32", "float64", ABOVE**2),
        ("float16", "float16", "float16", np.float16(ABOVE * ABOVE)),
        ("bfloat16", "float32", "float32", 1),
        ("int32", "float32", "float32", 1),
        ("int64", "int64", "int64", 1),
    ],
)
def test_what_would_not_compute_in_float32_computes_as_always(a: str, b: str, dtype: str, expected: float) -> None:
    left, right = (Tensor([[ABOVE]], dtype="float64").astype(d) for d in (a, b))
    right = Tensor([[np.float32(ABOVE)]]) if b == "float32" else right
    with ndl.autocast("bfloat16"):
        y = left @ right
    assert y.dtype == dtype
    assert y.item() == expected


def test_arrays_and_lists_as_operands_are_narrowed() -> None:
    with ndl.autocast("bfloat16"):
        assert (full(1, 2) @ np.full((2, 1), ABOVE, np.float32)).item() == 2
        assert (full(1, 2) @ [[ABOVE], [ABOVE]]).item() == 2
        assert ([[ABOVE, ABOVE]] @ full(2, 1)).item() == 2


def test_what_does_not_fit_is_refused_as_always() -> None:
    with ndl.autocast("bfloat16"), pytest.raises(ndl.errors.ShapeError, match=r"matmul: inner(.|\n)*a: float32\[2, 3\]"):
        full(2, 3) @ full(2, 3)


@ndl.composite(contracted)
def plain(a: Tensor, b: Tensor) -> Tensor:
    """An op of a plugin that is written with a product."""
    return a @ b


@ndl.composite(contracted, product=True)
def declared(a: Tensor, b: Tensor) -> Tensor:
    """The same, declared as one."""
    return a @ b


def test_composites_are_narrowed_if_they_are_declared_as_products() -> None:
    with ndl.autocast("bfloat16"):
        assert plain(full(1, 2), full(2, 1)).item() > 2
        assert declared(full(1, 2), full(2, 1)).item() == 2
    assert declared(full(1, 2), full(2, 1)).item() > 2


class Parts(NamedTuple):
    """What an op of a plugin gives."""

    left: Tensor
    right: Tensor


@ndl.composite(lambda *x: (Parts(contracted(*x)[0], contracted(*x)[0]), {}), product=True)  # type: ignore[arg-type]
def both(*x: Tensor) -> Parts:
    """Twice the product of two matrices, which may stand in a list."""
    return Parts(x[0] @ x[1], x[0] @ x[1])


def twice(a: Any, b: Any) -> tuple[Any, Any]:
    """Its kernel, on arrays."""
    y = np.matmul(a.astype(np.float32), b.astype(np.float32)).astype(a.dtype)
    return y, y.copy()


@pytest.mark.parametrize("has_kernel", [False, pytest.param(True, marks=on_the_host)])
def test_lists_of_operands_and_results_of_a_class_stay_what_they_are(has_kernel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = full(1, 2), full(2, 1)
    if has_kernel:
        monkeypatch.setitem(KERNELS, ("both", a.device.backend.name), twice)
        monkeypatch.setattr(both, "joint", lambda g, y, *x: (None, None))
    both.forget()
    with ndl.autocast("bfloat16"):
        results = both(a, b), both([a, b]), both([a, b.tolist()])
    for y in results:
        assert isinstance(y, Parts)
        assert y.left.dtype is y.right.dtype is ndl.float32
        assert y.left.item() == y.right.item() == 2


# -- gradients --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", [True, False])
def test_gradients_are_products_in_half_precision_and_arrive_in_float32(inside: bool) -> None:
    x, w = leaf(2, 3), leaf(3, 4)
    with ndl.autocast("bfloat16"):
        y = x @ w
        if inside:
            y.backward(full(2, 4))
    if not inside:
        y.backward(full(2, 4))
    assert x.grad is not None
    assert w.grad is not None
    assert x.grad.dtype is w.grad.dtype is ndl.float32
    assert x.grad.tolist() == [[4] * 3] * 2
    assert w.grad.tolist() == [[2] * 4] * 3


def test_gradients_of_what_was_computed_before_are_as_exact_as_it() -> None:
    x, w = leaf(2, 3), leaf(3, 4)
    y = x @ w
    with ndl.autocast("bfloat16"):
        y.backward(full(2, 4))
    assert w.grad is not None
    np.testing.assert_allclose(w.grad.numpy(), 2 * ABOVE**2, rtol=1e-6)


@pytest.mark.parametrize(
    ("of", "shapes"),
    [
        (lambda x, w: ndl.conv(x, w, padding=1), (IMAGE, KERNEL)),
        (lambda x, w: ndl.conv_transpose(x, w), ((2, 2, 2, 5), KERNEL)),
        (lambda q, k: ndl.scaled_dot_product_attention(q, k, k, causal=True), ((2, 4, 3), (2, 4, 3))),
        (lambda x, w: ndl.self_attention(x @ w, heads=2), ((2, 4, 3), (3, 12))),
        (lambda x, w: ndl.linear(x, w, w[0]), ((2, 4, 3), (3, 3))),
    ],
)
def test_gradients_are_close_to_those_in_float32(of: Callable[..., Tensor], shapes: tuple[tuple[int, ...], ...]) -> None:
    """A rounding to bfloat16 changes a number by 2^-9 of it at most, a handful of them the norm of all by less than 0.03."""
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    weight = Tensor(rng.normal(size=of(*map(Tensor, arrays)).shape).astype(np.float32))
    found: list[list[Any]] = []
    for half in ("bfloat16", None):
        leaves = [Tensor(array, requires_grad=True) for array in arrays]
        with ndl.autocast(half):
            (of(*leaves) * weight).sum().backward()
        found.append([t.grad.numpy() for t in leaves if t.grad is not None])
    for narrow, wide in zip(*found, strict=True):
        assert narrow.dtype == np.float32
        assert 0 < np.linalg.norm(narrow - wide) < 0.03 * np.linalg.norm(wide)


def test_gradients_differentiate_again() -> None:
    """Of (x w)^3 by x twice: 6 x w^3. Whole numbers that bfloat16 holds are exact."""

    def cube(x: Tensor) -> Tensor:
        with ndl.autocast("bfloat16"):
            return (x @ full(1, 1, value=2) * ABOVE).sum() ** 3

    x = full(1, 1, value=3)
    second = ndl.grad(lambda x: ndl.grad(cube)(x).sum())(x)
    assert second.dtype is ndl.float32
    np.testing.assert_allclose(second.numpy(), 6 * 3 * 2**3 * ABOVE**3, rtol=2**-7)


# -- where it holds ---------------------------------------------------------------------------------------------------------


def is_narrowed() -> bool:
    y = full(1, 1) @ full(1, 1)
    return bool(y.item() == 1)


def test_blocks_nest_and_end() -> None:
    seen = [is_narrowed()]
    with ndl.autocast("bfloat16"):
        seen.append(is_narrowed())
        with ndl.autocast(None):
            seen.append(is_narrowed())
            with ndl.autocast("bfloat16"):
                seen.append(is_narrowed())
        seen.append(is_narrowed())
    seen.append(is_narrowed())
    assert seen == [False, True, False, True, True, False]


def test_exceptions_end_it_too() -> None:
    with pytest.raises(ZeroDivisionError), ndl.autocast("bfloat16"):
        _ = 1 // 0
    assert not is_narrowed()


def test_it_decorates_functions() -> None:
    assert ndl.autocast("bfloat16")(is_narrowed)()
    assert not is_narrowed()


def test_generators_are_not_decorated() -> None:
    def numbers() -> Iterator[int]:
        yield 1

    with pytest.raises(ArgumentError, match="numbers is a generator"):
        ndl.autocast("bfloat16")(numbers)


def test_one_can_be_entered_again() -> None:
    narrow, wide = ndl.autocast("bfloat16"), ndl.autocast(None)
    with narrow, wide, narrow, wide:
        assert not is_narrowed()
    with narrow:
        with narrow:
            assert is_narrowed()
        assert is_narrowed()
    assert not is_narrowed()


def test_other_threads_are_left_alone() -> None:
    """Both share a block, and each returns to what it had."""
    shared, seen = ndl.autocast(None), {}
    here, there = threading.Event(), threading.Event()

    def other() -> None:
        seen["at first"] = is_narrowed()
        with ndl.autocast("bfloat16"):
            with shared:
                here.set()
                assert there.wait(60)
            seen["again"] = is_narrowed()

    with ndl.autocast("bfloat16"), ndl.autocast(None):
        thread = threading.Thread(target=other)
        thread.start()
        assert here.wait(60)
        with shared:
            pass
        there.set()
        thread.join()
        seen["here"] = is_narrowed()
    assert seen == {"at first": False, "again": True, "here": False}


@pytest.mark.parametrize(
    ("dtype", "message"),
    [("bf16", "no dtype 'bf16'"), *((d, r"autocast: .*bfloat16 or float16.* not to") for d in ("float32", "float64", int))],
)
def test_dtypes_that_are_not_half_precision_are_refused(dtype: Any, message: str) -> None:
    with pytest.raises(DtypeError, match=message):
        ndl.autocast(dtype)


# -- training ---------------------------------------------------------------------------------------------------------------


def test_parameters_and_states_of_optimizers_stay_in_float32() -> None:
    model = nn.Linear(3, 2)
    opt = ndl.optim.Adam(model.parameters())
    with ndl.autocast("bfloat16"):
        model(full(4, 3)).sum().backward()
        opt.step()
    assert {p.dtype for p in model.parameters()} == {ndl.float32}
    assert {t.dtype for t in ndl.tree.flatten(opt.state_dict()["parameters"])[0]} == {ndl.float32}


def test_small_updates_are_not_lost() -> None:
    """A weight of bfloat16 would stay at 1: 2^-10 is less than half of what lies between it and its neighbour."""
    w = nn.Parameter(np.ones((1, 1), np.float32))
    opt = ndl.optim.SGD([w], lr=2.0**-10)
    for _ in range(8):
        opt.reset_grad()
        with ndl.autocast("bfloat16"):
            (full(1, 1, value=-1) @ w).sum().backward()
        opt.step()
    assert w.item() == 1 + 8 * 2.0**-10


# -- the precision of products in float32 -----------------------------------------------------------------------------------


def test_products_of_float32_are_exact_unless_told_otherwise() -> None:
    assert ndl.matmul_precision() == "float32"
    ndl.set_matmul_precision("tf32")
    assert ndl.matmul_precision() == matmul_precision() == "tf32"


def test_kernels_are_bound_anew_for_another_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = ndl.default_device().backend
    seen: list[str] = []

    def bind(kernel: Any, attrs: Any, inputs: Any, output: Any) -> Any:
        seen.append(ndl.matmul_precision())
        return original(kernel, attrs, inputs, output)

    original = backend.bind
    monkeypatch.setattr(backend, "bind", bind)
    a = full(3, 7)
    for precision in ("float32", "tf32", "float32"):
        ndl.set_matmul_precision(precision)  # type: ignore[arg-type]
        for _ in range(2):
            _ = a @ a.T
    assert [p for p, before in zip(seen, ["", *seen], strict=False) if p != before][-2:] == ["tf32", "float32"]


@pytest.mark.parametrize("word", ["high", "bfloat16", 32, None])
def test_unknown_precisions_are_refused(word: Any) -> None:
    with pytest.raises(ArgumentError, match="the precision of products is 'float32' or 'tf32', not"):
        ndl.set_matmul_precision(word)
    assert ndl.matmul_precision() == "float32"
