"""Dtypes, devices and Specs, of which there is one object each."""

from __future__ import annotations

import copy
import gc
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, strategies as st

import needle_core as ndl
from needle_core import Tensor
from needle_core.errors import DtypeError, ShapeError
from needle_core.spec import DTYPES, DType, Spec, dtype

NUMPY = {name: np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name) for name in DTYPES}
DEVICE = ndl.device("numpy")

# -- dtypes -------------------------------------------------------------------------------------------------------------


def test_dtypes_are_those_of_the_design() -> None:
    assert list(DTYPES) == ["bool", "uint8", "int32", "int64", "float16", "bfloat16", "float32", "float64"]


@pytest.mark.parametrize("name", DTYPES)
def test_dtype_agrees_with_numpy(name: str) -> None:
    d = DTYPES[name]
    assert (d.numpy, d.itemsize) == (NUMPY[name], NUMPY[name].itemsize)
    assert (d.name, str(d), repr(d)) == (name, name, name)
    kind = "f" if name == "bfloat16" else NUMPY[name].kind
    assert d.kind == {"b": "bool", "u": "uint", "i": "int", "f": "float"}[kind]
    assert (d.is_floating, d.is_integer) == (kind == "f", kind in "iu")


@pytest.mark.parametrize(
    ("like", "expected"),
    [
        (ndl.float32, "float32"),
        ("float16", "float16"),
        ("bfloat16", "bfloat16"),
        (np.float64, "float64"),
        (np.dtype("int32"), "int32"),
        (np.dtype(">i4"), "int32"),
        (ml_dtypes.bfloat16, "bfloat16"),
        (bool, "bool"),
        (int, "int64"),
        (float, "float32"),
    ],
)
def test_dtype_is_found_by_whatever_names_it(like: Any, expected: str) -> None:
    assert dtype(like) is DTYPES[expected]


@pytest.mark.parametrize(
    ("like", "shown"),
    [("int16", "'int16'"), ("float", "'float'"), (np.complex64, "<class 'numpy.complex64'>"), (str, "<class 'str'>"), (3, "3")],
)
def test_unknown_dtype_is_refused_with_the_known_ones(like: Any, shown: str) -> None:
    with pytest.raises(DtypeError) as caught:
        dtype(like)
    known = "bool, uint8, int32, int64, float16, bfloat16, float32, float64"
    assert str(caught.value) == f"no dtype {shown}\n  dtypes: {known}"


@pytest.mark.parametrize("d", DTYPES.values(), ids=str)
def test_dtype_stays_one_object_in_copies(d: DType) -> None:
    assert pickle.loads(pickle.dumps(d)) is d
    assert copy.deepcopy(d) is d


# -- promotion, of which test_promotion.py has more ---------------------------------------------------------------------

ABOVE = {  # the promotion lattice, each dtype with the next greater ones; a meeting is the least upper bound
    "bool": ["uint8"],
    "uint8": ["int32"],
    "int32": ["int64"],
    "int64": ["float16", "bfloat16"],
    "float16": ["float32"],
    "bfloat16": ["float32"],
    "float32": ["float64"],
    "float64": [],
}


def upper_bounds(name: str) -> set[str]:
    return {name}.union(*(upper_bounds(n) for n in ABOVE[name]))


@given(st.lists(st.sampled_from(list(DTYPES.values())), min_size=1, max_size=5))
def test_promote_gives_the_least_upper_bound(found: list[DType]) -> None:
    common = set.intersection(*(upper_bounds(d.name) for d in found))
    (least,) = (name for name in common if common <= upper_bounds(name))
    assert ndl.promote(*found) is DTYPES[least]


# -- devices --------------------------------------------------------------------------------------------------------------


def test_device_shows_its_name() -> None:
    assert (str(DEVICE), repr(DEVICE)) == ("numpy", "device('numpy')")


def test_device_stays_one_object_in_copies() -> None:
    assert pickle.loads(pickle.dumps(DEVICE)) is DEVICE
    assert copy.deepcopy(DEVICE) is DEVICE


# -- specs ----------------------------------------------------------------------------------------------------------------


def test_spec_is_one_object_for_each_shape_dtype_and_device() -> None:
    spec = Spec.of((2, 3), ndl.float32, DEVICE)
    assert Spec.of([2, 3], ndl.float32, DEVICE) is spec
    assert Spec.of((3, 2), ndl.float32, DEVICE) is not spec
    assert Spec.of((2, 3), ndl.float64, DEVICE) is not spec


