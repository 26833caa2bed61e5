"""Products of matrices by cuBLASLt, through ctypes: which products a `matmul` is, their algorithms, and one call to run one.

Nothing here allocates device memory: the caller lends the workspace, so `CublasLt.run` can be captured in a CUDA graph.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np

from needle_core.errors import KernelError
from needle_core.spec import DType, bfloat16, float16, float32, float64

__all__ = ["Choice", "CublasLt", "Matrices", "fastest", "products"]

ALIGNMENT: Final = 256
"""Bytes: where buffers and the workspace begin; what cuBLASLt demands of its workspace."""

_Axis: TypeAlias = tuple[int, int, int, int]  # of a batch: its size, and the steps of a, b and y along it

# -- which products a matmul is ---------------------------------------------------------------------------------------------


class Matrices(NamedTuple):
    """A batch of products y = op(a) @ op(b) (+ bias), all row-major. Sizes, leading dimensions and strides are in elements.

    Shapes: op(a) (m, k), op(b) (k, n), bias (n), y (m, n); a stored (k, m) with `transpose_a`, b (n, k) with `transpose_b`
    Dtypes: a, b `dtype`; y and bias `out`. Accumulates in float32, float64 for float64; `tf32` rounds float32 factors to TF32
    """

    dtype: DType
    out: DType
    m: int
    n: int
    k: int
    transpose_a: bool
    transpose_b: bool
    lda: int
    ldb: int
    ldy: int
    batch: int = 1
    stride_a: int = 0  # between members of the batch; 0 where all of them share one matrix
    stride_b: int = 0
    stride_y: int = 0
    bias: bool = False
    tf32: bool = False
    alignment: int = ALIGNMENT  # bytes: a, b, bias and y begin at multiples of it


def products(
    a: tuple[int, ...],
    b: tuple[int, ...],
    *,
    dtype: DType,
    out: DType,
    transpose_a: bool = False,
    transpose_b: bool = False,
    bias: bool = False,
    tf32: bool = False,
) -> list[tuple[Matrices, int, int, int]]:
    """The products that `matmul` of contiguous operands of these shapes is, each with the offsets of a, b, y in elements.

    All of them are of the same Matrices, so that one algorithm serves. There are none if y is empty, and none if the inner
    dimension is: then y is the bias or 0, which is a fill.

    Shapes: a (*s, m, k), b (*s, k, n), or their last two axes swapped where transposed; s broadcast -> y (*s, m, n)
    """
    m, k = a[:-3:-1] if transpose_a else a[-2:]
    n = b[-2] if transpose_b else b[-1]
    batch = np.broadcast_shapes(a[:-2], b[:-2])
    if not all((m, n, k, *batch)):
        return []
    strides = (_strides(a[:-2], m * k, batch), _strides(b[:-2], k * n, batch), _strides(batch, m * n, batch))
    axes: list[_Axis] = [axis for axis in zip(batch, *strides, strict=True) if axis[0] > 1]
    rows = m
    while axes and not transpose_a and axes[-1][1] == rows * k and axes[-1][2] == 0:
        rows *= axes.pop()[0]  # b is the same for all members: their rows make one tall matrix
    axes = _merged(axes)
    largest = max(axes, default=(1, 0, 0, 0))
    outer = [axis for axis in axes if axis is not largest]
    places = [tuple(zip(place, outer, strict=True)) for place in itertools.product(*(range(axis[0]) for axis in outer))]
    offsets = [
        (sum(i * axis[1] for i, axis in p), sum(i * axis[2] for i, axis in p), sum(i * axis[3] for i, axis in p))
        for p in places
    ]
    sizes = (dtype.itemsize, dtype.itemsize, out.itemsize)
    matrices = Matrices(
        dtype, out, rows, n, k, transpose_a, transpose_b,
        lda=m if transpose_a else k, ldb=k if transpose_b else n, ldy=n,
        batch=largest[0], stride_a=largest[1], stride_b=largest[2], stride_y=largest[3],
        bias=bias, tf32=tf32 and dtype is float32,
        alignment=math.gcd(ALIGNMENT, *(size * o for members in offsets for size, o in zip(sizes, members, strict=True))),
    )  # fmt: skip
    return [(matrices, *members) for members in offsets]


def _strides(sizes: Sequence[int], member: int, over: Sequence[int]) -> list[int]:
    """How far apart the members of a contiguous batch of these sizes are along each axis of `over`; 0 where broadcast."""
    steps = [0 if n == 1 else member * math.prod(sizes[i + 1 :]) for i, n in enumerate(sizes)]
    return [0] * (len(over) - len(sizes)) + steps


def _merged(axes: Sequence[_Axis]) -> list[_Axis]:
    """The axes, with neighbours made one where one step walks through both."""
    made: list[_Axis] = []
    for size, *steps in axes:
        if made and all(outer == step * size for outer, step in zip(made[-1][1:], steps, strict=True)):
            size *= made.pop()[0]
        made.append((size, steps[0], steps[1], steps[2]))
    return made


# -- the library ------------------------------------------------------------------------------------------------------------

_DATA: Final = {float32: 0, float64: 1, float16: 2, bfloat16: 14}  # cudaDataType
_COMPUTE_32F, _COMPUTE_32F_FAST_TF32, _COMPUTE_64F = 68, 77, 70
_TRANSA, _TRANSB, _EPILOGUE, _BIAS_POINTER = 3, 4, 7, 8  # of an operation
_BATCH_COUNT, _BATCH_STRIDE = 5, 6  # of a layout
_MAX_WORKSPACE, _REDUCTION_SCHEMES, _MIN_ALIGNMENTS = 1, 3, (5, 6, 7, 8)  # of a preference
_EPILOGUE_BIAS = 4
_REDUCE_IN_COMPUTE_TYPE = 2
_NOT_SUPPORTED = 15
_MOST_ALGORITHMS = 8


class _Heuristic(ctypes.Structure):
    """An algorithm (opaque) and what it needs: cublasLtMatmulHeuristicResult_t."""

    _fields_ = (
        ("algorithm", ctypes.c_uint64 * 8),
        ("workspace_bytes", ctypes.c_size_t),
        ("state", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    )


_pointer, _int, _size = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
_PROTOTYPES: Final[dict[str, tuple[type[Any], ...]]] = {
    "Create": (_pointer,),
    "Destroy": (_pointer,),
    "MatrixLayoutCreate": (_pointer, _int, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int64),
    "MatrixLayoutSetAttribute": (_pointer, _int, _pointer, _size),
    "MatrixLayoutDestroy": (_pointer,),
    "MatmulDescCreate": (_pointer, _int, _int),
    "MatmulDescSetAttribute": (_pointer, _int, _pointer, _size),
    "MatmulDescDestroy": (_pointer,),
    "MatmulPreferenceCreate": (_pointer,),
    "MatmulPreferenceSetAttribute": (_pointer, _int, _pointer, _size),
    "MatmulPreferenceDestroy": (_pointer,),
    "MatmulAlgoGetHeuristic": (*(_pointer,) * 7, _int, _pointer, _pointer),
    "Matmul": (*(_pointer,) * 14, _size, _pointer),
}


class _Problem:
    """Matrices as the library describes them; `bias` is the address that the description holds."""

    __slots__ = ("__weakref__", "bias", "matrices", "one", "operation", "w", "x", "y", "zero")

    def __init__(self, matrices: Matrices) -> None:
        self.matrices = matrices
        self.bias = 0
        scalar = ctypes.c_double if matrices.dtype is float64 else ctypes.c_float
        self.one, self.zero = ctypes.pointer(scalar(1.0)), ctypes.pointer(scalar(0.0))
        self.operation = self.x = self.w = self.y = ctypes.c_void_p()


class Choice(NamedTuple):
    """An algorithm for a batch of products; it needs that many bytes of workspace."""

    problem: _Problem
    algorithm: Any
    workspace_bytes: int


def fastest(choices: Sequence[Choice], run: Callable[[Choice], None], time: Callable[[Callable[[], None]], float]) -> Choice:
    """The choice whose `run` takes the shortest `time`; those that the device refuses are out.

    Raises: KernelError, that of the last choice, if all are refused
    """
    times: list[tuple[float, int]] = []
    refusal: KernelError | None = None
    for i, choice in enumerate(choices):
        try:
            times.append((time(lambda choice=choice: run(choice)), i))  # type: ignore[misc]
        except KernelError as error:
            refusal = error
    if refusal is not None and not times:
        raise refusal
    return choices[min(times)[1]]


class CublasLt:
    """A handle of libcublasLt. Addresses and streams are integers.

    Raises: KernelError that names the function, its status and the matrices, whenever the library refuses something
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        for name, arguments in _PROTOTYPES.items():
            self._function(name).argtypes = arguments
        library.cublasLtGetStatusName.argtypes = (_int,)
        library.cublasLtGetStatusName.restype = ctypes.c_char_p
        self._matmul = self._function("Matmul")
        self._handle = self._created("Create", None)

    def prepare(self, matrices: Matrices, workspace_bytes: int) -> list[Choice]:
        """Up to eight algorithms that need no more workspace than this, those first that the library thinks fastest."""
        problem = self._described(matrices)
        preference = self._created("MatmulPreferenceCreate", matrices)
        try:
            set_preference = ("MatmulPreferenceSetAttribute", matrices, preference)
            self._set(*set_preference, _MAX_WORKSPACE, ctypes.c_uint64(workspace_bytes))
            # Partial sums over k stay in the type of the accumulator, and are added in one order: bits repeat.
            self._set(*set_preference, _REDUCTION_SCHEMES, ctypes.c_uint32(_REDUCE_IN_COMPUTE_TYPE))
            for attribute in _MIN_ALIGNMENTS:
                self._set(*set_preference, attribute, ctypes.c_uint32(matrices.alignment))
            found, count = (_Heuristic * _MOST_ALGORITHMS)(), ctypes.c_int()
            name = "MatmulAlgoGetHeuristic"
            status = self._function(name)(
                self._handle, problem.operation, problem.w, problem.x, problem.y, problem.y, preference,
                _MOST_ALGORITHMS, found, ctypes.byref(count),
            )  # fmt: skip
            choices = [
                Choice(problem, ctypes.pointer(result.algorithm), result.workspace_bytes)
                for result in found[: count.value]
                if result.state == 0
            ]
            if status or not choices:
                more = "" if status else f", no algorithm in {workspace_bytes} bytes of workspace"
                raise self._refused(name, status or _NOT_SUPPORTED, matrices, more)
            return choices
        finally:
            self._function("MatmulPreferenceDestroy")(preference)

    def run(self, choice: Choice, a: int, b: int, bias: int, y: int, workspace: int, workspace_bytes: int, stream: int) -> None:
        """Issue the products at these addresses on the stream; `bias` is 0 where the matrices have none."""
        problem = choice.problem
        matrices = problem.matrices
        if (a | b | bias | y) % matrices.alignment or bool(bias) is not matrices.bias:
            addresses = ", ".join(map(hex, (a, b, bias, y)))
            raise KernelError(
                f"cublasLtMatmul: a, b, bias, y are at {addresses}: not what the algorithm was chosen for",
                details={"matrices": matrices},
            )
        if bias != problem.bias:
            self._set("MatmulDescSetAttribute", matrices, problem.operation, _BIAS_POINTER, ctypes.c_void_p(bias))
            problem.bias = bias
        # alpha w x + beta c, where beta is 0 and c, which is then not read, is y
        status = self._matmul(
            self._handle, problem.operation, problem.one, b, problem.w, a, problem.x, problem.zero, y, problem.y,
            y, problem.y, choice.algorithm, workspace, workspace_bytes, stream,
        )  # fmt: skip
        if status:
            raise self._refused("Matmul", status, matrices)

    def close(self) -> None:
        """Give the handle back; a second time does nothing."""
        handle, self._handle = self._handle, ctypes.c_void_p()
        if handle.value:
            self._check("Destroy", None, handle)

    def _described(self, m: Matrices) -> _Problem:
        """The problem as cuBLASLt states it, whose matrices are column-major.

        A row-major matrix read column by column is its transpose, so it computes y^T = op(b)^T op(a)^T: w = b and x = a
        change places and keep their transposes, m and n change places, and the bias over the last axis of y is one
        over the rows of y^T, which is what the epilogue adds.
        """
        problem = _Problem(m)
        made: list[tuple[str, ctypes.c_void_p]] = []
        weakref.finalize(problem, self._destroy, made).atexit = False
        wide = m.dtype is float64
        compute = _COMPUTE_64F if wide else _COMPUTE_32F_FAST_TF32 if m.tf32 else _COMPUTE_32F
        problem.operation = self._created("MatmulDescCreate", m, compute, _DATA[float64 if wide else float32])
        made.append(("MatmulDescDestroy", problem.operation))
        attributes: list[tuple[int, Any]] = [
            (_TRANSA, ctypes.c_int32(m.transpose_b)),
            (_TRANSB, ctypes.c_int32(m.transpose_a)),
        ]
        if m.bias:
            problem.bias = m.alignment  # never read: it tells the search how well biases are aligned
            attributes += [(_EPILOGUE, ctypes.c_uint32(_EPILOGUE_BIAS)), (_BIAS_POINTER, ctypes.c_void_p(problem.bias))]
        for attribute, value in attributes:
            self._set("MatmulDescSetAttribute", m, problem.operation, attribute, value)
        stored_a = (m.m, m.k) if m.transpose_a else (m.k, m.m)
        stored_b = (m.k, m.n) if m.transpose_b else (m.n, m.k)
        for name, dtype, sizes, ld, stride in (
            ("w", m.dtype, stored_b, m.ldb, m.stride_b),
            ("x", m.dtype, stored_a, m.lda, m.stride_a),
            ("y", m.out, (m.n, m.m), m.ldy, m.stride_y),
        ):
            layout = self._created("MatrixLayoutCreate", m, _DATA[dtype], *sizes, ld)
            made.append(("MatrixLayoutDestroy", layout))
            setattr(problem, name, layout)
            self._set("MatrixLayoutSetAttribute", m, layout, _BATCH_COUNT, ctypes.c_int32(m.batch))
            self._set("MatrixLayoutSetAttribute", m, layout, _BATCH_STRIDE, ctypes.c_int64(stride))
        return problem

    def _function(self, name: str) -> Any:
        return getattr(self._library, f"cublasLt{name}")

    def _created(self, name: str, matrices: Matrices | None, *arguments: int) -> ctypes.c_void_p:
        made = ctypes.c_void_p()
        self._check(name, matrices, ctypes.byref(made), *arguments)
        return made

    def _set(self, name: str, matrices: Matrices, descriptor: ctypes.c_void_p, attribute: int, value: Any) -> None:
        self._check(name, matrices, descriptor, attribute, ctypes.byref(value), ctypes.sizeof(value))

    def _check(self, name: str, matrices: Matrices | None, *arguments: Any) -> None:
        if status := self._function(name)(*arguments):
            raise self._refused(name, status, matrices)

    def _refused(self, name: str, status: int, matrices: Matrices | None, more: str = "") -> KernelError:
        said = self._library.cublasLtGetStatusName(status).decode()
        return KernelError(f"cublasLt{name}: {said}{more}", details={} if matrices is None else {"matrices": matrices})

    def _destroy(self, made: Sequence[tuple[str, ctypes.c_void_p]]) -> None:
        for name, descriptor in made:
            self._function(name)(descriptor)
