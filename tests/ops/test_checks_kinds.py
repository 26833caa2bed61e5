"""Each kind of check notices the fault that it is there for; and there are as many checks as are promised."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core.doors import promoting, to_floating
from needle_core.op import KERNELS, OPS, composite
from needle_core.spec import Spec
from needle_core.testing import CASES, Case
from needle_core.testing.check import checks_of_backend, checks_of_op
from needle_core.testing.samples import COMPLEX, at, floats, kink, real, sample, whole
from needle_core.testing.suite import on
from needle_core.testing.transfers import check_synchronize
from tests.devices import on_the_host
from tests.mutants.late import late

HERE = ndl.default_device()

Plant = Callable[[str, Callable[..., Any]], None]


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Iterator[Plant]:
    """Replaces the kernel of an op by a function of it."""
    with monkeypatch.context() as patch:

        def replace_kernel(name: str, change: Callable[..., Any]) -> None:
            patch.setitem(KERNELS, (name, HERE.backend.name), change(KERNELS[name, HERE.backend.name]))
            OPS[name].forget()

        yield replace_kernel
    for op in OPS.values():
        op.forget()


def failing(kind: str, case: Case, **options: Any) -> list[str]:
    """The ids of the checks of a kind that fail."""
    found = []
    for check in checks_of_op(case, **options):
        if check.id.split("/")[1] == kind:
            try:
                check()
            except Exception:
                found.append(check.id)
    return found


# -- samples ----------------------------------------------------------------------------------------------------------------


def test_another_seed_draws_other_values() -> None:
    s = sample(real(3))
    assert s.draw("exp", 0)[0].tolist() == s.draw("exp", 0)[0].tolist() != s.draw("exp", 1)[0].tolist()


def test_samples_that_differ_in_ranges_have_texts_of_their_own() -> None:
    case = replace(CASES["exp"], samples=[sample(real(3)), sample(real(3, low=100)), sample(real(2)), sample(real(3, low=7))])
    assert [str(s) for s in case.samples] == ["(3)", "(3) #2", "(2)", "(3) #3"]
    assert [str(s) for s in replace(case, rounds=1).samples] == [str(s) for s in case.samples]


# -- what each kind notices -------------------------------------------------------------------------------------------------


def one_buffer(multiply: Any) -> Any:
    kept: dict[Any, Any] = {}

    def kernel(a: Any, b: Any) -> Any:
        y = np.asarray(multiply(a, b))
        out = kept.setdefault((y.shape, y.dtype), np.empty_like(y))
        out[...] = y
        return out

    return kernel


def noisy(multiply: Any) -> Any:
    rng = np.random.default_rng(0)
    return lambda a, b: np.asarray(multiply(a, b) * (1 + rng.integers(0, 2) * np.float32(2.0**-23)), a.dtype)


def unset(multiply: Any) -> Any:
    def kernel(a: Any, b: Any) -> Any:
        y = np.empty(np.broadcast_shapes(a.shape, b.shape), a.dtype)
        y.reshape(-1)[:-1] = np.asarray(multiply(a, b)).reshape(-1)[:-1]
        return y

    return kernel


def beside(multiply: Any) -> Any:
    def kernel(a: Any, b: Any) -> Any:
        if a.base is not None and a.flags.writeable and a.size:
            np.lib.stride_tricks.as_strided(a.reshape(-1), (a.size + 1,))[-1] = 1
        return np.asarray(multiply(a, b))

    return kernel


def lending(multiply: Any) -> Any:
    return lambda a, b: a if a.shape == b.shape else np.asarray(multiply(a, b))


def flushing(multiply: Any) -> Any:
    def kernel(a: Any, b: Any) -> Any:
        y = np.asarray(multiply(a, b))
        return np.where(np.abs(y) < np.finfo(y.dtype).tiny, 0, y) if y.dtype in (np.float32, np.float64) else y

    return kernel


def no_minus_zero(multiply: Any) -> Any:
    return lambda a, b: np.asarray(multiply(a, b) + a.dtype.type(0)) if a.dtype.kind == "f" else np.asarray(multiply(a, b))


def sixteen_bits(multiply: Any) -> Any:
    def kernel(a: Any, b: Any) -> Any:
        y = np.array(multiply(a, b))
        y.reshape(-1)[2**16 :] = 0
        return y

    return kernel


@pytest.mark.parametrize(
    ("kind", "change"),
    [("memory", unset), ("repeat", noisy), ("special", flushing), ("special", no_minus_zero), ("large", sixteen_bits),
     pytest.param("memory", beside, marks=on_the_host), pytest.param("repeat", one_buffer, marks=on_the_host),
     pytest.param("memory", lending, marks=on_the_host)],
    ids=lambda v: getattr(v, "__name__", v),
)  # fmt: skip
def test_a_wrong_kernel_is_noticed(plant: Plant, kind: str, change: Callable[..., Any]) -> None:
    case = replace(CASES["multiply"], dtypes=("float32", "float64"))
    assert failing(kind, case) == []
    plant("multiply", change)
    assert failing(kind, case) != []


def test_nan_that_a_sum_swallows_is_noticed(plant: Plant) -> None:
    plant("sum", lambda _: lambda x, axes, keepdims: np.asarray(np.nansum(x, axes, keepdims=keepdims), x.dtype))
    assert failing("special", CASES["sum"], quick=True) != []


def test_nan_as_the_sum_of_nothing_is_noticed(plant: Plant) -> None:
    plant(
        "sum", lambda f: lambda x, axes, keepdims: f(x, axes=axes, keepdims=keepdims) * (1 if x.size else x.dtype.type(np.nan))
    )
    assert failing("empty", CASES["sum"], quick=True) != []


def test_sums_in_half_precision_are_noticed(plant: Plant) -> None:
    def one_by_one(x: Any, axes: Any, keepdims: bool) -> Any:
        return np.asarray(np.add.accumulate(x.astype(x.dtype), axis=axes[0], dtype=x.dtype).take(-1, axes[0]))

    case = replace(CASES["sum"], samples=[sample(real(300, low=0), axis=0)], dtypes=("float16",))
    assert failing("forward", case) == []
    plant("sum", lambda _: one_by_one)
    assert failing("forward", case) != []


def test_integers_that_pass_through_floats_are_noticed(plant: Plant) -> None:
    case = replace(CASES["sum"], samples=[whole([2**53 + 1, 0])])
    assert failing("forward", case) == []
    plant("sum", lambda f: lambda x, **attrs: np.asarray(f(x.astype(np.float64), **attrs).astype(x.dtype)))
    assert failing("forward", case) != []


def test_a_dtype_that_is_not_declared_is_noticed() -> None:
    assert failing("undeclared", replace(CASES["add"], dtypes=("float32", "float64"))) == [
        f"add/undeclared/{d}" for d in ("bool", "uint8", "int32", "int64", "float16", "bfloat16")
    ]


def test_a_number_that_widens_a_tensor_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    door = OPS["add"].door

    def strong(*specs: Any, **attrs: Any) -> Any:
        return door(*specs, **attrs)

    strong.promotion = lambda *ds: [ndl.promote(*(ndl.float32 if d is float else d for d in ds))] * 2  # type: ignore[attr-defined]
    monkeypatch.setattr(OPS["add"], "door", strong)
    OPS["add"].forget()
    assert failing("scalars", CASES["add"]) == ["add/scalars/operand 0", "add/scalars/operand 1"]
    OPS["add"].forget()


def test_a_number_is_tried_without_a_sample_of_no_axes() -> None:
    case = replace(CASES["add"], samples=[sample(real(3), real(2, 3))])
    assert len([c for c in checks_of_op(case) if "/scalars/" in c.id]) == 2
    assert failing("scalars", case) == []


def test_a_kernel_that_fails_is_no_refusal(plant: Plant) -> None:
    def refuse(x: Any) -> Any:
        if not x.size:
            raise ValueError("nothing is no sample")
        return np.exp(x)

    def fail(exp: Any) -> Any:
        return lambda x: exp(x) if x.size else x[10**9 :][0]

    case = replace(CASES["exp"], samples=[sample(real(3))], reference=refuse)
    assert failing("empty", case) == ["exp/empty/(0)/for 3/float32"]  # nothing is raised at all
    plant("exp", fail)
    (empty,) = (c for c in checks_of_op(case) if "/empty/" in c.id)
    with pytest.raises(ndl.testing.MismatchError, match="the kernel failed, and the op should have refused"):
        empty()


def test_three_operands_are_broadcast_in_all_ranks(plant: Plant) -> None:
    case = CASES["where"]
    assert failing("broadcast", case) == []
    plant("where", lambda f: lambda c, a, b: f(c, a, b) if b.ndim < 3 else f(c, a, np.zeros_like(b)))
    assert failing("broadcast", case) != []


def test_an_op_with_two_results_may_be_pointwise(monkeypatch: pytest.MonkeyPatch) -> None:
    @promoting(to_floating)
    def two(x: Spec) -> tuple[tuple[Spec, Spec], dict[str, Any]]:
        return (x, x), {}

    @composite(two)
    def sines(x: ndl.Tensor) -> tuple[ndl.Tensor, ndl.Tensor]:
        return ndl.sin(x), ndl.cos(x)

    samples = [sample(real(3)), sample(real(2, 0))]
    case = Case("sines", lambda x: (np.sin(x), np.cos(x)), samples, gradient=COMPLEX, pointwise=True, result=floats)
    monkeypatch.setitem(OPS, "sines", sines)
    assert [i for kind in ("forward", "special", "large", "gradient") for i in failing(kind, case)] == []
    wrong = replace(case, reference=lambda x: (np.sin(x), np.cos(x) * (1 + 1e-6)))
    assert len(failing("large", wrong)) == 1


def test_another_gradient_at_a_kink_is_noticed() -> None:
    assert failing("kink", CASES["relu"]) == []
    assert failing("kink", replace(CASES["relu"], kinks=[kink([0.0], gives=[[1.0]])])) == ["relu/kink/[0.0]"]


def test_a_gradient_that_forgets_a_broadcast_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = OPS["multiply"].rules
    assert rules is not None
    monkeypatch.setattr(OPS["multiply"], "rules", (lambda g, y, a, b: g * b.detach().max(), rules[1]))
    assert failing("broadcast", CASES["multiply"], quick=True) != []


def test_layouts_are_mixed(plant: Plant) -> None:
    def through_stride_zero(a: Any, b: Any) -> Any:
        y = np.lib.stride_tricks.as_strided(np.empty(a.size, a.dtype), a.shape, a.strides if 0 in a.strides else None)
        y = y if 0 in a.strides and a.shape == b.shape else np.empty(np.broadcast_shapes(a.shape, b.shape), a.dtype)
        y[...] = a * b
        return y

    plant("multiply", lambda _: through_stride_zero)
    assert {i.split("/")[-1] for i in failing("forward", CASES["multiply"], quick=True)} == {"mixed"} or not HERE.backend.host


def test_samples_at_whole_numbers_are_int64() -> None:
    assert CASES["sum"].dtypes_of(whole([1, 2])) == ["int64"]
    assert "int64" not in CASES["sum"].dtypes_of(at([1, 2]))


# -- backends ---------------------------------------------------------------------------------------------------------------


COUNT = itertools.count()


def failing_of_backend() -> set[str]:
    found = set()
    for check in checks_of_backend(quick=True):
        try:
            check()
        except Exception:
            found.add(check.id.split("/")[1])
    return found


def test_an_honest_backend_passes() -> None:
    assert failing_of_backend() == set()


@pytest.mark.parametrize(
    ("method", "change", "kinds"),
    [("from_numpy", lambda f: lambda x, device: f(np.where(x == 0, x, -x) if x.dtype == np.int32 else x, device),
      {"transfer", "view", "devices"}),
     ("to_numpy", lambda f: lambda b: np.ascontiguousarray(f(b)).view(f(b).dtype) if f(b).ndim != 2 else f(b)[::-1], {"view"}),
     ("describe", lambda f: lambda b: (f(b)[0] or (1,), f(b)[1]), {"empty"}),
     ("memory_stats", lambda f: lambda device: {"in_use": next(COUNT)}, {"leaks"})],
    ids=["integers negated", "upside down", "described wrongly", "leaking"],
)  # fmt: skip
def test_a_wrong_backend_is_noticed(monkeypatch: pytest.MonkeyPatch, method: str, change: Any, kinds: set[str]) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(HERE.backend, method, change(getattr(HERE.backend, method)))
        assert kinds <= failing_of_backend()
    for op in OPS.values():
        op.forget()
    HERE.constants.clear()


def test_other_random_bits_are_noticed(plant: Plant) -> None:
    plant("random_bits", lambda f: lambda state, *, shape: np.asarray(f(state, shape=shape) ^ 1))
    assert failing_of_backend() == {"random"}


def test_waiting_for_a_part_of_the_queue_is_noticed() -> None:
    with on("loopback"):
        with late(10**9)():
            assert failing_of_backend() == set()
        with late(64)(), pytest.raises(ndl.testing.MismatchError, match="is not the result"):
            check_synchronize()
