"""Ops: how one is declared, how a call finds what to run, and what its errors say."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import needle_core as ndl
from needle_core import Tensor, composite, ops, primitive
from needle_core.doors import broadcasted, elementwise, reduced
from needle_core.errors import (
    ArgumentError,
    BoundsError,
    DeviceError,
    DtypeError,
    KernelError,
    MissingKernelError,
    NeedleError,
    ShapeError,
)
from needle_core.op import KERNELS, MEMO_LIMIT, OPS, Op, register_kernels, register_op
from needle_core.spec import Spec

HERE = ndl.default_device()
BACKEND = HERE.backend.name


@composite(lambda x, *, k=1: (x, {"k": k}))
def scaled(x: Tensor, *, k: Any = 1) -> Tensor:
    """x times k."""
    return x * (k if isinstance(k, int | float) else sum(k))


@composite(lambda x, *, k: (x, {"k": k}))
def needy(x: Tensor, *, k: Any) -> Tensor:
    return x * k


@composite(lambda first, *rest, skip=0: (first, {"skip": skip}))
def totalled(first: Tensor, *rest: Tensor, skip: int = 0) -> Tensor:
    for x in rest[skip:]:
        first = first + x
    return first


@primitive(elementwise)
def lonely(x: Tensor) -> Tensor:
    """Without a kernel anywhere."""


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables of ops and kernels, which are as before after the test."""
    monkeypatch.setattr("needle_core.op.OPS", dict(OPS))
    monkeypatch.setattr("needle_core.op.KERNELS", dict(KERNELS))


# -- declarations ---------------------------------------------------------------------------------------------------------


def test_declaration_takes_everything_from_the_function() -> None:
    assert isinstance(scaled, Op)
    assert (scaled.name, scaled.__name__, scaled.__doc__, scaled.family) == ("scaled", "scaled", "x times k.", "test_op")
    assert (scaled.operands, scaled.is_primitive, repr(scaled).split("(")[0]) == (("x",), False, "<composite scaled")
    assert (lonely.is_primitive, lonely.body, repr(lonely)) == (True, None, "<primitive lonely(x)>")
    assert totalled.operands == ("first", "*rest")


def test_composite_in_a_few_lines_runs_and_differentiates() -> None:
    @composite(elementwise)
    def swish(x: Tensor) -> Tensor:
        """x sigmoid(x)."""
        return x * ndl.sigmoid(x)

    x = np.array([-1.0, 0.0, 2.0])
    s = 1 / (1 + np.exp(-x))
    np.testing.assert_allclose(swish(Tensor(x)).numpy(), x * s, rtol=1e-12)
    found = ndl.grad(lambda x: swish(x).sum())(Tensor(x))
    np.testing.assert_allclose(found.numpy(), s + x * s * (1 - s), rtol=1e-12)


def test_composite_takes_numbers_arrays_and_lists() -> None:
    assert scaled(2.0, k=3).item() == 6
    assert scaled(np.array([1, 2]), k=3).tolist() == [3, 6]
    assert scaled([1.0, 2.0], k=3).tolist() == [3, 6]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_rules_must_be_as_many_as_operands(count: int) -> None:
    @composite(broadcasted)
    def added(a: Tensor, b: Tensor) -> Tensor:
        return a + b

    with pytest.raises(ArgumentError) as caught:
        added.vjp(*[None] * count)
    assert str(caught.value) == f"added has operands (a, b), but {count} gradient rules"


def test_rules_one_by_one_are_not_for_variadic_ops() -> None:
    with pytest.raises(ArgumentError) as caught:
        totalled.vjp(None, None)
    assert str(caught.value) == "totalled has operands (first, *rest), but 2 gradient rules"


@pytest.mark.usefixtures("known")
def test_name_is_taken_once() -> None:
    from needle_core import op

    register_op(scaled)
    register_op(scaled)
    assert op.OPS["scaled"] is scaled
    with pytest.raises(ArgumentError) as caught:
        register_op(_other_scaled())
    assert str(caught.value) == "an op is already called 'scaled'"
    assert op.OPS["scaled"] is scaled


def _other_scaled() -> Op[..., Any]:
    @composite(elementwise)
    def scaled(x: Tensor) -> Tensor:
        return x

    return scaled


@pytest.mark.parametrize("op", [ndl.matmul, ndl.relu, ndl.concat], ids=repr)
def test_op_stays_one_object_in_copies(op: Op[..., Any]) -> None:
    assert pickle.loads(pickle.dumps(op)) is op
    assert copy.deepcopy(op) is op
    assert len(pickle.dumps(op)) < 200


