"""How weights start: shapes, dtypes, bounds and statistics of the initialisers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core.errors import ArgumentError, DtypeError
from needle_core.nn import init
from needle_core.random import Generator
from needle_core.spec import Device
from needle_core.tensor import Tensor

FAN_IN, FAN_OUT = 300, 100
GAINS = {
    "linear": 1,
    "sigmoid": 1,
    "tanh": 5 / 3,
    "relu": math.sqrt(2),
    "leaky_relu": math.sqrt(2 / (1 + 0.01**2)),
    "selu": 3 / 4,
}


def drawn(make: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Any:
    """Numbers that `make` draws from a fixed seed, in float64."""
    return make(*args, generator=Generator(5), dtype="float64", **kwargs).numpy()


def assert_uniform(x: Any, low: float, high: float) -> None:
    """`x` looks uniform in [low, high): the largest gap to the distribution function is below Kolmogorov's 1e-6 quantile."""
    assert x.min() >= low
    assert x.max() < high
    n = x.size
    u = np.sort((x.ravel() - low) / (high - low))
    gap = max(float(np.max(np.arange(1, n + 1) / n - u)), float(np.max(u - np.arange(n) / n)))
    assert gap < math.sqrt(-math.log(1e-6 / 2) / (2 * n))


def assert_normal(x: Any, mean: float, std: float) -> None:
    """`x` looks normal: the same test after the normal distribution function."""
    u = 0.5 * (1 + np.vectorize(math.erf)((x - mean) / (std * math.sqrt(2))))
    assert_uniform(u, 0, 1 + 1e-15)


# -- constants ----------------------------------------------------------------------------------------------------------


def test_constants() -> None:
    assert init.zeros(2, 3).tolist() == [[0.0] * 3] * 2
    assert init.ones(2).tolist() == [1.0, 1.0]
    assert init.constant(2, c=2.5).tolist() == [2.5, 2.5]
    assert init.ones().shape == ()
    assert {t.dtype for t in (init.zeros(1), init.ones(1), init.constant(1, c=3))} == {ndl.float32}


def test_one_hot_marks_the_place_of_each_integer() -> None:
    np.testing.assert_array_equal(init.one_hot(4, [2, 0]).numpy(), np.eye(4)[[2, 0]])
    np.testing.assert_array_equal(init.one_hot(3, Tensor([[1], [2]])).numpy(), np.eye(3)[[[1], [2]]])
    assert init.one_hot(3, 1, dtype="int64").tolist() == [0, 1, 0]


MAKERS: dict[str, Callable[..., Tensor]] = {
    "zeros": lambda **options: init.zeros(3, 2, **options),
    "ones": lambda **options: init.ones(3, 2, **options),
    "constant": lambda **options: init.constant(3, 2, **options),
    "one_hot": lambda **options: init.one_hot(2, [0, 1, 1], **options),
    "rand": lambda **options: init.rand(3, 2, **options),
    "randn": lambda **options: init.randn(3, 2, **options),
    "xavier_uniform": lambda **options: init.xavier_uniform(3, 2, **options),
    "xavier_normal": lambda **options: init.xavier_normal(3, 2, **options),
    "kaiming_uniform": lambda **options: init.kaiming_uniform(3, 2, **options),
    "kaiming_normal": lambda **options: init.kaiming_normal(3, 2, **options),
}
RANDOM = list(MAKERS)[4:]


@pytest.mark.parametrize("name", MAKERS)
def test_options_of_every_initialiser(name: str) -> None:
    make = MAKERS[name]
    there = Device("elsewhere", ndl.default_device().backend)
    x = make(dtype="float16", requires_grad=True, device=there)
    assert (x.shape, x.dtype, x.device, x.requires_grad) == ((3, 2), ndl.float16, there, True)
    assert not make().requires_grad
    assert make().is_leaf


@pytest.mark.parametrize("name", list(MAKERS)[:4])
def test_integers_have_no_gradients(name: str) -> None:
    with pytest.raises(DtypeError, match="only floating tensors have gradients, not int64"):
        MAKERS[name](dtype="int64", requires_grad=True)


