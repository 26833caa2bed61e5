"""Ranges, constants and random numbers."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core.errors import ArgumentError, ShapeError
from needle_core.op import OPS
from needle_core.testing.create import philox, words

# Counter, key and output, from the file kat_vectors of Random123 1.09 (D. E. Shaw Research): philox4x32 with 10 rounds.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def state(seed: int, position: int) -> ndl.Tensor:
    return ndl.Tensor([seed, position], dtype="int64")


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_scalar_philox_gives_the_published_words(counter: Any, key: Any, expected: Any) -> None:
    assert philox(counter, key) == expected


def test_random_bits_of_seed_and_position_zero_are_the_published_words() -> None:
    assert tuple(ndl.random_bits(state(0, 0), shape=4).tolist()) == KNOWN[0][2]


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 0x299F31D0_A4093822, 2**63 - 1])
@pytest.mark.parametrize("position", [0, 1, 2**32 + 5, 0x03707344_13198A2E])
@pytest.mark.parametrize("n", [1, 3, 4, 5, 30])
def test_random_bits_are_the_words_of_scalar_philox(seed: int, position: int, n: int) -> None:
    s = state(seed, position)
    assert ndl.random_bits(s, shape=n).tolist() == words(s.numpy(), n)


def test_random_bits_do_not_depend_on_the_shape() -> None:
    flat = ndl.random_bits(state(3, 4), shape=24).numpy()
    np.testing.assert_array_equal(ndl.random_bits(state(3, 4), shape=(2, 3, 4)).numpy(), flat.reshape(2, 3, 4))
    np.testing.assert_array_equal(ndl.random_bits(state(3, 4), shape=7).numpy(), flat[:7])


@pytest.mark.parametrize("dtype", [ndl.float32, ndl.float64])
@pytest.mark.parametrize("name", ["random_uniform", "random_normal"])
@pytest.mark.parametrize("shape", [(), (5,), (100, 101), (0, 3)])
def test_kernel_and_body_agree_bit_for_bit(name: str, dtype: ndl.DType, shape: tuple[int, ...]) -> None:
    op, s = OPS[name], state(2**40 + 7, 11)
    assert op.body is not None
    assert op(s, shape=shape, dtype=dtype).numpy().tobytes() == op.body(s, shape=shape, dtype=dtype).numpy().tobytes()


def test_uniform_numbers_are_the_upper_bits_of_the_words() -> None:
    w = words(state(5, 6).numpy(), 20)
    assert ndl.random_uniform(state(5, 6), shape=20).tolist() == [(v >> 8) * 2.0**-24 for v in w]
    wide = [((a >> 5) * 2**26 + (b >> 6)) * 2.0**-53 for a, b in zip(w[::2], w[1::2], strict=True)]
    assert ndl.random_uniform(state(5, 6), shape=10, dtype="float64").tolist() == wide


def test_normal_numbers_are_the_inverse_distribution_function_of_uniform_ones() -> None:
    p = ndl.random_uniform(state(1, 2), shape=20_000, dtype="float64").tolist()
    expected = [NormalDist().inv_cdf(v) for v in p]
    y = ndl.random_normal(state(1, 2), shape=20_000, dtype="float64").numpy()
    np.testing.assert_allclose(y, expected, rtol=2e-14, atol=1e-15)
    np.testing.assert_array_equal(ndl.random_normal(state(1, 2), shape=20_000).numpy(), y.astype(np.float32))


def test_normal_numbers_have_the_moments_of_the_distribution() -> None:
    y = ndl.random_normal(state(9, 0), shape=100_000, dtype="float64").numpy()
    assert abs(y.mean()) < 4 / math.sqrt(1e5)
    assert abs(y.var() - 1) < 4 * math.sqrt(2 / 1e5)
    assert abs((y**3).mean()) < 4 * math.sqrt(15 / 1e5)
    assert abs((y**4).mean() - 3) < 4 * math.sqrt(96 / 1e5)


def test_random_numbers_have_no_gradient() -> None:
    assert not ndl.random_uniform(state(0, 0), shape=3).requires_grad


@pytest.mark.parametrize(
    "args",
    [(0,), (5,), (-3,), (2, 7), (7, 2), (2, 7, 2), (7, 2, -2), (0, 10, 3), (5, 5), (0, 1, 0.25), (1, 0, -0.3), (0.5, 3), (2.5,),
     (-1, 1, 0.1)],
    ids=str,
)  # fmt: skip
def test_arange_is_numpys(args: tuple[float, ...]) -> None:
    expected, found = np.arange(*args), ndl.arange(*args)
    assert found.dtype is (ndl.int64 if expected.dtype.kind == "i" else ndl.float32)
    np.testing.assert_allclose(found.numpy(), expected.astype(found.numpy().dtype), rtol=1e-6, atol=1e-7)


def test_arange_refuses_a_step_of_zero_and_takes_a_dtype() -> None:
    with pytest.raises(ArgumentError, match="the step is zero"):
        ndl.arange(0, 3, 0)
    assert ndl.arange(3, dtype="float64").dtype is ndl.float64


@pytest.mark.parametrize("args", [(0, 1, 5), (2, 2, 3), (0, 1, 1), (0, 1, 0), (5, -5, 11), (0.1, 0.7, 7)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_linspace_is_numpys_and_ends_exactly(args: tuple[float, float, int], dtype: str) -> None:
    found = ndl.linspace(*args, dtype=dtype).numpy()
    np.testing.assert_allclose(found, np.linspace(*args, dtype=dtype), rtol=1e-6 if dtype == "float32" else 1e-14, atol=1e-15)
    if args[2] > 1:
        assert found[-1] == np.array(args[1], dtype)


@pytest.mark.parametrize("n", [0, 1, 3])
@pytest.mark.parametrize("m", [None, 0, 2, 4])
@pytest.mark.parametrize("k", [-2, 0, 1, 5])
def test_eye_is_numpys(n: int, m: int | None, k: int) -> None:
    np.testing.assert_array_equal(ndl.eye(n, m, k=k).numpy(), np.eye(n, m, k, dtype=np.float32))


@pytest.mark.parametrize("indexing", ["xy", "ij"])
@pytest.mark.parametrize("sizes", [(3,), (2, 3), (2, 3, 4), (2, 0)])
def test_meshgrid_is_numpys(indexing: Any, sizes: tuple[int, ...]) -> None:
    arrays = [np.arange(n) + 10.0 * i for i, n in enumerate(sizes)]
    found = ndl.meshgrid(*map(ndl.Tensor, arrays), indexing=indexing)
    for y, expected in zip(found, np.meshgrid(*arrays, indexing=indexing), strict=True):
        np.testing.assert_array_equal(y.numpy(), expected)


@pytest.mark.parametrize("shape", [(), 3, (2, 3), [2, 0]])
def test_constants(shape: Any) -> None:
    np.testing.assert_array_equal(ndl.zeros(shape).numpy(), np.zeros(shape, np.float32))
    np.testing.assert_array_equal(ndl.ones(shape, dtype="int32").numpy(), np.ones(shape, np.int32))
    np.testing.assert_array_equal(ndl.full(shape, 7).numpy(), np.full(shape, 7, np.int64))
    np.testing.assert_array_equal(ndl.full(shape, 0.5).numpy(), np.full(shape, 0.5, np.float32))
    np.testing.assert_array_equal(ndl.full(shape, True).numpy(), np.full(shape, True))


def test_constants_like_a_tensor_take_its_dtype() -> None:
    x = ndl.Tensor([[1, 2]], dtype="int32")
    assert (ndl.zeros_like(x).dtype, ndl.ones_like(x).shape) == (ndl.int32, (1, 2))
    assert ndl.full_like(x, 3, dtype="float16").dtype is ndl.float16


def test_negative_sizes_are_refused() -> None:
    with pytest.raises(ShapeError, match="negative size"):
        ndl.zeros((2, -1))
    with pytest.raises(ShapeError, match="negative size"):
        ndl.eye(-1)
    with pytest.raises(ArgumentError, match="num is -1"):
        ndl.linspace(0, 1, -1)


def test_one_hot_takes_a_dtype_and_leaves_foreign_classes_zero() -> None:
    y = ndl.one_hot(ndl.Tensor([0, 2, 3, -1]), num_classes=3, dtype="int32")
    assert y.dtype is ndl.int32
    assert y.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("f", [ndl.tril, ndl.triu])
def test_triangles_drop_nan_outside_and_keep_the_dtype(f: Any) -> None:
    x = np.full((2, 2), np.nan)
    assert np.isnan(f(ndl.Tensor(x)).numpy()).sum() == 3
    for dtype in ("bool", "uint8", "float16"):
        assert f(ndl.ones((2, 2), dtype=dtype)).dtype.name == dtype