def test_pickled_op_that_is_gone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("needle_core.op.OPS", {})
    with pytest.raises(ArgumentError) as caught:
        pickle.loads(pickle.dumps(scaled))
    assert str(caught.value) == "no op is called 'scaled', in the core or in an installed plugin"


def test_ops_of_the_core_are_public_and_documented() -> None:
    core = {name: op for name, op in OPS.items() if op.__module__.startswith("needle_core.")}
    assert [name for name, op in core.items() if getattr(ops, name, None) is not op] == []
    assert [name for name, op in core.items() if not op.__doc__] == []


def test_primitives_are_at_most_45_and_numpy_has_them_all() -> None:
    primitives = [name for name, op in OPS.items() if op.is_primitive]
    assert len(primitives) <= 45
    assert [name for name in primitives if (name, "numpy") not in KERNELS] == []


# -- arguments --------------------------------------------------------------------------------------------------------------

X = Tensor([[1.0, 2.0]])
SPEC = f"float32[1, 2] on {HERE}"


@pytest.mark.parametrize(
    ("run", "text"),
    [
        (
            lambda: ndl.sum(X, 0),
            f"sum: takes 1 tensor (x), got 2\n  x: {SPEC}\n"
            "  hint: attributes are keywords: sum(x, *, axis=None, axes=None, keepdims=False)",
        ),
        (
            lambda: ndl.matmul(X),
            f"matmul: takes 2 tensors (a, b), got 1\n  a: {SPEC}",
        ),
        (lambda: ndl.relu(X, X), f"relu: takes 1 tensor (x), got 2\n  x: {SPEC}"),
        (lambda: ndl.relu(), "relu: takes 1 tensor (x), got 0"),
        (lambda: ndl.concat(), "concat: takes at least 1 tensor (*arrays), got 0"),
        (lambda: ndl.concat([]), "concat: takes at least 1 tensor (*arrays), got 0"),
        (lambda: totalled(), "totalled: takes at least 1 tensor (first, *rest), got 0"),
        (lambda: ndl.sum(X, ax=0), f"sum: has no attribute 'ax'\n  x: {SPEC}\n  attributes: axis, axes, keepdims"),
        (lambda: ndl.relu(X, inplace=True), f"relu: has no attribute 'inplace'\n  x: {SPEC}\n  attributes: none"),
        (lambda: needy(X), f"needy: needs the attribute 'k'\n  x: {SPEC}\n  hint: needy(x, *, k)"),
        (
            lambda: ndl.sum(X, axis=0, axes=0),
            f"sum: axis and axes are two names of one attribute\n  x: {SPEC}\n  axis: 0\n  axes: 0",
        ),
        (lambda: ndl.sum(X, axis=1.5), f"sum: an axis is an integer, not float 1.5\n  x: {SPEC}"),
        (lambda: ndl.relu(None), "relu: no tensor can be made of None\n  x: None"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(run: Callable[[], Any], text: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        run()
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("run", "text"),
    [
        (lambda: ndl.sum(X, axis=2), f"sum: axis 2 is out of range for a tensor with 2 axes\n  x: {SPEC}"),
        (lambda: ndl.sum(X, axis=(0, -2)), f"sum: axes (0, -2) repeat an axis\n  x: {SPEC}"),
        (
            lambda: ndl.add(X, Tensor([1.0, 2.0, 3.0])),
            f"add: shapes do not broadcast, 2 != 3 at axis -1\n  a: {SPEC}\n  b: float32[3] on {HERE}",
        ),
        (
            lambda: X @ Tensor(np.ones((5, 2), np.float32)),
            f"matmul: inner dimensions differ, 2 != 5\n  a: {SPEC}\n  b: float32[5, 2] on {HERE}\n"
            "  hint: a @ b.mT has shape [1, 5]",
        ),
        (lambda: ndl.broadcast_to(X, shape=(-1, 2)), f"broadcast_to: shape (-1, 2) has a negative size\n  x: {SPEC}"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(run: Callable[[], Any], text: str) -> None:
    with pytest.raises(ShapeError) as caught:
        run()
    assert str(caught.value) == text


def test_operands_of_a_variadic_op_are_numbered() -> None:
    with pytest.raises(ShapeError) as caught:
        ndl.stack([X, Tensor([1.0])])
    assert str(caught.value) == f"stack: shapes differ, [1, 2] and [1]\n  arrays[0]: {SPEC}\n  arrays[1]: float32[1] on {HERE}"


def test_long_operand_is_shown_in_brief() -> None:
    with pytest.raises(NeedleError) as caught:
        ndl.add(X, list(range(1000)))
    assert "  b: list [0, 1, 2" in str(caught.value)
    assert max(map(len, str(caught.value).splitlines())) < 100


def test_error_of_an_inner_op_names_the_inner_op() -> None:
    @composite(elementwise)
    def outer(x: Tensor) -> Tensor:
        return x @ x

    with pytest.raises(ShapeError, match=r"^matmul: inner dimensions differ, 2 != 1\n  a: "):
        outer(X)


@pytest.mark.parametrize("separate", [True, False])
def test_variadic_op_takes_tensors_or_one_list(separate: bool) -> None:
    parts = [Tensor([1.0]), [2.0], np.array([3.0], np.float32)]
    result = ndl.concat(*parts) if separate else ndl.concat(parts)
    assert (result.tolist(), result.dtype) == ([1, 2, 3], ndl.float32)


def test_variadic_op_after_a_fixed_operand() -> None:
    assert [totalled(*[Tensor(1.0)] * n).item() for n in (1, 2, 5)] == [1, 2, 5]
    assert totalled(Tensor(1.0), Tensor(2.0), Tensor(4.0), skip=1).item() == 5


def test_operand_too_many_for_an_op_without_any_is_refused() -> None:
    with pytest.raises(ArgumentError, match="iota: "):
        ndl.iota(X, n=3, device=X.device)  # type: ignore[call-arg]


# -- what is remembered -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [1, 1.0, True, np.float32(1)], ids=repr)
@pytest.mark.parametrize("wrap", [lambda k: k, lambda k: (k,), lambda k: (0, (k,))[1]], ids=["bare", "tuple", "inner"])
def test_equal_attributes_of_other_types_are_not_confused(first: Any, wrap: Callable[[Any], Any]) -> None:
    seen: list[Any] = []

    @composite(lambda x, *, k: (x, {"k": k}))
    def noted(x: Tensor, *, k: Any) -> Tensor:
        seen.append(k)
        return x

    x = Tensor([1.0])
    values = [wrap(first), wrap(1), wrap(1.0), wrap(True), wrap(np.float32(1)), wrap(first)]
    for value in values:
        noted(x, k=value)
    assert list(map(repr, seen)) == list(map(repr, values))


@pytest.mark.parametrize("kind", [float, np.float32, np.float64], ids=lambda k: k.__name__)
@pytest.mark.parametrize("wrap", [lambda k: k, lambda k: (k,)], ids=["bare", "tuple"])
def test_zeros_of_either_sign_are_not_confused(kind: Callable[[float], Any], wrap: Callable[[Any], Any]) -> None:
    seen: list[Any] = []

    @composite(lambda x, *, k: (x, {"k": k}))
    def noted(x: Tensor, *, k: Any) -> Tensor:
        seen.append(k)
        return x

    values = [wrap(kind(z)) for z in (0.0, -0.0, 0.0)]
    for value in values:
        noted(Tensor([1.0]), k=value)
    assert list(map(repr, seen)) == list(map(repr, values))


def test_wrong_attribute_is_refused_though_an_equal_one_was_right() -> None:
    for axis, wrong in [(0, 0.0), ((0,), (0.0,))]:
        assert ndl.sum(X, axis=axis).tolist() == [1, 2]
        with pytest.raises(ArgumentError, match=r"an axis is an integer, not float 0\.0"):
            ndl.sum(X, axis=wrong)


def test_attribute_may_be_a_list() -> None:
    for _ in range(2):
        assert ndl.sum(X, axis=[0, 1]).item() == 3
        assert ndl.reshape(X, shape=[2, 1]).shape == (2, 1)
        assert scaled(X, k=[1, 2]).tolist() == [[3, 6]]


def test_nan_as_an_attribute_is_not_remembered() -> None:
    before = len(scaled._runs)
    for _ in range(10):
        assert math.isnan(scaled(Tensor(1.0), k=float("nan")).item())
    assert len(scaled._runs) <= before


def test_keywords_may_come_in_any_order() -> None:
    for _ in range(2):
        assert ndl.sum(X, axis=1, keepdims=True).tolist() == [[3]]
        assert ndl.sum(X, keepdims=True, axis=1).tolist() == [[3]]


def test_combinations_that_never_repeat_do_not_pile_up() -> None:
    for k in range(MEMO_LIMIT + 10):
        scaled(Tensor(1.0), k=k + 0.5)
    assert len(scaled._runs) <= MEMO_LIMIT


def test_door_is_asked_once_for_each_combination() -> None:
    asked: list[Spec] = []

    def door(x: Spec) -> tuple[Spec, dict[str, Any]]:
        asked.append(x)
        return x, {}

    same = composite(door)(lambda x: x)
    for data in ([1.0], [2.0], [1], [3.0], [4]):
        same(Tensor(data))
    assert [str(s.dtype) for s in asked] == ["float32", "int64"]


def test_new_kernel_is_used_from_the_next_call_on(monkeypatch: pytest.MonkeyPatch) -> None:
    @composite(elementwise)
    def replaced(x: Tensor) -> Tensor:
        return x

    monkeypatch.setitem(OPS, "replaced", replaced)
    monkeypatch.setitem(KERNELS, ("replaced", BACKEND), np.copy)
    assert replaced(X).tolist() == [[1, 2]]
    register_kernels(BACKEND, {"replaced": lambda x: x * 10})
    assert replaced(X).tolist() == [[10, 20]]


# -- kernels ----------------------------------------------------------------------------------------------------------------


def test_kernel_is_preferred_to_the_body(monkeypatch: pytest.MonkeyPatch) -> None:
    @composite(lambda x, *, k: (x, {"k": k}))
    def fast(x: Tensor, *, k: int) -> Tensor:
        raise AssertionError

    monkeypatch.setitem(KERNELS, ("fast", BACKEND), lambda x, k: x + k)
    assert fast(X, k=3).tolist() == [[4, 5]]


def test_kernel_gets_canonical_attributes(monkeypatch: pytest.MonkeyPatch) -> None:
    @primitive(reduced)
    def total(x: Tensor, *, axis: Any = None, axes: Any = None, keepdims: bool = False) -> Tensor: ...

    given: list[dict[str, Any]] = []

    def kernel(x: Any, **attrs: Any) -> Any:
        given.append(attrs)
        return x.sum(1)

    monkeypatch.setitem(KERNELS, ("total", BACKEND), kernel)
    for attrs in ({"axis": -1}, {"axes": [1]}):
        total(X, **attrs)
    assert given == [{"axes": (1,), "keepdims": False}] * 2


@pytest.mark.parametrize(
    ("raised", "error", "summary"),
    [
        (IndexError("list index out of range"), KernelError, "the kernel raised IndexError: list index out of range"),
        (MemoryError("no 3 GiB"), KernelError, "out of memory: no 3 GiB"),
        (ZeroDivisionError("division by zero"), KernelError, "the kernel raised ZeroDivisionError: division by zero"),
        (ZeroDivisionError(), KernelError, "the kernel raised ZeroDivisionError"),
        (DtypeError("not these"), DtypeError, "not these"),
    ],
    ids=["index", "memory", "other", "without text", "own"],
)
def test_exception_of_a_kernel_names_op_and_operands(
    raised: Exception, error: type[NeedleError], summary: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise raised

    for door, operands in ((elementwise, "x"), (broadcasted, "ab")):
        failing: Op[..., Any] = primitive(door)(eval(f"lambda {', '.join(operands)}: None"))
        failing.name = "failing"
        monkeypatch.setitem(KERNELS, ("failing", BACKEND), fail)
        with pytest.raises(error) as caught:
            failing(*[X] * len(operands))
        told = str(caught.value).partition("\n  kernel: ")[0]
        assert told == f"failing: {summary}" + "".join(f"\n  {name}: {SPEC}" for name in operands)
        if caught.value is not raised:
            assert caught.value.__cause__ is raised
        else:
            assert caught.value.__cause__ is None
            return  # it says already where it was raised first


def test_keyboard_interrupt_passes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(x: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setitem(KERNELS, ("lonely", BACKEND), interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            lonely(Tensor([1.0, 2.0, 3.0]))
    finally:
        lonely._runs.clear()


@pytest.mark.parametrize(("having", "shown"), [([], "none"), (["tpu", "cuda"], "cuda, tpu")])
def test_missing_kernel_names_who_has_one(having: list[str], shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for backend in having:
        monkeypatch.setitem(KERNELS, ("lonely", backend), abs)
    with pytest.raises(MissingKernelError) as caught:
        lonely(X)
    text = f"lonely: backend '{BACKEND}' has no kernel for this primitive"
    assert str(caught.value) == f"{text}\n  x: {SPEC}\n  kernels: {shown}"


def test_foreign_operand_is_moved_to_the_device_of_the_tensors() -> None:
    result = ndl.add([1.0, 2.0], X)
    assert result.device is X.device


@pytest.mark.parametrize(
    ("returned", "text"),
    [
        (lambda x: x.sum(), "float32[] on"),
        (lambda x: x.astype("float64"), "float64[1, 2] on"),
        (lambda x: (x, x), "tuple (Tensor("),
        (lambda x: None, "None"),
        (lambda x: 2.0, "2.0"),
    ],
    ids=["shape", "dtype", "two", "nothing", "number"],
)
@pytest.mark.parametrize("ruled", [False, True])
def test_body_must_return_what_its_door_promises(returned: Callable[[Tensor], Any], text: str, ruled: bool) -> None:
    @composite(elementwise)
    def strange(x: Tensor) -> Any:
        return returned(x)

    if ruled:
        strange.vjp(lambda g, y, x: g)
    for x in (X, Tensor(X, requires_grad=True)):
        with pytest.raises(KernelError) as caught:
            strange(x)
        first, operand, found, promised = str(caught.value).splitlines()
        assert first == "strange: the body returned something else than the front door has promised"
        assert (operand, promised) == (f"  x: {SPEC}", f"  promised: {SPEC}")
        assert found.startswith(f"  returned: {text}")


@pytest.mark.parametrize(
    ("returned", "text"), [(lambda x: x, "ndarray|1 results"), (lambda x: (x, x, x), "3 results")], ids=["one", "three"]
)
def test_kernel_must_return_as_many_results_as_its_door_promises(
    returned: Callable[[Any], Any], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    @primitive(lambda x: ((x, x), {}))
    def pair(x: Tensor) -> Any: ...

    monkeypatch.setitem(KERNELS, ("pair", BACKEND), returned)
    with pytest.raises(KernelError, match=f"^pair: the kernel returned ({text}).*, not a tuple of 2"):
        pair(X)


def test_index_error_of_a_kernel_that_takes_integers_is_a_bounds_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise IndexError("index 9 is out of bounds")

    @primitive(lambda x, i: (x, {}))
    def failing(x: Tensor, i: Tensor) -> Tensor: ...

    monkeypatch.setitem(KERNELS, ("failing", BACKEND), fail)
    with pytest.raises(BoundsError, match=r"^failing: index 9 is out of bounds\n  x: "):
        failing(X, Tensor(9))


# -- several outputs ------------------------------------------------------------------------------------------------------


def test_op_with_several_outputs_returns_a_tuple(monkeypatch: pytest.MonkeyPatch) -> None:
    @primitive(lambda x: ((x, x.like(shape=())), {}))
    def parts(x: Tensor) -> tuple[Tensor, Tensor]: ...

    monkeypatch.setitem(KERNELS, ("parts", BACKEND), lambda x: [x + 1, x.sum(keepdims=True).reshape(())])
    a, b = parts(X)
    assert (a.tolist(), b.item(), b.shape) == ([[2, 3]], 3, ())


class Parts(NamedTuple):
    whole: Any
    total: Any


def test_results_come_in_the_class_of_tuples_that_the_door_gives() -> None:
    @composite(lambda x: (Parts(x, x.like(shape=())), {}))
    def parts(x: Tensor) -> Parts:
        return Parts(x * 2, x.sum())

    y = parts(X)
    assert isinstance(y, Parts)
    assert (y.whole.tolist(), y.total.item()) == ([[2, 4]], 3)
    assert isinstance(parts(X), Parts)
    assert ndl.grad(lambda x: parts(x).total * 3)(X).tolist() == [[3, 3]]


def test_subclass_of_a_tuple_has_an_operator_of_its_own() -> None:
    class Pair(tuple[Any, ...]):
        def __radd__(self, other: Any) -> str:
            return "its own"

    assert X + Pair((1, 2)) == "its own"


def test_kernel_of_several_outputs_that_fails_names_its_op(monkeypatch: pytest.MonkeyPatch) -> None:
    @primitive(lambda x: ((x, x), {}))
    def parts(x: Tensor) -> tuple[Tensor, Tensor]: ...

    monkeypatch.setitem(KERNELS, ("parts", BACKEND), lambda x: 1 // 0)
    with pytest.raises(KernelError) as caught:
        parts(X)
    assert str(caught.value).splitlines()[0].startswith("parts: the kernel raised ZeroDivisionError: ")


@pytest.mark.parametrize("by_kernel", [True, False])
def test_outputs_of_integers_have_no_graph(by_kernel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    @composite(lambda x: ((x, x.like(dtype=ndl.int64)), {}))
    def rounded(x: Tensor) -> tuple[Tensor, Tensor]:
        return ndl.round(x), x.astype(ndl.int64)

    rounded.vjp(lambda g, y, x: g[0])
    if by_kernel:
        monkeypatch.setitem(KERNELS, ("rounded", BACKEND), lambda x: (np.round(x), x.astype(np.int64)))
    near, whole = rounded(Tensor([1.5], requires_grad=True))
    assert (near.requires_grad, near.is_leaf) == (True, False)
    assert (whole.requires_grad, whole.is_leaf) == (False, True)


# -- for those who look inside ----------------------------------------------------------------------------------------------


def test_run_body_passes_a_kernel_by_and_promotes(monkeypatch: pytest.MonkeyPatch) -> None:
    @composite(broadcasted)
    def halved_sum(a: Tensor, b: Tensor) -> Tensor:
        return (a + b) * 0.5

    monkeypatch.setitem(KERNELS, ("halved_sum", BACKEND), lambda a, b: np.zeros_like(a))
    monkeypatch.setitem(OPS, "halved_sum", halved_sum)
    a, b = Tensor([1, 2]), Tensor([2.0, 4.0])
    assert halved_sum(a, b).numpy().tolist() == [0, 0]
    y = halved_sum.run_body(a, b)
    assert (y.dtype, y.numpy().tolist()) == (ndl.float32, [1.5, 3.0])


def test_run_body_takes_attributes_as_users_write_them() -> None:
    x = np.array([[1.0, 3.0]], np.float32)
    assert ndl.mean.run_body(Tensor(x), axis=-1).numpy().tolist() == [2.0]


def test_run_body_of_a_primitive_is_refused() -> None:
    with pytest.raises(ArgumentError, match="lonely is a primitive and has no body"):
        lonely.run_body(X)


def test_watcher_sees_each_new_combination_once_and_may_wrap_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def watch(op: Op[..., Any], run: Any, attrs: Any) -> Any:
        if op is scaled:
            assert attrs == {"k": 2}
        seen.append(op.name)
        return lambda *args: run(*args) + 1 if op is scaled else run(*args)

    scaled.forget()
    monkeypatch.setattr("needle_core.op.watcher", watch)
    results = [scaled(Tensor([1.0, 2.0, 3.0]), k=2).numpy().tolist() for _ in range(2)]
    scaled.forget()
    assert results == [[3, 5, 7]] * 2
    assert seen.count("scaled") == 1


# -- the plain functions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "error", "text"),
    [
        (
            lambda: ndl.full(2, X),
            ArgumentError,
            f"full: the value is a Python number, not Tensor([[1., 2.]], float32[1, 2] on {HERE})\n"
            "  hint: broadcast_to repeats a tensor",
        ),
        (lambda: ndl.arange(0, 5, 0), ArgumentError, "arange: the step is zero"),
        (lambda: ndl.linspace(0, 1, -1), ArgumentError, "linspace: num is -1"),
        (lambda: ndl.ones(2, device="nowhere"), DeviceError, None),
        (lambda: ndl.zeros(-1), ShapeError, "shape (-1,) has a negative size"),
    ],
)
def test_functions_name_themselves(run: Callable[[], Any], error: type[NeedleError], text: str | None) -> None:
    with pytest.raises(error) as caught:
        run()
    assert text is None or str(caught.value) == text


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (lambda x: x[None], r"returned float32\[1, 2\]"),
        (lambda x: x.astype(np.float64), r"returned float64\[2\]"),
        (lambda x: 3.0, r"returned 3\.0"),
    ],
)
def test_kernel_that_returns_something_else_is_refused(wrong: Any, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KERNELS, ("exp", BACKEND), wrong)
    ndl.exp.forget()
    try:
        for _ in range(2):
            with pytest.raises(KernelError, match=f"exp: the kernel {text}"):
                ndl.exp(Tensor([1.0, 2.0]))
    finally:
        ndl.exp.forget()
