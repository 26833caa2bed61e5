"""Generators: the same seed gives the same numbers, and the state says where one is."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core import Generator, Tensor
from needle_core.errors import ArgumentError, DtypeError
from needle_core.random import default_generator

HERE = ndl.default_device()

Draw = Callable[[Generator], Tensor]

DRAWS: dict[str, Draw] = {
    "bits": lambda r: r.bits(7, 3),
    "uniform": lambda r: r.uniform(7, 3),
    "normal": lambda r: r.normal(7, 3),
    "bernoulli": lambda r: r.bernoulli(64, p=0.5),
    "integers": lambda r: r.integers(-1000, 1000, 21),
    "permutation": lambda r: r.permutation(20),
}

draws = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)


@pytest.fixture
def seeded() -> Iterator[None]:
    """Default generators start anew from 0 after the test."""
    yield
    ndl.manual_seed(0)


def same(a: Tensor, b: Tensor) -> bool:
    return a.spec is b.spec and np.array_equal(a.numpy(), b.numpy())


# -- seed and state -----------------------------------------------------------------------------------------------------


@draws
def test_same_seed_gives_the_same_numbers(draw: Draw) -> None:
    a, b = Generator(5), Generator(5)
    assert same(draw(a), draw(b))
    assert same(draw(a), draw(b))


@draws
def test_other_seed_gives_other_numbers(draw: Draw) -> None:
    assert not same(draw(Generator(5)), draw(Generator(6)))


@draws
def test_next_draw_gives_other_numbers(draw: Draw) -> None:
    r = Generator(5)
    assert not same(draw(r), draw(r))


@draws
def test_restored_state_repeats_the_numbers(draw: Draw) -> None:
    r = Generator(5)
    r.uniform(10)
    state = r.state.data
    first = draw(r)
    r.state.data = state
    assert same(draw(r), first)


@draws
def test_numbers_are_those_of_the_state_alone(draw: Draw) -> None:
    r, other = Generator(5), Generator(99)
    r.normal(3)
    other.state.data = Tensor(r.state.tolist())
    assert same(draw(r), draw(other))


def test_state_is_the_seed_and_the_number_of_draws() -> None:
    r = Generator(2**40 + 1)
    for draw in DRAWS.values():
        draw(r)
    assert r.state.dtype is ndl.int64
    assert r.state.tolist() == [2**40 + 1, len(DRAWS)]


def test_seed_starts_anew() -> None:
    r = Generator(5)
    first = r.uniform(4)
    r.seed(5)
    assert same(r.uniform(4), first)


def test_size_of_a_draw_does_not_change_the_next() -> None:
    a, b = Generator(5), Generator(5)
    a.uniform(3)
    b.uniform(300)
    assert same(a.uniform(4), b.uniform(4))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))], ids=["deepcopy", "pickle"])
def test_copy_goes_on_alike_and_on_its_own(duplicate: Callable[[Generator], Generator]) -> None:
    r = Generator(5)
    r.uniform(4)
    other = duplicate(r)
    first = r.uniform(4)
    assert same(other.uniform(4), first)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seed_out_of_range_is_refused(seed: int) -> None:
    for start in (Generator, Generator().seed, ndl.manual_seed):
        with pytest.raises(ArgumentError) as caught:
            start(seed)
        assert str(caught.value) == f"a seed is an integer in [0, 2^63), not {seed}"


def test_seed_may_be_a_numpy_integer() -> None:
    assert Generator(np.int64(3)).state.tolist() == [3, 0]


@pytest.mark.parametrize("seed", [1.5, "1", None, True])
def test_seed_of_another_kind_is_refused(seed: Any) -> None:
    with pytest.raises(ArgumentError) as caught:
        Generator(seed)
    assert str(caught.value) == f"a seed is an integer in [0, 2^63), not {seed!r}"


# -- default generators ---------------------------------------------------------------------------------------------------


def test_default_generator_is_one_for_each_device() -> None:
    assert default_generator() is default_generator(HERE)
    assert default_generator().device is HERE


@pytest.mark.usefixtures("seeded")
def test_manual_seed_starts_default_generators_anew() -> None:
    ndl.manual_seed(7)
    first = default_generator().uniform(4)
    default_generator().uniform(4)
    ndl.manual_seed(7)
    assert same(default_generator().uniform(4), first)


def test_default_generator_is_independent_of_a_generator_with_its_seed() -> None:
    ndl.manual_seed(7)
    assert not same(default_generator().uniform(4), Generator(7).uniform(4))


@pytest.mark.usefixtures("seeded")
def test_manual_seed_leaves_other_generators_alone() -> None:
    r = Generator(5)
    ndl.manual_seed(7)
    assert r.state.tolist() == [5, 0]


# -- distributions: n draws agree with their moments to 5 standard deviations ---------------------------------------------

N = 20_000


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64"])
def test_uniform_lies_between_its_bounds(name: str) -> None:
    x = Generator(1).uniform(N, low=-2.0, high=3.0, dtype=name)
    values = x.numpy().astype(np.float64)
    assert x.dtype.name == name
    assert values.min() >= -2
    assert values.max() <= 3  # a number near the end may be rounded to it
    assert abs(values.mean() - 0.5) < 5 * 5 / math.sqrt(12 * N) + 0.01


def test_uniform_never_reaches_one() -> None:
    x = Generator(1).uniform(N).numpy()
    assert (x.min() >= 0, x.max() < 1) == (True, True)


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64"])
def test_normal_has_the_mean_and_deviation_asked_for(name: str) -> None:
    x = Generator(1).normal(N, mean=1.0, std=2.0, dtype=name)
    values = x.numpy().astype(np.float64)
    assert x.dtype.name == name
    assert abs(values.mean() - 1) < 5 * 2 / math.sqrt(N) + 0.01
    assert abs(values.std() - 2) < 5 * 2 / math.sqrt(2 * N) + 0.01


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_bernoulli_is_true_with_its_probability(p: float) -> None:
    x = Generator(1).bernoulli(N, p=p)
    assert x.dtype is ndl.bool_
    assert abs(x.numpy().mean() - p) < 5 * math.sqrt(p * (1 - p) / N)


@pytest.mark.parametrize(("p", "expected"), [(0, False), (1, True)])
def test_bernoulli_of_certainty_is_certain(p: float, expected: bool) -> None:
    assert set(Generator(1).bernoulli(1000, p=p).tolist()) == {expected}


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_bernoulli_refuses_what_is_no_probability(p: float) -> None:
    with pytest.raises(ArgumentError) as caught:
        Generator().bernoulli(3, p=p)
    assert str(caught.value) == f"bernoulli: p is a probability, not {p}"


@pytest.mark.parametrize(("low", "high"), [(0, 7), (-3, 4), (10**12, 10**12 + 5)])
def test_integers_are_uniform_over_their_range(low: int, high: int) -> None:
    values = Generator(1).integers(low, high, N).numpy()
    found, counts = np.unique(values, return_counts=True)
    expected = N / (high - low)
    assert found.tolist() == list(range(low, high))
    assert np.abs(counts - expected).max() < 5 * math.sqrt(expected)


def test_integers_of_the_widest_range_fill_it() -> None:
    values = Generator(1).integers(-(2**31), 2**31, N).numpy()
    assert values.min() < -(2**31) + 2**32 // 100
    assert values.max() > 2**31 - 2**32 // 100
    assert (values >= -(2**31)).all()
    assert (values < 2**31).all()


@pytest.mark.parametrize(("low", "high"), [(3, 3), (4, 3), (0, 2**32 + 1)])
def test_integers_refuse_an_empty_or_too_large_range(low: int, high: int) -> None:
    with pytest.raises(ArgumentError) as caught:
        Generator().integers(low, high, 2)
    assert str(caught.value) == f"integers: the range [{low}, {high}) is empty or larger than 2^32"


@pytest.mark.parametrize("bound", [0.5, "1", None])
def test_integers_refuse_bounds_that_are_no_integers(bound: Any) -> None:
    for name, bounds in {"low": (bound, 3), "high": (0, bound)}.items():
        with pytest.raises(ArgumentError) as caught:
            Generator().integers(*bounds)
        assert str(caught.value) == f"{name} is an integer, not {bound!r}"


@pytest.mark.parametrize("n", [0, 1, 2, 1000])
def test_permutation_holds_every_integer_once(n: int) -> None:
    x = Generator(1).permutation(n)
    assert x.dtype is ndl.int64
    assert sorted(x.tolist()) == list(range(n))


def test_permutations_of_three_are_equally_frequent() -> None:
    r, n = Generator(1), 1200
    orders = [tuple(r.permutation(3).tolist()) for _ in range(n)]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 6
    assert max(abs(c - n / 6) for c in counts) < 5 * math.sqrt(n / 6)


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (2, 3)])
def test_draws_have_the_shape_asked_for(shape: tuple[int, ...]) -> None:
    r = Generator(1)
    drawn = [r.bits(*shape), r.uniform(*shape), r.normal(*shape), r.bernoulli(*shape, p=0.5), r.integers(0, 9, *shape)]
    assert [x.shape for x in drawn] == [shape] * 5


@pytest.mark.parametrize("name", ["int64", "uint8", "bool"])
def test_floats_in_another_dtype_are_refused(name: str) -> None:
    for draw in (Generator().uniform, Generator().normal):
        with pytest.raises(DtypeError, match=f", not {name}$"):
            draw(3, dtype=name)