def test_spec_is_one_object_among_threads() -> None:
    with ThreadPoolExecutor(8) as pool:
        for n in range(50):
            specs = list(pool.map(lambda _, n=n: Spec.of((17, 19, n), ndl.float32, DEVICE), range(8)))
            assert all(s is specs[0] for s in specs)


def test_spec_that_nobody_uses_is_forgotten() -> None:
    from needle_core import spec

    before = len(spec._specs)
    specs = [Spec.of((23, 29, n), ndl.float32, DEVICE) for n in range(100)]
    assert len(spec._specs) == before + 100
    del specs
    gc.collect()
    assert len(spec._specs) <= before


@pytest.mark.parametrize(
    ("shape", "name", "text"),
    [
        ((32, 784), "float32", "float32[32, 784] on numpy"),
        ((), "bool", "bool[] on numpy"),
        ((0,), "bfloat16", "bfloat16[0] on numpy"),
    ],
)
def test_spec_prints_dtype_shape_and_device(shape: tuple[int, ...], name: str, text: str) -> None:
    assert repr(Spec.of(shape, DTYPES[name], DEVICE)) == text


@pytest.mark.parametrize(("shape", "size"), [((), 1), ((5,), 5), ((2, 3, 4), 24), ((2, 0, 4), 0)])
def test_spec_counts_axes_elements_and_bytes(shape: tuple[int, ...], size: int) -> None:
    spec = Spec.of(shape, ndl.float64, DEVICE)
    assert (spec.ndim, spec.size, spec.nbytes) == (len(shape), size, 8 * size)


def test_spec_like_another_changes_only_what_is_said() -> None:
    spec = Spec.of((2, 3), ndl.float32, DEVICE)
    assert spec.like() is spec
    assert spec.like(shape=()) is Spec.of((), ndl.float32, DEVICE)
    assert spec.like(dtype=ndl.int64) is Spec.of((2, 3), ndl.int64, DEVICE)


def test_spec_stays_one_object_in_copies() -> None:
    spec = Spec.of((2, 3), ndl.float32, DEVICE)
    assert pickle.loads(pickle.dumps(spec)) is spec
    assert copy.deepcopy(spec) is spec


@pytest.mark.parametrize("size", [7919.0, np.float64(7919), "7919"])
def test_shape_of_other_than_integers_does_not_enter_the_table(size: Any) -> None:
    device = ndl.default_device()
    with pytest.raises(ShapeError, match="a shape consists of integers"):
        Spec.of((size,), ndl.float32, device)
    assert Spec.of((np.int64(7919),), ndl.float32, device).shape == (7919,)
    assert type(Spec.of((7919,), ndl.float32, device).shape[0]) is int


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((1,) * 65, "a tensor has at most 64 axes, not 65"),
        ((2**55,), "is too large for the memory of any machine"),
        ((2**40, 2**40), "is too large for the memory of any machine"),
        ((0, 2**40, 2**40), "is too large for the memory of any machine"),  # NumPy refuses it as well
        ((2**200,), "is too large for the memory of any machine"),
    ],
)
def test_shapes_that_no_machine_can_hold_are_refused(shape: tuple[int, ...], said: str) -> None:
    with pytest.raises(ShapeError, match=said):
        Spec.of(shape, dtype("float32"), DEVICE)
    assert Spec.of((2**54,), dtype("float32"), DEVICE).nbytes == 2**56
    assert Spec.of((1,) * 64, dtype("float32"), DEVICE).ndim == 64


def test_threads_make_one_spec_of_a_shape() -> None:
    device, interval = ndl.default_device(), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            made = [list(pool.map(lambda _, n=n: Spec.of((n, 104_729), ndl.float32, device), range(4))) for n in range(300)]
    finally:
        sys.setswitchinterval(interval)
    assert all(spec is specs[0] for specs in made for spec in specs)


def test_dtypes_and_devices_equal_their_names() -> None:
    x = Tensor([1.0])
    assert x.dtype == "float32" == x.dtype
    assert x.dtype == np.float32
    assert x.dtype != np.float64
    assert np.zeros(1, x.dtype).dtype == np.float32
    assert x.device == str(x.device)