@pytest.mark.parametrize("name", RANDOM)
def test_integers_are_not_drawn(name: str) -> None:
    with pytest.raises(DtypeError, match="random numbers are drawn in a floating dtype, not int64"):
        MAKERS[name](dtype="int64")


# -- random numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RANDOM)
def test_the_same_seed_gives_the_same_numbers(name: str) -> None:
    make = MAKERS[name]
    ndl.manual_seed(11)
    first, second = make().tolist(), make().tolist()
    ndl.manual_seed(11)
    assert make().tolist() == first != second
    assert make(generator=Generator(11)).tolist() == make(generator=Generator(11)).tolist() != first


def test_a_device_has_the_numbers_of_any_other() -> None:
    there = Device("elsewhere", ndl.default_device().backend)
    x = init.randn(3, generator=Generator(2), device=there)
    assert x.device is there
    assert x.tolist() == init.randn(3, generator=Generator(2)).tolist()


def test_rand_is_uniform() -> None:
    assert_uniform(drawn(init.rand, 200, 100), 0, 1)
    assert_uniform(drawn(init.rand, 200, 100, low=-3.0, high=5.0), -3, 5)


def test_randn_is_normal() -> None:
    assert_normal(drawn(init.randn, 200, 100), 0, 1)
    assert_normal(drawn(init.randn, 200, 100, mean=2.0, std=0.5), 2, 0.5)


@pytest.mark.parametrize("gain", [1.0, 2.5])
def test_xavier(gain: float) -> None:
    bound = gain * math.sqrt(6 / (FAN_IN + FAN_OUT))
    uniform = drawn(init.xavier_uniform, FAN_IN, FAN_OUT, gain)
    assert uniform.shape == (FAN_IN, FAN_OUT)
    assert_uniform(uniform, -bound, bound)
    normal = drawn(init.xavier_normal, FAN_IN, FAN_OUT, gain)
    assert normal.shape == (FAN_IN, FAN_OUT)
    assert_normal(normal, 0, gain * math.sqrt(2 / (FAN_IN + FAN_OUT)))


@pytest.mark.parametrize("nonlinearity", GAINS)
def test_kaiming(nonlinearity: str) -> None:
    gain = GAINS[nonlinearity]
    assert init.calculate_gain(nonlinearity) == pytest.approx(gain, rel=1e-15)
    bound = gain * math.sqrt(3 / FAN_IN)
    uniform = drawn(init.kaiming_uniform, FAN_IN, FAN_OUT, nonlinearity)
    assert uniform.shape == (FAN_IN, FAN_OUT)
    assert_uniform(uniform, -bound, bound)
    assert_normal(drawn(init.kaiming_normal, FAN_IN, FAN_OUT, nonlinearity), 0, gain / math.sqrt(FAN_IN))


def test_kaiming_is_for_relu_by_default() -> None:
    np.testing.assert_array_equal(drawn(init.kaiming_uniform, 5, 4), drawn(init.kaiming_uniform, 5, 4, "relu"))


@pytest.mark.parametrize("name", RANDOM[2:])
def test_a_shape_may_differ_from_the_fans(name: str) -> None:
    make = getattr(init, name)
    assert make(27, 16, shape=(16, 3, 3, 3)).shape == (16, 3, 3, 3)
    flat = drawn(make, 27, 16)
    np.testing.assert_array_equal(drawn(make, 27, 16, shape=(16, 27)).ravel(), flat.ravel())


def test_an_unknown_nonlinearity_is_refused_with_those_known() -> None:
    with pytest.raises(ArgumentError) as caught:
        init.kaiming_normal(3, 2, "swoosh")
    assert str(caught.value) == (
        "no gain is known for the nonlinearity 'swoosh'\n  known: linear, sigmoid, tanh, relu, leaky_relu, selu"
    )


@pytest.mark.parametrize("name", RANDOM[2:])
def test_fans_are_positive(name: str) -> None:
    with pytest.raises(ArgumentError, match=r"^a fan is at least 1, not 0$"):
        getattr(init, name)(0, 3)
