"""Products through cuBLASLt's interface, computed by the library that stands in for it on the CPU."""

from __future__ import annotations

import ctypes
import gc
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (np.dtype("bfloat16"))
import numpy as np
import pytest

import needle_cuda_backend
from needle_core.errors import KernelError
from needle_core.spec import DType, bfloat16, float16, float32, float64
from needle_cuda_backend.cublaslt import Choice, CublasLt, Matrices, fastest, products

SOURCE = Path(next(iter(needle_cuda_backend.__path__))) / "simulated" / "cublaslt.cpp"
WORKSPACE = 1 << 20
UNIT = {float16: 2.0**-11, bfloat16: 2.0**-8, float32: 2.0**-24, float64: 2.0**-53}  # half of the last place
PLAIN = Matrices(float32, float32, 4, 6, 8, False, False, lda=8, ldb=6, ldy=6)

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(shutil.which("g++") is None, reason="the stand-in is compiled by g++"),
]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("cublaslt") / "libcublasLt.so"
    flags = ["-std=c++17", "-O3", "-march=native", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run(["g++", *flags, str(SOURCE), "-o", str(made)], check=True)
    return made


@pytest.fixture
def library(built: Path) -> ctypes.CDLL:
    found = ctypes.CDLL(str(built))
    found.needle_last_call.restype = ctypes.c_char_p
    return found


@pytest.fixture
def lt(library: ctypes.CDLL) -> Iterator[CublasLt]:
    made = CublasLt(library)
    yield made
    made.close()


def aligned(values: Any, dtype: DType, alignment: int = 256) -> np.ndarray:
    """A copy whose address is a multiple of `alignment` and not of twice that."""
    with np.errstate(all="ignore"):
        values = np.asarray(values).astype(dtype.numpy)
    memory = np.zeros(values.nbytes + 2 * alignment, np.uint8)
    start = -memory.ctypes.data % alignment
    start += alignment * ((memory.ctypes.data + start) // alignment % 2 == 0)
    array = memory[start : start + values.nbytes].view(dtype.numpy).reshape(values.shape)
    array[...] = values
    return array


MEMORY = aligned(np.zeros(2048), float64)
SOMEWHERE = MEMORY.ctypes.data


def draw(shape: tuple[int, ...], dtype: DType, seed: int = 0) -> np.ndarray:
    return aligned(np.random.default_rng([seed, *shape]).normal(size=shape), dtype)


def run(lt: CublasLt, choice: Choice, a: np.ndarray, b: np.ndarray, bias: np.ndarray | None, y: np.ndarray) -> None:
    workspace = aligned(np.zeros(WORKSPACE // 8), float64)
    there = 0 if bias is None else bias.ctypes.data
    lt.run(choice, a.ctypes.data, b.ctypes.data, there, y.ctypes.data, workspace.ctypes.data, WORKSPACE, 0)


def matmul(lt: CublasLt, a: np.ndarray, b: np.ndarray, out: DType, bias: np.ndarray | None = None, **attrs: Any) -> np.ndarray:
    """The product, with every choice of an algorithm in turn; all give the same."""
    work = products(a.shape, b.shape, dtype=DTYPES[a.dtype], out=out, bias=bias is not None, **attrs)
    left, right = (np.swapaxes(x, -1, -2) if attrs.get(f"transpose_{n}") else x for n, x in (("a", a), ("b", b)))
    shape = (*np.broadcast_shapes(left.shape[:-2], right.shape[:-2]), left.shape[-2], right.shape[-1])
    results = []
    for number in range(3):
        y = aligned(np.full(shape, np.nan), out)
        for matrices, *offsets in work:
            choice = lt.prepare(matrices, WORKSPACE)[number]
            members = (x.reshape(-1)[offset:] for x, offset in zip((a, b, y), offsets, strict=True))
            run(lt, choice, next(members), next(members), bias, next(members))
        results.append(y)
    assert all(np.array_equal(y.view(np.uint8), results[0].view(np.uint8)) for y in results)
    return results[0]


DTYPES = {d.numpy: d for d in UNIT}
LAST_AXES = [(1, 1, 1), (3, 5, 7), (17, 33, 65), (1, 40, 9), (40, 1, 9), (100, 500, 300), (300, 17, 260)]
BATCHES = [
    ((), ()), ((4,), (4,)), ((4,), ()), ((), (4,)), ((1,), (4,)), ((2, 3), (2, 3)), ((2, 3), (3,)), ((2, 3), (2, 1)),
    ((2, 1, 3), (1, 4, 1)), ((3, 1, 2), (3, 4, 2)), ((1, 1), (1, 1)), ((2, 3, 2), (3, 1)),
]  # fmt: skip


def close(y: np.ndarray, a: np.ndarray, b: np.ndarray, out: DType, bias: np.ndarray | None = None) -> None:
    """y is a @ b + bias up to the bound of sums of k products in the type of the accumulator, rounded to `out`."""
    wide = [np.asarray(x, np.float64) for x in (a, b, 0 if bias is None else bias)]
    expected = wide[0] @ wide[1] + wide[2]
    unit = UNIT[float64] if out is float64 else UNIT[float32]
    bound = (a.shape[-1] + 2) * unit * (abs(wide[0]) @ abs(wide[1]) + abs(wide[2])) + UNIT[out] * abs(expected) + 2.0**-25
    assert y.shape == expected.shape
    assert (abs(np.asarray(y, np.float64) - expected) <= bound).all()


# -- numbers ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("dtype", UNIT, ids=str)
@pytest.mark.parametrize("sizes", LAST_AXES, ids=str)
def test_products_are_those_of_numpy(
    lt: CublasLt, sizes: tuple[int, int, int], dtype: DType, transpose_a: bool, transpose_b: bool
) -> None:
    m, n, k = sizes
    a = draw((k, m) if transpose_a else (m, k), dtype)
    b = draw((n, k) if transpose_b else (k, n), dtype, 1)
    y = matmul(lt, a, b, dtype, transpose_a=transpose_a, transpose_b=transpose_b)
    close(y, a.T if transpose_a else a, b.T if transpose_b else b, dtype)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("batches", BATCHES, ids=str)
def test_batches_broadcast(
    lt: CublasLt, batches: tuple[tuple[int, ...], tuple[int, ...]], transpose_a: bool, transpose_b: bool, biased: bool
) -> None:
    m, n, k = 5, 3, 7
    a = draw((*batches[0], k, m) if transpose_a else (*batches[0], m, k), float32)
    b = draw((*batches[1], n, k) if transpose_b else (*batches[1], k, n), float32, 1)
    bias = draw((n,), float32, 2) if biased else None
    y = matmul(lt, a, b, float32, bias, transpose_a=transpose_a, transpose_b=transpose_b)
    close(y, np.swapaxes(a, -1, -2) if transpose_a else a, np.swapaxes(b, -1, -2) if transpose_b else b, float32, bias)


@pytest.mark.parametrize("dtype", UNIT, ids=str)
def test_a_bias_is_added_before_rounding(lt: CublasLt, dtype: DType) -> None:
    a, b, bias = draw((33, 20), dtype), draw((20, 18), dtype, 1), draw((18,), dtype, 2)
    close(matmul(lt, a, b, dtype, bias), a, b, dtype, bias)


def test_a_bias_may_change_its_address(lt: CublasLt) -> None:
    a, b, y = draw((4, 8), float32), draw((8, 6), float32, 1), aligned(np.zeros((4, 6)), float32)
    choice = lt.prepare(PLAIN._replace(bias=True), WORKSPACE)[0]
    for bias in (aligned(np.ones(6), float32), aligned(np.arange(6), float32)):
        run(lt, choice, a, b, bias, y)
        close(y, a, b, float32, bias)


@pytest.mark.parametrize("dtype", [float16, bfloat16], ids=str)
def test_half_precision_can_give_the_sums_unrounded(lt: CublasLt, dtype: DType) -> None:
    a, b, bias = draw((9, 50), dtype), draw((50, 70), dtype, 1), draw((70,), float32, 2)
    close(matmul(lt, a, b, float32, bias), a, b, float32, bias)


def test_tf32_rounds_the_factors_and_only_on_request(lt: CublasLt) -> None:
    a, b = draw((5, 1), float32), draw((1, 6), float32, 1)
    exact = matmul(lt, a, b, float32)
    np.testing.assert_array_equal(exact, a * b)
    reduced = matmul(lt, a, b, float32, tf32=True)
    error = abs(reduced.astype(np.float64) / (a.astype(np.float64) * b) - 1)
    assert 2.0**-20 < error.max() < 2.0**-10
    np.testing.assert_array_equal(matmul(lt, reduced_to_tf32(a), reduced_to_tf32(b), float32), reduced)


def reduced_to_tf32(x: np.ndarray) -> np.ndarray:
    """x with ten bits after the point, to the nearest of them."""
    fraction, exponent = np.frexp(x.astype(np.float64))
    return aligned(np.ldexp(np.rint(fraction * 2**11), exponent - 11), float32)


@pytest.mark.parametrize("dtype", [float16, bfloat16], ids=str)
def test_every_half_number_is_read_and_written(lt: CublasLt, dtype: DType) -> None:
    a = np.arange(2**16, dtype=np.uint16).view(dtype.numpy).reshape(-1, 1)
    y = matmul(lt, aligned(a, dtype), aligned([[1]], dtype), dtype)
    with np.errstate(invalid="ignore"):  # there are NaNs that signal
        np.testing.assert_array_equal(y.astype(np.float64), a.astype(np.float64))


@pytest.mark.parametrize("dtype", [float16, bfloat16], ids=str)
def test_sums_are_rounded_to_the_nearest_half_number(lt: CublasLt, dtype: DType) -> None:
    rng = np.random.default_rng(0)
    a = aligned(np.stack([rng.normal(size=5000) * 2.0 ** rng.integers(-30, 17, 5000), rng.normal(size=5000)], axis=1), dtype)
    b = aligned([[1.0], [1.0]], dtype)
    with np.errstate(over="ignore"):
        expected = (a[:, :1].astype(np.float32) + a[:, 1:].astype(np.float32)).astype(dtype.numpy)
    np.testing.assert_array_equal(matmul(lt, a, b, dtype).view(np.uint16), expected.view(np.uint16))


def test_rows_may_be_further_apart_than_they_are_long(lt: CublasLt) -> None:
    a, b = draw((4, 10), float32), draw((8, 16), float32, 1)
    y = aligned(np.full((4, 7), 9), float32)
    run(lt, lt.prepare(PLAIN._replace(lda=10, ldb=16, ldy=7), WORKSPACE)[0], a, b, None, y)
    close(y[:, :6], a[:, :8], b[:, :6], float32)
    assert (y[:, 6] == 9).all()


# -- which products ---------------------------------------------------------------------------------------------------------


def work(a: tuple[int, ...], b: tuple[int, ...], **attrs: Any) -> list[tuple[Matrices, int, int, int]]:
    return products(a, b, dtype=float32, out=float32, **attrs)


@pytest.mark.parametrize("empty", [((0, 3), (3, 4)), ((2, 3), (3, 0)), ((2, 0), (0, 4)), ((0, 2, 3), (3, 4))], ids=str)
def test_empty_results_and_empty_sums_are_no_products(empty: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    assert work(*empty) == []


def test_a_matrix_that_all_share_makes_one_tall_product() -> None:
    ((matrices, *offsets),) = work((2, 3, 5, 7), (7, 4))
    assert (matrices.m, matrices.batch, matrices.lda, matrices.ldy, offsets) == (30, 1, 7, 4, [0, 0, 0])


def test_inner_axes_that_share_a_matrix_are_rows_of_a_batch() -> None:
    ((matrices, *_),) = work((2, 3, 5, 7), (2, 1, 7, 4))
    assert (matrices.m, matrices.batch, matrices.stride_a, matrices.stride_b, matrices.stride_y) == (15, 2, 105, 28, 60)


def test_all_axes_of_a_contiguous_batch_are_one() -> None:
    ((matrices, *_),) = work((2, 3, 5, 7), (2, 3, 7, 4))
    assert (matrices.m, matrices.batch, matrices.stride_a, matrices.stride_b, matrices.stride_y) == (5, 6, 35, 28, 20)


def test_a_shared_left_factor_has_stride_zero() -> None:
    ((matrices, *_),) = work((5, 7), (6, 7, 4))
    assert (matrices.batch, matrices.stride_a, matrices.stride_b) == (6, 0, 28)


def test_axes_that_are_broadcast_apart_are_looped_over() -> None:
    parts = work((2, 1, 5, 7), (3, 7, 4))
    assert [offsets for _, *offsets in parts] == [[0, 0, 0], [35, 0, 60]]
    assert {matrices for matrices, *_ in parts} == {parts[0][0]}
    assert (parts[0][0].batch, parts[0][0].stride_a, parts[0][0].stride_b, parts[0][0].stride_y) == (3, 0, 28, 20)


def test_offsets_tell_how_well_members_are_aligned() -> None:
    assert work((5, 7), (7, 4))[0][0].alignment == 256
    assert work((2, 1, 5, 7), (3, 7, 4))[0][0].alignment == 4
    assert work((2, 1, 4, 8), (3, 8, 4))[0][0].alignment == 64


def test_tf32_is_for_float32_alone() -> None:
    assert work((2, 3), (3, 4), tf32=True)[0][0].tf32
    assert not products((2, 3), (3, 4), dtype=bfloat16, out=bfloat16, tf32=True)[0][0].tf32


# -- what reaches the library -----------------------------------------------------------------------------------------------


def asked(lt: CublasLt, library: ctypes.CDLL, matrices: Matrices) -> dict[str, Any]:
    a, b, y = (aligned(np.zeros(2000), float64) for _ in range(3))
    bias = aligned(np.zeros(2000), float64) if matrices.bias else None
    run(lt, lt.prepare(matrices, WORKSPACE)[0], a, b, bias, y)
    said: dict[str, Any] = json.loads(library.needle_last_call())
    return said


def test_the_library_is_asked_for_the_transposed_product(lt: CublasLt, library: ctypes.CDLL) -> None:
    said = asked(lt, library, work((3, 5, 7), (3, 4, 7), transpose_b=True)[0][0])
    assert (said["transa"], said["transb"], said["epilogue"]) == (1, 0, 1)
    column_major = {"type": 0, "order": 0, "batch": 3}
    assert said["a"] == {"rows": 7, "columns": 4, "ld": 7, "stride": 28, **column_major}
    assert said["b"] == {"rows": 7, "columns": 5, "ld": 7, "stride": 35, **column_major}
    assert said["c"] == said["d"] == {"rows": 4, "columns": 5, "ld": 4, "stride": 20, **column_major}


@pytest.mark.parametrize(
    ("dtype", "out", "tf32", "expected"),
    [
        (float16, float16, False, (68, 0, 2, 2)),
        (bfloat16, bfloat16, False, (68, 0, 14, 14)),
        (bfloat16, float32, False, (68, 0, 14, 0)),
        (float32, float32, False, (68, 0, 0, 0)),
        (float32, float32, True, (77, 0, 0, 0)),
        (float64, float64, False, (70, 1, 1, 1)),
    ],
)
def test_dtypes_have_the_library_s_numbers(
    lt: CublasLt, library: ctypes.CDLL, dtype: DType, out: DType, tf32: bool, expected: tuple[int, ...]
) -> None:
    said = asked(lt, library, products((4, 8), (8, 16), dtype=dtype, out=out, bias=True, tf32=tf32)[0][0])
    assert (said["compute"], said["scale"], said["a"]["type"], said["d"]["type"]) == expected
    assert said["epilogue"] == 4


def test_partial_sums_stay_in_the_type_of_the_accumulator(lt: CublasLt, library: ctypes.CDLL) -> None:
    assert asked(lt, library, PLAIN)["schemes"] == 2


def test_algorithms_are_searched_for_the_alignment_there_is(lt: CublasLt, library: ctypes.CDLL) -> None:
    assert asked(lt, library, PLAIN._replace(alignment=16))["alignment"] == 16


@pytest.mark.parametrize(("workspace", "count"), [(0, 1), (4096, 2), (1 << 20, 3)])
def test_algorithms_need_no_more_workspace_than_there_is(lt: CublasLt, workspace: int, count: int) -> None:
    choices = lt.prepare(PLAIN, workspace)
    assert len(choices) == count
    assert max(choice.workspace_bytes for choice in choices) <= workspace


# -- errors -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"lda": 7}, "INVALID_VALUE"),
        ({"ldy": 5}, "INVALID_VALUE"),
        ({"k": 0}, "INVALID_VALUE"),
        ({"batch": 2}, "INVALID_VALUE"),
        ({"batch": 2, "stride_y": 23}, "INVALID_VALUE"),
        ({"out": float16}, "NOT_SUPPORTED"),
        ({"dtype": float64}, "NOT_SUPPORTED"),
    ],
    ids=str,
)
def test_what_the_library_refuses_is_named(lt: CublasLt, change: dict[str, Any], status: str) -> None:
    matrices = PLAIN._replace(**change)
    with pytest.raises(KernelError, match=f"cublasLtMatmulAlgoGetHeuristic: CUBLAS_STATUS_{status}") as caught:
        lt.prepare(matrices, WORKSPACE)
    assert caught.value.details == {"matrices": matrices}


@pytest.mark.parametrize("lent", [(0, 4096), (256, 4095), (128, 4096)], ids=["none", "small", "misaligned"])
def test_a_workspace_that_is_not_enough_is_an_error(lt: CublasLt, lent: tuple[int, int]) -> None:
    choice = lt.prepare(PLAIN, 4096)[1]
    address = 0 if lent[0] == 0 else SOMEWHERE + lent[0]
    with pytest.raises(KernelError, match="cublasLtMatmul: CUBLAS_STATUS_INVALID_VALUE"):
        lt.run(choice, SOMEWHERE, SOMEWHERE, 0, SOMEWHERE, address, lent[1], 0)


@pytest.mark.parametrize("operand", range(4))
def test_a_misaligned_operand_is_an_error_before_the_kernel_faults(lt: CublasLt, operand: int) -> None:
    choice = lt.prepare(PLAIN._replace(bias=True, alignment=32), 0)[0]
    a, b, bias, y = (SOMEWHERE + (16 if i == operand else 0) for i in range(4))
    with pytest.raises(KernelError, match="not what the algorithm was chosen for"):
        lt.run(choice, a, b, bias, y, 0, 0, 0)


@pytest.mark.parametrize("expected", [False, True])
def test_a_bias_is_given_where_one_was_declared(lt: CublasLt, expected: bool) -> None:
    choice = lt.prepare(PLAIN._replace(bias=expected), 0)[0]
    with pytest.raises(KernelError, match="not what the algorithm was chosen for"):
        lt.run(choice, SOMEWHERE, SOMEWHERE, 0 if expected else SOMEWHERE, SOMEWHERE, 0, 0, 0)


def test_an_operand_that_is_nowhere_is_an_error(lt: CublasLt) -> None:
    with pytest.raises(KernelError, match="cublasLtMatmul: CUBLAS_STATUS_INVALID_VALUE"):
        lt.run(lt.prepare(PLAIN, 0)[0], SOMEWHERE, 0, 0, SOMEWHERE, 0, 0, 0)


def test_an_algorithm_serves_the_matrices_it_was_chosen_for(lt: CublasLt) -> None:
    here, other = lt.prepare(PLAIN, 0)[0], lt.prepare(PLAIN._replace(m=5), 0)[0]
    with pytest.raises(KernelError, match="CUBLAS_STATUS_INVALID_VALUE"):
        lt.run(here._replace(algorithm=other.algorithm), SOMEWHERE, SOMEWHERE, 0, SOMEWHERE, 0, 0, 0)


# -- choosing, and giving back ----------------------------------------------------------------------------------------------


def test_the_fastest_choice_is_taken(lt: CublasLt) -> None:
    choices = lt.prepare(PLAIN, WORKSPACE)
    tried: list[Choice] = []
    times = iter([3.0, 1.0, 2.0])

    def time(launch: Any) -> float:
        launch()
        return next(times)

    assert fastest(choices, tried.append, time) is choices[1]
    assert tried == choices


def test_choices_that_the_device_refuses_are_out(lt: CublasLt) -> None:
    choices = lt.prepare(PLAIN, WORKSPACE)

    def launch(choice: Choice) -> None:
        if choice is not choices[2]:
            raise KernelError("refused")

    def time(launch: Any) -> float:
        launch()
        return 1.0

    assert fastest(choices, launch, time) is choices[2]
    with pytest.raises(KernelError, match="refused"):
        fastest(choices[:2], launch, time)


def test_descriptions_are_given_back_with_the_last_choice(lt: CublasLt, library: ctypes.CDLL) -> None:
    choices = lt.prepare(PLAIN, WORKSPACE)
    given: list[str] = []
    for name in ("cublasLtMatmulDescDestroy", "cublasLtMatrixLayoutDestroy"):
        setattr(library, name, lambda _, name=name: given.append(name))
    kept = choices.pop()
    del choices
    gc.collect()
    assert given == []
    del kept
    gc.collect()
    assert sorted(given) == ["cublasLtMatmulDescDestroy", *["cublasLtMatrixLayoutDestroy"] * 3]


def test_closing_twice_is_closing(lt: CublasLt) -> None:
    lt.close()
    lt.close()
    with pytest.raises(KernelError, match="CUBLAS_STATUS_NOT_INITIALIZED"):
        lt.prepare(PLAIN, 0)
