"""Compiled functions give what eager calls give, whatever changes between calls."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core import nn
from needle_core.errors import GradientError

# -- the same code ----------------------------------------------------------------------------------------------------------


def test_gradients_of_gradients() -> None:
    x = ndl.Tensor([1.0, 2.0, 3.0])
    second = ndl.compile(lambda x: ndl.grad(lambda z: ndl.grad(lambda y: (y**3).sum())(z).sum())(x))
    assert second(x).tolist() == [6.0, 12.0, 18.0]


def test_trees_are_arguments_and_results() -> None:
    @ndl.compile
    def f(pair: dict[str, Any], *, scale: float) -> Any:
        return {"sum": pair["a"] + pair["b"][0], "rest": (pair["a"] * scale, [None, "text"])}

    a, b = ndl.Tensor([1.0]), ndl.Tensor([2.0])
    y = f({"a": a, "b": [b]}, scale=3.0)
    assert y["sum"].tolist() == [3.0]
    assert y["rest"][0].tolist() == [3.0]
    assert y["rest"][1] == [None, "text"]


def test_a_method_is_compiled_for_each_instance() -> None:
    class Scale:
        def __init__(self, by: float) -> None:
            self.by = by

        @ndl.compile
        def __call__(self, x: ndl.Tensor) -> ndl.Tensor:
            return x * self.by

    two, three = Scale(2.0), Scale(3.0)
    x = ndl.Tensor([1.0])
    assert [two(x).item(), three(x).item()] == [2.0, 3.0]
    two.by = 5.0
    assert two(x).item() == 5.0


def test_an_argument_or_a_parameter_that_is_returned_is_itself() -> None:
    w, x = nn.Parameter([1.0]), ndl.Tensor([1.0])
    y, v = ndl.compile(lambda x: (x, w))(x)
    assert y is x
    assert v is w


def test_an_argument_can_be_assigned_twice() -> None:
    def f(x: ndl.Tensor) -> ndl.Tensor:
        x.data = x + 1
        x.data = x * 2
        return x

    x = ndl.Tensor([0.5])
    assert ndl.compile(f)(x) is x
    assert x.tolist() == [3.0]


def test_one_tensor_as_two_arguments() -> None:
    f = ndl.compile(lambda a, b: a * b)
    x, y = ndl.Tensor([3.0]), ndl.Tensor([2.0])
    assert [f(x, x).item(), f(x, y).item(), f(y, y).item()] == [9.0, 6.0, 4.0]


def test_class_ops_run_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEEDLE_FALLBACK", "allow")  # for devices other than the host

    class Twice(ndl.TensorOp):
        def compute(self, x: Any) -> Any:
            return x * 2

    assert ndl.compile(lambda x: Twice()(x) + 1)(ndl.Tensor([1.0])).tolist() == [3.0]


def test_a_compiled_function_calls_another_and_itself() -> None:
    @ndl.compile
    def power(x: ndl.Tensor, n: int) -> ndl.Tensor:
        return x if n == 1 else x * power(x, n - 1)

    assert ndl.compile(lambda x: power(x, 3) + 1)(ndl.Tensor([2.0])).tolist() == [9.0]
    assert power(ndl.Tensor([2.0]), 4).tolist() == [16.0]


# -- what changes between calls ---------------------------------------------------------------------------------------------


def test_a_learning_rate_that_is_assigned_takes_effect() -> None:
    w = nn.Parameter([1.0])
    opt = ndl.optim.SGD([w], lr=1.0)

    @ndl.compile
    def step() -> None:
        opt.reset_grad()
        (w * 2.0).sum().backward()
        opt.step()

    step()
    assert w.item() == -1.0
    opt.lr = 0.25
    step()
    assert w.item() == -1.5
    assert step.report().count("captured because") == 1


def test_train_and_eval_are_two_programs() -> None:
    ndl.manual_seed(0)
    drop, x = nn.Dropout(0.5), ndl.ones((100,))
    f = ndl.compile(lambda x: drop(x))
    first, second = f(x).numpy(), f(x).numpy()
    drop.eval()
    assert f(x).tolist() == [1.0] * 100
    drop.train()
    assert set(f(x).tolist()) == {0.0, 2.0}
    assert f.report().count("captured because") == 2
    assert set(first) == {0.0, 2.0}
    assert not np.array_equal(first, second)


def test_a_parameter_in_place_of_another_is_seen() -> None:
    layer = nn.Linear(1, 1, bias=False)
    f = ndl.compile(lambda x: layer(x))
    layer.weight.data = [[2.0]]
    assert f(ndl.Tensor([[1.0]])).item() == 2.0
    layer.weight = nn.Parameter([[3.0]])
    assert f(ndl.Tensor([[1.0]])).item() == 3.0


def test_a_parameter_that_is_frozen_is_seen() -> None:
    a, b = nn.Parameter([1.0]), nn.Parameter([1.0])
    step = ndl.compile(lambda: (a * b).sum().backward(), keep_grads=True)
    step()
    b.requires_grad, a.grad, b.grad = False, None, None
    step()
    assert a.grad is not None
    assert b.grad is None


def test_shapes_and_dtypes_are_told_apart() -> None:
    f = ndl.compile(lambda x: x + 1)
    assert f(ndl.Tensor([1.0])).dtype == "float32"
    assert f(ndl.Tensor([1])).dtype == "int64"
    assert f(ndl.Tensor([1.0, 2.0])).shape == (2,)
    assert "argument 0: int64[1]" in f.report().split("captured because")[3]


def test_many_captures_are_a_warning() -> None:
    f = ndl.compile(lambda x, by: x * by)
    for i in range(7):
        f(ndl.Tensor([1.0]), float(i))
    with pytest.warns(RuntimeWarning, match="was captured 8 times"):
        f(ndl.Tensor([1.0]), 7.0)


# -- gradients --------------------------------------------------------------------------------------------------------------


def test_gradients_are_not_kept_and_reading_one_says_so() -> None:
    w = nn.Parameter([2.0])
    ndl.compile(lambda: (w * w).sum().backward())()
    with pytest.raises(GradientError, match="did not keep it"):
        _ = w.grad
    w.grad = None
    (w * w).sum().backward()
    assert w.grad is not None


def test_gradients_add_up_over_eager_and_compiled_calls_if_kept() -> None:
    w = nn.Parameter([2.0])
    step = ndl.compile(lambda: (w * w).sum().backward(), keep_grads=True)
    found = []
    for run in (step, step, lambda: (w * w).sum().backward(), step):
        run()
        assert w.grad is not None
        found.append(w.grad.item())
    assert found == [4.0, 8.0, 12.0, 16.0]


def test_an_optimizer_step_alone_takes_the_gradients_from_outside() -> None:
    w = nn.Parameter([2.0])
    opt = ndl.optim.SGD([w], lr=0.5)
    update = ndl.compile(lambda: opt.step())
    for expected in (0.0, 0.0):
        opt.reset_grad()
        (w * w).sum().backward()
        update()
        assert w.item() == expected


# -- copies and threads -----------------------------------------------------------------------------------------------------


class Scaled(nn.Module):
    """One parameter, and its compiled product."""

    def __init__(self) -> None:
        self.w = nn.Parameter([2.0])

    @ndl.compile
    def forward(self, x: ndl.Tensor) -> ndl.Tensor:
        return self.w * x


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_a_copy_of_a_module_computes_with_its_own_parameters(copied: Callable[[Scaled], Scaled]) -> None:
    model, x = Scaled(), ndl.Tensor([1.0])
    assert model(x).item() == 2.0
    other = copied(model)
    other.w.data = [5.0]
    assert [model(x).item(), other(x).item()] == [2.0, 5.0]


def test_threads_capture_and_compute_side_by_side() -> None:
    x, wrong = ndl.ones((2, 3)), []

    def compiled(by: float) -> None:
        f = ndl.compile(lambda x: (x * by).sum())
        wrong.extend(by for _ in range(20) if f(x).item() != 6 * by)

    def eager() -> None:
        wrong.extend(0.0 for _ in range(300) if (x * 2 + 1).sum().item() != 18.0)

    threads = [threading.Thread(target=compiled, args=(float(i),)) for i in range(1, 5)] + [threading.Thread(target=eager)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []


def test_the_graph_behind_an_argument_is_not_kept() -> None:
    leaf = ndl.Tensor([1.0], requires_grad=True)
    x = leaf * 3
    gone = weakref.ref(leaf)
    double = ndl.compile(lambda x: x * 2)
    with ndl.no_grad():
        assert double(x).numpy() == [6]
    del leaf, x
    gc.collect()
    assert gone() is None
