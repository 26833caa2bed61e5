"""Layers and losses against their formulas in float64 NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import needle_core as ndl
from needle_core import nn
from needle_core.errors import ArgumentError, BoundsError, DtypeError, ShapeError
from needle_core.random import Generator, default_generator
from needle_core.tensor import Tensor

HERE = ndl.default_device()

Array = npt.NDArray[np.float64]
X: Array = np.random.default_rng(0).normal(size=(5, 4))
GRID: Array = np.linspace(-5, 5, 41)


def close(y: Tensor, expected: Any, dtype: Any = np.float64) -> None:
    """`y` is `expected` up to a few roundings of its dtype."""
    assert y.numpy().dtype == dtype
    eps = float(np.finfo(dtype).eps)
    np.testing.assert_allclose(y.numpy(), np.asarray(expected), rtol=32 * eps, atol=32 * eps)


def differences(f: Callable[[Array], float], x: Array, h: float = 1e-6) -> Array:
    """The gradient of `f` at `x` by central differences; the error is of the order h^2 + 1e-16 / h."""
    gradient = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[i] = h
        gradient[i] = (f(x + step) - f(x - step)) / (2 * h)
    return gradient


# -- linear -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4,), (5, 4), (2, 3, 4), (0, 4)])
def test_linear_is_affine_in_the_last_axis(shape: tuple[int, ...]) -> None:
    layer = nn.Linear(4, 3, dtype="float64")
    assert layer.bias is not None
    x = np.random.default_rng(1).normal(size=shape)
    close(layer(Tensor(x)), np.einsum("...i,io->...o", x, layer.weight.numpy()) + layer.bias.numpy())


def test_linear_starts_kaiming_uniform_from_the_default_generator() -> None:
    ndl.manual_seed(3)
    layer = nn.Linear(50, 20)
    ndl.manual_seed(3)
    source = default_generator()
    bound = math.sqrt(6 / 50)
    np.testing.assert_array_equal(layer.weight.numpy(), source.uniform(50, 20, low=-bound, high=bound).numpy())
    bound = math.sqrt(6 / 20)
    assert layer.bias is not None
    np.testing.assert_array_equal(layer.bias.numpy(), source.uniform(20, low=-bound, high=bound).numpy())


def test_linear_without_bias() -> None:
    layer = nn.Linear(4, 3, bias=False)
    assert [p.shape for p in layer.parameters()] == [(4, 3)]
    assert repr(layer) == "Linear(4, 3, bias=False)"
    assert not np.any(layer(Tensor(np.zeros((2, 4), np.float32))).numpy())


def test_linear_gradients() -> None:
    layer, g = nn.Linear(4, 3, dtype="float64"), np.random.default_rng(2).normal(size=(5, 3))
    layer(Tensor(X)).backward(Tensor(g))
    assert layer.weight.grad is not None
    assert layer.bias is not None
    assert layer.bias.grad is not None
    close(layer.weight.grad, X.T @ g)
    close(layer.bias.grad, g.sum(0))


def test_linear_refuses_other_widths() -> None:
    with pytest.raises(ShapeError, match=r"^linear: inner dimensions differ, 3 != 4"):
        nn.Linear(4, 3)(Tensor(np.zeros((2, 3), np.float32)))


def test_embedding_gives_rows_and_adds_up_their_gradients() -> None:
    table = nn.Embedding(5, 2)
    y = table(Tensor([[1, 4], [1, 1]]))
    np.testing.assert_array_equal(y.numpy(), table.weight.numpy()[[[1, 4], [1, 1]]])
    y.sum().backward()
    assert table.weight.grad is not None
    assert table.weight.grad.tolist() == [[0, 0], [3, 3], [0, 0], [0, 0], [1, 1]]


def test_embedding_refuses_what_is_no_row() -> None:
    with pytest.raises(BoundsError):
        nn.Embedding(5, 2)(Tensor([5]))
    with pytest.raises(DtypeError, match="indices must be integers, not float32"):
        nn.Embedding(5, 2)(Tensor([1.0]))


def test_flatten_keeps_the_first_axis() -> None:
    assert nn.Flatten()(Tensor(np.zeros((3, 2, 4)))).shape == (3, 8)
    assert nn.Flatten()(Tensor(np.zeros((0, 2, 4)))).shape == (0, 8)


def test_identity_returns_what_it_is_given() -> None:
    x = Tensor(X)
    assert nn.Identity()(x) is x


# -- containers ---------------------------------------------------------------------------------------------------------


def test_sequential_calls_in_order() -> None:
    close(nn.Sequential(nn.Tanh(), nn.ReLU())(Tensor(X)), np.maximum(np.tanh(X), 0))
    x = Tensor(X)
    assert nn.Sequential()(x) is x


def test_sequential_is_indexed_sliced_and_iterated() -> None:
    layers = [nn.ReLU(), nn.Tanh(), nn.Sigmoid()]
    model = nn.Sequential(*layers)
    assert len(model) == 3
    assert list(model) == layers
    assert model[-1] is layers[2]
    assert isinstance(model[1:], nn.Sequential)
    assert list(model[1:]) == layers[1:]


def test_sequential_refuses_what_is_no_module() -> None:
    with pytest.raises(ArgumentError) as caught:
        nn.Sequential([nn.ReLU()])  # type: ignore[arg-type]
    assert str(caught.value) == "Sequential: list is no Module\n  hint: Sequential(*layers) takes the modules of a list"
    with pytest.raises(ArgumentError, match=r"^Sequential: Op is no Module$"):
        nn.Sequential(ndl.relu)


def test_residual_adds_its_input() -> None:
    close(nn.Residual(nn.Tanh())(Tensor(X)), np.tanh(X) + X)


def test_module_list_is_a_list_whose_modules_are_found() -> None:
    modules = nn.ModuleList([nn.Linear(2, 2)])
    modules.append(nn.Linear(2, 3))
    modules.insert(0, nn.ReLU())
    assert [name for name, _ in modules.named_parameters()] == ["1.weight", "1.bias", "2.weight", "2.bias"]
    assert isinstance(modules[1:], nn.ModuleList)
    assert [type(m) for m in modules[1:]] == [nn.Linear, nn.Linear]
    modules[0] = nn.Tanh()
    del modules[2]
    assert repr(modules) == "ModuleList(\n  (0): Tanh()\n  (1): Linear(2, 2)\n)"
    with pytest.raises(ArgumentError, match=r"^ModuleList: int is no Module$"):
        modules.append(3)  # type: ignore[arg-type]


def test_module_dict_is_a_dict_whose_modules_are_found() -> None:
    modules = nn.ModuleDict({"left": nn.Linear(2, 2)})
    modules["right"] = nn.ReLU()
    assert list(modules) == ["left", "right"]
    assert [name for name, _ in modules.named_parameters()] == ["left.weight", "left.bias"]
    del modules["left"]
    assert repr(modules) == "ModuleDict(\n  (right): ReLU()\n)"
    assert modules != nn.ModuleDict(dict(modules))
    assert {modules: 1}[modules] == 1


@pytest.mark.parametrize("name", ["a.b", "", 3])
def test_module_dict_refuses_names_that_make_no_path(name: Any) -> None:
    with pytest.raises(ArgumentError) as caught:
        nn.ModuleDict()[name] = nn.ReLU()
    assert str(caught.value) == f"ModuleDict: a name is a string without dots, not {name!r}"


# -- activations --------------------------------------------------------------------------------------------------------


def sigmoid(x: Array) -> Any:
    return 1 / (1 + np.exp(-x))


def erf(x: Array) -> Any:
    return np.array([math.erf(v) for v in x.ravel().tolist()]).reshape(x.shape)


ACTIVATIONS: dict[str, tuple[nn.Module, Callable[[Array], Array]]] = {
    "ReLU()": (nn.ReLU(), lambda x: np.maximum(x, 0)),
    "ReLU6()": (nn.ReLU6(), lambda x: np.minimum(np.maximum(x, 0), 6)),
    "LeakyReLU(0.2)": (nn.LeakyReLU(0.2), lambda x: np.where(x > 0, x, 0.2 * x)),
    "ELU(0.5)": (nn.ELU(0.5), lambda x: np.where(x > 0, x, 0.5 * np.expm1(x))),
    "SELU()": (nn.SELU(), lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x))),
    "GELU()": (nn.GELU(), lambda x: x * (1 + erf(x / math.sqrt(2))) / 2),
    "GELU(approximate='tanh')": (
        nn.GELU("tanh"),
        lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    ),
    "SiLU()": (nn.SiLU(), lambda x: x * sigmoid(x)),
    "Mish()": (nn.Mish(), lambda x: x * np.tanh(np.log1p(np.exp(x)))),
    "Sigmoid()": (nn.Sigmoid(), sigmoid),
    "LogSigmoid()": (nn.LogSigmoid(), lambda x: np.log(sigmoid(x))),
    "HardSigmoid()": (nn.HardSigmoid(), lambda x: np.clip(x / 6 + 0.5, 0, 1)),
    "Tanh()": (nn.Tanh(), np.tanh),
    "Softplus()": (nn.Softplus(), lambda x: np.log1p(np.exp(x))),
    "Softsign()": (nn.Softsign(), lambda x: x / (1 + np.abs(x))),
    "Softmax()": (nn.Softmax(), lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True)),
    "Softmax(axis=0)": (nn.Softmax(0), lambda x: np.exp(x) / np.exp(x).sum(0, keepdims=True)),
    "LogSoftmax()": (nn.LogSoftmax(), lambda x: x - np.log(np.exp(x).sum(-1, keepdims=True))),
    "LogSoftmax(axis=(0, 1))": (nn.LogSoftmax((0, 1)), lambda x: x - np.log(np.exp(x).sum())),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_computes_its_formula(name: str) -> None:
    layer, formula = ACTIVATIONS[name]
    x = np.stack([GRID, GRID[::-1] * 1.5])
    assert repr(layer) == name
    np.testing.assert_allclose(layer(Tensor(x)).numpy(), formula(x), rtol=1e-12, atol=1e-13)


# -- batch normalisation ------------------------------------------------------------------------------------------------


def batch_normalized(x: Array, weight: Array, bias: Array) -> Any:
    over = tuple(range(x.ndim - 1))
    return (x - x.mean(over)) / np.sqrt(x.var(over) + 1e-5) * weight + bias


def batch_norm_of(weight: Array, bias: Array) -> nn.BatchNorm1d:
    layer = nn.BatchNorm1d(len(weight), dtype="float64")
    layer.load_state_dict({"weight": weight, "bias": bias}, strict=False)
    return layer


@pytest.mark.parametrize("shape", [(5, 4), (2, 3, 4), (2, 4)])
def test_batch_norm_normalises_by_biased_batch_statistics(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(3).normal(size=shape)
    weight, bias = np.array([1.0, 2.0, -1.0, 0.5]), np.array([0.0, 1.0, 2.0, 3.0])
    close(batch_norm_of(weight, bias)(Tensor(x)), batch_normalized(x, weight, bias))


def test_batch_norm_moves_running_statistics_with_the_unbiased_variance() -> None:
    layer = nn.BatchNorm1d(4, momentum=0.3, dtype="float64")
    mean, variance = np.zeros(4), np.ones(4)
    for batch in (X, 3 * X + 1):
        layer(Tensor(batch))
        mean = 0.7 * mean + 0.3 * batch.mean(0)
        variance = 0.7 * variance + 0.3 * batch.var(0) * 5 / 4
    close(layer.running_mean, mean)
    close(layer.running_var, variance)


def test_batch_norm_evaluates_by_running_statistics_and_leaves_them() -> None:
    layer = nn.BatchNorm1d(4, dtype="float64")
    layer(Tensor(3 * X + 1))
    layer.eval()
    mean, variance = layer.running_mean.numpy().copy(), layer.running_var.numpy().copy()
    close(layer(Tensor(X)), (X - mean) / np.sqrt(variance + 1e-5))
    close(layer(Tensor(X[:1])), (X[:1] - mean) / np.sqrt(variance + 1e-5))
    np.testing.assert_array_equal(layer.running_mean.numpy(), mean)
    np.testing.assert_array_equal(layer.running_var.numpy(), variance)


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_gradients_agree_with_differences(training: bool) -> None:
    weight, bias = np.array([1.0, 2.0, -1.0, 0.5]), np.array([0.0, 1.0, 2.0, 3.0])
    g = np.random.default_rng(4).normal(size=X.shape)

    def value(x: Array, weight: Array, bias: Array) -> float:
        y = batch_normalized(x, weight, bias) if training else x / math.sqrt(1 + 1e-5) * weight + bias
        return float((y * g).sum())

    layer, x = batch_norm_of(weight, bias).train(training), Tensor(X, requires_grad=True)
    layer(x).backward(Tensor(g))
    for found, expected in (
        (x.grad, differences(lambda v: value(v, weight, bias), X)),
        (layer.weight.grad, differences(lambda v: value(X, v, bias), weight)),
        (layer.bias.grad, differences(lambda v: value(X, weight, v), bias)),
    ):
        assert found is not None
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-8)


def test_batch_norm_running_statistics_carry_no_graph() -> None:
    layer, x = nn.BatchNorm1d(4), Tensor(X.astype(np.float32), requires_grad=True)
    layer(x)
    assert [(b.is_leaf, b.requires_grad) for b in layer.buffers()] == [(True, False)] * 2


def test_batch_norm_keeps_the_dtype_of_its_statistics() -> None:
    layer = nn.BatchNorm1d(4)
    assert layer(Tensor(X)).dtype is ndl.float64
    assert layer.running_var.dtype is ndl.float32


@pytest.mark.parametrize("samples", [0, 1])
def test_batch_norm_needs_two_samples_in_training(samples: int) -> None:
    layer = nn.BatchNorm1d(4)
    with pytest.raises(ShapeError) as caught:
        layer(Tensor(np.zeros((samples, 4), np.float32)))
    assert str(caught.value) == (
        f"BatchNorm1d: in training, at least two samples are needed for a variance, not {samples}\n"
        f"  x: float32[{samples}, 4] on {HERE}\n"
        "  hint: model.eval() uses the running statistics"
    )
    assert layer.running_var.tolist() == [1.0] * 4


def test_batch_norm_refuses_other_widths() -> None:
    with pytest.raises(ShapeError, match=r"^BatchNorm1d: x needs two axes or more, the last of size 4"):
        nn.BatchNorm1d(4)(Tensor(np.zeros((2, 3), np.float32)))


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_of_images_takes_every_pixel_as_a_sample(training: bool) -> None:
    x = np.random.default_rng(3).normal(size=(2, 3, 5, 4))
    rows, last, first = nn.BatchNorm1d(4), nn.BatchNorm2d(4), nn.BatchNorm2d(4, data_format="NCHW")
    expected = rows.train(training)(Tensor(x.reshape(30, 4))).numpy().reshape(x.shape)
    close(last.train(training)(Tensor(x)), expected)
    close(first.train(training)(Tensor(x.transpose(0, 3, 1, 2))), expected.transpose(0, 3, 1, 2))
    for layer in (last, first):
        close(layer.running_mean, rows.running_mean.numpy(), np.float32)
        close(layer.running_var, rows.running_var.numpy(), np.float32)


def test_batch_norm_of_images_refuses_other_formats() -> None:
    with pytest.raises(ArgumentError) as caught:
        nn.BatchNorm2d(3, data_format="NCW")
    assert str(caught.value) == "BatchNorm2d: data_format is 'NHWC' or 'NCHW', not 'NCW'"
    with pytest.raises(ShapeError, match=r"^BatchNorm2d: NHWC has 4 axes, not 2"):
        nn.BatchNorm2d(3)(Tensor(np.zeros((2, 3))))
    assert repr(nn.BatchNorm2d(3)) == "BatchNorm2d(3, eps=1e-05, momentum=0.1)"
    assert repr(nn.BatchNorm2d(3, data_format="NCHW")) == "BatchNorm2d(3, eps=1e-05, momentum=0.1, data_format='NCHW')"


# -- layer normalisation ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [4, (4,), (5, 4)])
def test_layer_norm_normalises_the_last_axes(shape: Any) -> None:
    layer, over = nn.LayerNorm(shape, dtype="float64"), (-1,) if shape in (4, (4,)) else (-2, -1)
    x = np.random.default_rng(5).normal(size=(3, 5, 4))
    weight, bias = np.random.default_rng(6).normal(size=(2, *layer.shape))
    layer.load_state_dict({"weight": weight, "bias": bias})
    mean, variance = x.mean(over, keepdims=True), x.var(over, keepdims=True)
    close(layer(Tensor(x)), (x - mean) / np.sqrt(variance + 1e-5) * weight + bias)


def test_layer_norm_repr() -> None:
    assert repr(nn.LayerNorm1d(4)) == "LayerNorm(4, eps=1e-05)"
    assert repr(nn.LayerNorm((5, 4), eps=0.1)) == "LayerNorm((5, 4), eps=0.1)"


def test_normalisations_tell_what_they_are() -> None:
    assert repr(nn.GroupNorm(2, 6)) == "GroupNorm(2, 6, eps=1e-05)"
    assert repr(nn.InstanceNorm2d(3, data_format="NCHW")) == "InstanceNorm2d(3, eps=1e-05, data_format='NCHW')"
    assert repr(nn.RMSNorm(4)) == "RMSNorm(4, eps=1e-05)"
    with pytest.raises(ArgumentError, match=r"^GroupNorm: 6 channels do not make 4 groups$"):
        nn.GroupNorm(4, 6)


# -- dropout ------------------------------------------------------------------------------------------------------------


def test_dropout_drops_a_share_and_scales_the_rest() -> None:
    n, p = 10_000, 0.3
    y = nn.Dropout(p, generator=Generator(1))(Tensor(np.full((100, 100), 2.0))).numpy()
    kept = y != 0
    np.testing.assert_allclose(y[kept], 2 / (1 - p), rtol=1e-15)
    assert abs(kept.mean() - (1 - p)) < 5 * math.sqrt(p * (1 - p) / n)  # five standard deviations of the share
    assert abs(y.mean() - 2) < 5 * 2 * math.sqrt(p / (1 - p) / n)


def test_dropout_gradient_flows_through_what_was_kept() -> None:
    x = Tensor(np.ones(1000), requires_grad=True)
    y = nn.Dropout(0.25)(x)
    y.sum().backward()
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), y.numpy())


def test_dropout_draws_anew_each_time_and_again_from_the_same_seed() -> None:
    x, layer = Tensor(np.ones(64, np.float32)), nn.Dropout(0.5)
    ndl.manual_seed(7)
    first, second = layer(x).tolist(), layer(x).tolist()
    ndl.manual_seed(7)
    assert first != second
    assert [layer(x).tolist(), layer(x).tolist()] == [first, second]


def test_dropout_drops_infinities_too() -> None:
    y = nn.Dropout(0.5, generator=Generator(0))(Tensor(np.full(64, np.inf))).numpy()
    assert set(y.tolist()) == {0.0, math.inf}


def test_dropout_does_nothing_in_evaluation_or_for_p_0() -> None:
    x = Tensor(X)
    assert nn.Dropout(0.9).eval()(x) is x
    assert nn.Dropout(0.0)(x) is x


@pytest.mark.parametrize("p", [-0.1, 1.0, 2, math.nan])
def test_dropout_refuses_what_is_no_probability_below_one(p: float) -> None:
    with pytest.raises(ArgumentError) as caught:
        nn.Dropout(p)
    assert str(caught.value) == f"Dropout: p is a probability in [0, 1), not {p}"


# -- losses -------------------------------------------------------------------------------------------------------------

LABELS = np.array([0, 3, 1, 1, 2])
TARGET: Array = np.random.default_rng(7).uniform(size=X.shape)
REDUCTIONS: dict[str, Callable[[Array], Any]] = {"mean": np.mean, "sum": np.sum, "none": lambda x: x}
LOSSES: dict[str, tuple[Callable[[str], nn.Module], Any, Array]] = {
    "SoftmaxLoss": (nn.SoftmaxLoss, LABELS, np.log(np.exp(X).sum(-1)) - X[range(5), LABELS]),
    "L2Loss": (nn.L2Loss, TARGET, (X - TARGET) ** 2),
    "L1Loss": (nn.L1Loss, TARGET, np.abs(X - TARGET)),
    "BCEWithLogitsLoss": (nn.BCEWithLogitsLoss, TARGET, -TARGET * np.log(sigmoid(X)) - (1 - TARGET) * np.log(sigmoid(-X))),
}


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", LOSSES)
def test_loss_computes_its_formula(name: str, reduction: str) -> None:
    make, target, expected = LOSSES[name]
    close(make(reduction)(Tensor(X), Tensor(target)), REDUCTIONS[reduction](expected))
    assert repr(make(reduction)) == f"{name}({'' if reduction == 'mean' else f'reduction={reduction!r}'})"


def test_losses_have_the_names_of_the_field_too() -> None:
    assert nn.CrossEntropyLoss is nn.SoftmaxLoss
    assert nn.MSELoss is nn.L2Loss


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_losses_of_large_scores_do_not_overflow(scale: float) -> None:
    x = np.array([[scale, 0.0]], np.float32)
    close(nn.SoftmaxLoss()(Tensor(x), Tensor([0])), max(-scale, 0.0), np.float32)
    close(nn.BCEWithLogitsLoss(reduction="sum")(Tensor(x[:, :1]), Tensor([[1.0]])), max(-scale, 0.0), np.float32)
