"""Compiled functions give what eager calls give, or an error that says why not."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core import checkpoint, nn
from needle_core.errors import BoundsError, CompileError, GradientError

calls = 0


def train(compiled: bool, steps: int, seed: int = 0) -> dict[str, Any]:
    """All that decides how training goes on, after steps with dropout, running statistics, clipping and a schedule."""
    ndl.manual_seed(seed)
    model, opt, step = training()
    run = ndl.compile(step) if compiled else step
    losses = [run(*batch(i)).item() for i in range(steps)]
    return {"losses": losses, **state(model, opt)}


def training() -> tuple[nn.Module, ndl.optim.Optimizer, Callable[..., ndl.Tensor]]:
    layers = [nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3)]
    model = nn.Sequential(*layers)
    opt = ndl.optim.Adam(model.parameters(), lr=ndl.optim.Warmup(ndl.optim.CosineDecay(0.05, 50), 5))

    def step(x: ndl.Tensor, y: ndl.Tensor) -> ndl.Tensor:
        opt.reset_grad()
        loss: ndl.Tensor = nn.SoftmaxLoss()(model(x), y)
        loss.backward()
        ndl.optim.clip_grad_norm(model.parameters(), 0.5)
        opt.step()
        return loss

    return model, opt, step


def batch(i: int) -> tuple[ndl.Tensor, ndl.Tensor]:
    rng = np.random.default_rng(i)
    return ndl.Tensor(rng.normal(size=(6, 5)).astype(np.float32)), ndl.Tensor(rng.integers(0, 3, 6))


def state(model: nn.Module, opt: ndl.optim.Optimizer) -> dict[str, Any]:
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    leaves, _ = ndl.tree.flatten(opt.state_dict())
    tensors |= {f"opt.{i}": v for i, v in enumerate(leaves)}
    tensors["random"] = ndl.random.default_generator().state
    return {k: v.numpy().tobytes() if isinstance(v, ndl.Tensor) else v for k, v in tensors.items()}


# -- the same code ----------------------------------------------------------------------------------------------------------


def test_a_hundred_steps_are_those_of_eager_calls_bit_for_bit() -> None:
    assert train(compiled=True, steps=100) == train(compiled=False, steps=100)


def test_eager_and_compiled_calls_mix() -> None:
    ndl.manual_seed(0)
    model, opt, step = training()
    compiled = ndl.compile(step)
    for i in range(20):
        (compiled if i % 3 else step)(*batch(i))
    found = state(model, opt)
    expected = train(compiled=False, steps=20)
    assert found == {k: v for k, v in expected.items() if k != "losses"}


def test_training_goes_on_from_a_checkpoint(tmp_path: Any) -> None:
    ndl.manual_seed(0)
    model, opt, step = training()
    compiled = ndl.compile(step)
    for i in range(10):
        compiled(*batch(i))
    kept = {"model": model.state_dict(), "opt": opt.state_dict(), "random": ndl.random.default_generator().state.detach()}
    checkpoint.save(tmp_path / "a", kept)
    for i in range(10, 15):
        compiled(*batch(i))
    loaded = checkpoint.load(tmp_path / "a")
    model.load_state_dict(loaded["model"])
    opt.load_state_dict(loaded["opt"])
    ndl.random.default_generator().state.data = loaded["random"]
    for i in range(10, 20):
        compiled(*batch(i))
    expected = train(compiled=False, steps=20)
    assert state(model, opt) == {k: v for k, v in expected.items() if k != "losses"}


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


# -- what cannot be captured ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "look",
    [
        lambda x: x if x.sum() > 0 else -x, lambda x: x * float(x.sum()), lambda x: x.numpy(), lambda x: x.tolist(),
        lambda x: f"{x.sum():.2f}", lambda x: x[int(x.sum())],
    ],
    ids=["if", "float", "numpy", "tolist", "format", "index"],
)  # fmt: skip
def test_numbers_cannot_be_looked_at(look: Callable[[ndl.Tensor], Any]) -> None:
    with pytest.raises(CompileError, match="no numbers to look at") as caught:
        ndl.compile(look)(ndl.Tensor([1.0]))
    assert "test_compiled.py:" in caught.value.details["line"]


def test_printing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CompileError, match="print inside"):
        ndl.compile(lambda x: print("a text") or x)(ndl.Tensor([1.0]))
    assert capsys.readouterr().out == ""
    print("afterwards")
    assert capsys.readouterr().out == "afterwards\n"


def count_up(x: ndl.Tensor) -> ndl.Tensor:
    global calls
    calls += 1
    return x * calls


def test_a_counter_in_python_is_refused() -> None:
    with pytest.raises(CompileError, match="runs in Python only while it is captured") as caught:
        ndl.compile(count_up)(ndl.Tensor([1.0]))
    assert "calls" in caught.value.details


def test_a_number_that_differs_at_each_call_is_refused() -> None:
    numbers = iter(range(10))
    with pytest.raises(CompileError, match="captured twice") as caught:
        ndl.compile(lambda x: x + next(numbers))(ndl.Tensor([1.0]))
    assert caught.value.details["first"] == "0"
    assert caught.value.details["second"] == "1"


def test_a_list_that_grows_is_refused() -> None:
    seen: list[Any] = []

    def f(x: ndl.Tensor) -> ndl.Tensor:
        seen.append(x * 2)
        return x

    with pytest.raises(CompileError, match="runs in Python only while it is captured"):
        ndl.compile(f)(ndl.Tensor([1.0]))
    with pytest.raises(CompileError, match="belongs to a captured computation"):
        seen[0].numpy()
    with pytest.raises(CompileError, match="belongs to a captured computation"):
        seen[0] + 1


def test_a_numpy_argument_is_refused() -> None:
    with pytest.raises(CompileError, match="NumPy array is no argument"):
        ndl.compile(lambda x: ndl.Tensor(x))(np.ones(3))


def test_a_graph_from_outside_is_refused() -> None:
    w = nn.Parameter([2.0])
    with pytest.raises(CompileError, match="graph behind it"):
        ndl.compile(lambda x: x * 2)(w * 3)
    y = w * 3
    with pytest.raises(CompileError, match="graph behind it"):
        ndl.compile(lambda: y * 2)()


def test_a_graph_does_not_come_out() -> None:
    w = nn.Parameter([2.0])
    y = ndl.compile(lambda: (w * w).sum())()
    assert y.requires_grad
    with pytest.raises(GradientError, match="its graph stayed inside"):
        y.backward()


def test_an_argument_that_is_also_read_from_outside_is_refused_where_tensors_are_assigned() -> None:
    total = ndl.Tensor([0.0])

    @ndl.compile
    def add(x: ndl.Tensor) -> None:
        total.data = total + x

    add(ndl.Tensor([1.0]))
    with pytest.raises(CompileError, match="also a tensor that the compiled function reads"):
        add(total)
    assert total.item() == 1.0


def test_an_exception_in_the_middle_changes_nothing() -> None:
    w = nn.Parameter([1.0])

    def f(x: ndl.Tensor) -> None:
        w.data = w + x
        (w * x).sum().backward()
        raise ZeroDivisionError

    compiled = ndl.compile(f)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            compiled(ndl.Tensor([1.0]))
    assert w.item() == 1.0
    assert w.grad is None
    assert (w + 1).item() == 2.0


def test_an_index_out_of_range_is_told_as_in_eager_calls_and_assigns_nothing() -> None:
    table, seen = ndl.Tensor([1.0, 2.0]), ndl.Tensor(0)

    @ndl.compile
    def f(i: ndl.Tensor) -> ndl.Tensor:
        seen.data = seen + 1
        return ndl.take(table, i, axis=0)

    assert f(ndl.Tensor([1])).tolist() == [2.0]
    with pytest.raises(BoundsError, match="take: ") as caught:
        f(ndl.Tensor([7]))
    assert "test_compiled.py:" in caught.value.details["line"]
    assert seen.item() == 1


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
