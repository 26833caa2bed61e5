"""The checks themselves: each of these planted bugs must be caught."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core.errors import KernelError
from needle_core.op import KERNELS, OPS
from needle_core.spec import DTYPES
from needle_core.testing import CASES
from needle_core.testing.bounds import ROUNDOFF, bounds, expect, results_of, rounded
from needle_core.testing.gradients import check_gradient, check_second_order
from needle_core.testing.layouts import LAYOUTS
from needle_core.testing.refusals import check_refusal
from needle_core.testing.samples import FLOATING, MismatchError, Sample, at, real, sample
from needle_core.testing.values import check_forward, check_special
from tests.devices import on_the_host

BACKEND = ndl.default_device().backend.name


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, Callable[..., Any]], None]]:
    """Replaces the kernel of an op by a function of it: plant("exp", lambda exp: lambda x: 1.0005 * exp(x))."""

    def forget() -> None:
        for op in OPS.values():
            op.forget()

    def replace(name: str, change: Callable[..., Any]) -> None:
        monkeypatch.setitem(KERNELS, (name, BACKEND), change(KERNELS[name, BACKEND]))
        forget()

    yield replace
    monkeypatch.undo()
    forget()


def plant_rule(monkeypatch: pytest.MonkeyPatch, name: str, change: Callable[..., Any]) -> None:
    """Replaces the first gradient rule of an op by a function of it."""
    rules = OPS[name].rules
    assert rules is not None
    monkeypatch.setattr(OPS[name], "rules", (change(rules[0]), *rules[1:]))


def wrongly_last(add: Any) -> Any:
    def kernel(a: Any, b: Any) -> Any:
        y = np.array(a + b)
        y.reshape(-1)[4:] = 0
        return y

    return kernel


def writing(exp: Any) -> Any:
    def kernel(x: Any) -> Any:
        y = np.array(exp(x))
        if x.flags.writeable:
            x[...] = y
        return y

    return kernel


FORWARD: list[tuple[str, Sample, str, str, Callable[..., Any]]] = [
    ("a scalar off", sample(real()), "exp", "contiguous", lambda exp: lambda x: np.asarray(exp(x) * 1.001)),
    ("a small factor", sample(real(3)), "exp", "contiguous", lambda exp: lambda x: exp(x) * np.float32(1.00001)),
    ("float16 inside", sample(real(3)), "exp", "contiguous", lambda exp: lambda x: exp(x.astype(np.float16)).astype(x.dtype)),
    ("another dtype", sample(real(3)), "exp", "contiguous", lambda exp: lambda x: exp(x).astype(np.float64)),
    ("another shape", sample(real(3)), "exp", "contiguous", lambda exp: lambda x: exp(x)[None]),
    ("an input written", sample(real(3)), "exp", "contiguous", writing),
    ("overflow too early", at([80.0]), "exp", "contiguous", lambda exp: lambda x: np.full_like(x, np.inf)),
    ("the last block lost", sample(real(5), real(5)), "add", "contiguous", wrongly_last),
    ("keepdims ignored", sample(real(2, 3), axis=1, keepdims=True), "sum", "contiguous",
     lambda sum: lambda x, axes, keepdims: sum(x, axes=axes, keepdims=False)),
    ("zero of nothing", sample(real(0, 3), axis=0), "prod", "contiguous",
     lambda prod: lambda x, axes, keepdims: np.zeros(3, x.dtype)),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "sample", "name", "layout", "change"), FORWARD, ids=[f[0] for f in FORWARD])
def test_wrong_values_are_caught(plant: Any, wrong: str, sample: Sample, name: str, layout: str, change: Any) -> None:
    check_forward(CASES[name], sample, "float32", layout)
    plant(name, change)
    with pytest.raises((MismatchError, KernelError), match=f"^{name}(/forward/|: the kernel returned)"):
        check_forward(CASES[name], sample, "float32", layout)


@on_the_host  # kernels of the loopback device get rows
def test_ignored_strides_are_caught(plant: Any) -> None:
    plant("exp", lambda exp: lambda x: exp(x.ravel("K").reshape(x.shape)))
    check_forward(CASES["exp"], sample(real(2, 3)), "float32", "contiguous")
    with pytest.raises(MismatchError, match=r"^exp/forward/"):
        check_forward(CASES["exp"], sample(real(2, 3)), "float32", "transposed")


def test_lost_duplicates_are_caught(plant: Any) -> None:
    def assign(_: Any) -> Any:
        def kernel(x: Any, indices: Any, updates: Any, *, axis: int) -> Any:
            y = x.copy()
            y[(slice(None),) * axis + (indices,)] += updates
            return y

        return kernel

    plant("scatter_add", assign)
    with pytest.raises(MismatchError, match="scatter_add/forward"):
        check_forward(CASES["scatter_add"], CASES["scatter_add"].samples[0], "float64")


def test_swallowed_nan_is_caught(plant: Any) -> None:
    plant("maximum", lambda _: lambda a, b: np.asarray(np.where(a > b, a, b)))
    with pytest.raises(MismatchError, match="maximum/special"):
        check_special(CASES["maximum"], "float32")


@on_the_host
def test_accepted_nonsense_is_caught(plant: Any) -> None:
    plant("take", lambda _: lambda x, indices, *, axis: np.take(x, indices, axis, mode="wrap"))
    with pytest.raises(MismatchError, match="nothing was raised"):
        check_refusal("take", CASES["take"].refusals[0])


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if not case.exact])
def test_no_bound_excuses_everything(name: str) -> None:
    """A finite result has a finite bound, and in float32 and float64 a wrong sign, or zero, is outside of it.

    Next to zero, two units of roundoff are allowed, as to a logarithm near 1.
    """
    case = CASES[name]
    for s, dtype in [(one, d) for one in case.samples for d in case.dtypes_of(one) if d in FLOATING]:
        result = results_of(case, s, dtype)[0]
        if not result.is_floating:
            continue
        drawn = [rounded(x, DTYPES[dtype]) for x in s.draw(name)]
        arrays = [x.astype(np.float64) if i.kind == "real" else x for x, i in zip(drawn, s.inputs, strict=True)]
        expected = expect(case, s, drawn, dtype)
        for y, bound in zip(expected, bounds(case, s, arrays, expected, dtype), strict=True):
            limit = np.inf if result.name in ("float16", "bfloat16") else np.abs(y) + (case.terms + 2) * ROUNDOFF[result.name]
            assert np.all(bound[np.isfinite(y)] < np.broadcast_to(limit, y.shape)[np.isfinite(y)]), f"{s} {dtype}"


def test_a_declared_roundoff_holds_for_sums_in_float32_too(plant: Any) -> None:
    """TensorFloat-32 rounds the factors of a product to 11 bits."""
    plant("matmul", lambda matmul: lambda a, b: matmul(*(x.astype(np.float16).astype(x.dtype) for x in (a, b))))
    case = CASES["matmul"]
    check_forward(replace(case, roundoff={"float32": 2.0**-11}), case.samples[3], "float32")
    with pytest.raises(MismatchError, match="matmul/forward"):
        check_forward(case, case.samples[3], "float32")


@pytest.mark.parametrize("shape", [(), (1,), (2, 3, 4)])
@pytest.mark.parametrize("name", ["tanh", "erf", "multiply"])
def test_a_gradient_times_1_0001_is_caught(monkeypatch: pytest.MonkeyPatch, name: str, shape: tuple[int, ...]) -> None:
    case = next(s for s in CASES[name].samples if s.inputs[0].shape == shape or s.inputs[-1].shape == shape)
    check_gradient(CASES[name], case)
    plant_rule(monkeypatch, name, lambda rule: lambda *args: rule(*args) * 1.0001)
    with pytest.raises(MismatchError, match=f"{name}/gradient"):
        check_gradient(CASES[name], case)


def test_a_missing_term_in_the_gradient_of_softmax_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    plant_rule(monkeypatch, "softmax", lambda _: lambda g, y, x, axes: g * y)
    with pytest.raises(MismatchError, match="softmax/gradient"):
        check_gradient(CASES["softmax"], CASES["softmax"].samples[0])


@pytest.mark.parametrize(
    ("name", "change"),
    [("exp", lambda rule: lambda g, y, x: g * y.detach()), ("multiply", lambda rule: lambda g, y, a, b: g.detach() * b),
     ("logsumexp", lambda rule: lambda g, y, x, **attrs: rule(g, y.detach(), x, **attrs))],
    ids=["output detached", "cotangent detached", "reduction detached"],
)  # fmt: skip
def test_a_rule_that_does_not_differentiate_again_is_caught(monkeypatch: pytest.MonkeyPatch, name: str, change: Any) -> None:
    case = CASES[name]
    plant_rule(monkeypatch, name, change)
    check_gradient(case, case.samples[1])
    with pytest.raises(MismatchError, match=f"{name}/second order"):
        check_second_order(case, case.samples[1])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 2), (2, 1, 3)])
def test_layouts_hold_the_values_they_were_given(layout: str, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(size=shape)
    expected = np.broadcast_to(x[:1], shape) if layout == "repeated" and shape else x
    np.testing.assert_array_equal(LAYOUTS[layout](x).numpy(), expected)


@pytest.mark.parametrize("layout", ["transposed", "stepped", "padded", "flipped", "repeated"])
@on_the_host
def test_layouts_are_not_contiguous(layout: str) -> None:
    assert not LAYOUTS[layout](np.ones((2, 3))).numpy().flags.c_contiguous
