"""What is known of a tensor before it is computed: dtype, device and shape, together its Spec.

Dtypes and Specs are interned: there is one object for each, so equality is identity and a Spec is a cheap dictionary key.
"""

from __future__ import annotations

import math
import operator
import threading
import weakref
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

import numpy as np

from needle_core.errors import DtypeError, ShapeError, brief

if TYPE_CHECKING:
    from needle_core.backend import Backend


class DType(str):
    """A number format: a string, its name as in NumPy, of a `kind` ("bool", "uint", "int", "float"), `itemsize` in bytes."""

    kind: str
    itemsize: int

    def __new__(cls, name: str, kind: str, itemsize: int) -> Self:
        self = super().__new__(cls, name)
        self.kind, self.itemsize = kind, itemsize
        return self

    @property
    def name(self) -> str:
        return str(self)

    @cached_property
    def numpy(self) -> np.dtype[Any]:
        """The NumPy dtype of the same format; bfloat16 comes from ml_dtypes, imported when first wanted."""
        if self == "bfloat16":
            import ml_dtypes

            return np.dtype(ml_dtypes.bfloat16)  # type: ignore[no-any-return]
        return np.dtype(str(self))

    @property
    def is_floating(self) -> bool:
        return self.kind == "float"

    @property
    def is_integer(self) -> bool:
        return self.kind in ("int", "uint")

    def __eq__(self, other: object) -> bool:
        """Equal to its name, and to what NumPy and Python call it."""
        if isinstance(other, str):
            return str.__eq__(self, other)
        try:
            return isinstance(other, type | np.dtype) and dtype(other) is self
        except DtypeError:
            return False

    __hash__ = str.__hash__

    def __repr__(self) -> str:
        return str(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return dtype, (str(self),)


bool_: Final = DType("bool", "bool", 1)
uint8: Final = DType("uint8", "uint", 1)
int32: Final = DType("int32", "int", 4)
int64: Final = DType("int64", "int", 8)
float16: Final = DType("float16", "float", 2)
bfloat16: Final = DType("bfloat16", "float", 2)
float32: Final = DType("float32", "float", 4)
float64: Final = DType("float64", "float", 8)

DTYPES: Final = {d.name: d for d in (bool_, uint8, int32, int64, float16, bfloat16, float32, float64)}
DEFAULT: Final[dict[type, DType]] = {bool: bool_, int: int64, float: float32}  # of a Python number on its own

DTypeLike: TypeAlias = DType | str | type | np.dtype[Any]


def dtype(like: DTypeLike) -> DType:
    """The DType that `like` names: a DType, its name, a NumPy dtype, or Python's bool, int or float."""
    if isinstance(like, DType):
        return like
    if isinstance(like, type) and like in DEFAULT:
        return DEFAULT[like]
    try:
        name = like if isinstance(like, str) else np.dtype(like).name
        return DTYPES[name]
    except (KeyError, TypeError):
        raise DtypeError(f"no dtype {like!r}", details={"dtypes": ", ".join(DTYPES)}) from None


# Each dtype goes to the right along this order; float16 and bfloat16 hold different numbers and meet in float32.
_ORDER: Final = {bool_: 0, uint8: 1, int32: 2, int64: 3, float16: 4, bfloat16: 4, float32: 5, float64: 6}
_KINDS: Final = {bool: 0, int: 1, float: 2}


def promote(*operands: DType | type) -> DType:
    """The dtype in which `operands` meet: dtypes of tensors, and Python's bool, int, float for Python numbers.

    Python numbers are weak (NEP 50): they take the dtype of the tensors unless their kind is wider, then that kind's
    default. uint8 < int32 < int64 < any float; float16 with bfloat16 gives float32; integers never widen a float.
    """
    strong = [o for o in operands if isinstance(o, DType)]
    result: DType | None = None
    for d in strong:
        if result is None or _ORDER[d] > _ORDER[result]:
            result = d
        elif _ORDER[d] == _ORDER[result] and d is not result:
            result = float32
    for weak in operands:
        if isinstance(weak, DType):
            continue
        width = -1 if result is None else {"bool": 0, "uint": 1, "int": 1, "float": 2}[result.kind]
        if _KINDS[weak] > width:
            result = DEFAULT[weak]
    if result is None:
        raise DtypeError("nothing to promote")
    return result


MEET: Final = {(d, kind): promote(d, kind) for d in DTYPES.values() for kind in DEFAULT}
"""The dtype in which a tensor meets a Python number, by the dtype of the one and the type of the other."""


class Device:
    """Where buffers live and kernels run: `name` is "numpy" or "cuda:0", `backend` the opened backend that made it.

    It compares equal to its name.
    """

    __slots__ = ("backend", "constants", "name")

    def __init__(self, name: str, backend: Backend) -> None:
        self.name, self.backend = name, backend
        self.constants: dict[Any, Any] = {}  # Python numbers that met tensors here, as 0-d tensors

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, str) and other == self.name)

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"device({self.name!r})"

    def __str__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Any, ...]:
        from needle_core.backend import device

        return device, (self.name,)


_specs: weakref.WeakValueDictionary[tuple[tuple[int, ...], DType, Device], Spec] = weakref.WeakValueDictionary()

_making = threading.Lock()


MOST_AXES: Final = 64
"""As many as an array of NumPy has."""
MOST_BYTES: Final = 2**56
"""Of an array, as many as processors have addresses for; counts of bytes can then be added up in 64 bits."""


class Spec:
    """Shape, dtype and device of a tensor; one object for each, made by `Spec.of`. Prints `float32[32, 784] on cpp`."""

    __slots__ = ("__weakref__", "device", "dtype", "shape")

    shape: tuple[int, ...]
    dtype: DType
    device: Device

    @staticmethod
    def of(shape: Iterable[int], dtype: DType, device: Device) -> Spec:
        sizes = tuple(shape)
        spec = _specs.get((sizes, dtype, device))
        return Spec._make(sizes, dtype, device) if spec is None else spec

    @staticmethod
    def _make(shape: tuple[Any, ...], dtype: DType, device: Device) -> Spec:
        """The Spec of a shape that was not known before, which must consist of ints: 3.0 and True are equal keys."""
        try:
            sizes = tuple(map(operator.index, shape))
        except TypeError:
            raise ShapeError(f"a shape consists of integers, not {brief(shape)}") from None
        if any(n < 0 for n in sizes):
            raise ShapeError(f"shape {sizes} has a negative size")
        if len(sizes) > MOST_AXES:
            raise ShapeError(f"a tensor has at most {MOST_AXES} axes, not {len(sizes)}")
        if math.prod(n or 1 for n in sizes) * dtype.itemsize > MOST_BYTES:
            raise ShapeError(f"shape {sizes} is too large for the memory of any machine")
        with _making:  # another thread may have been first
            spec = _specs.get((sizes, dtype, device))
            if spec is None:
                spec = Spec()
                spec.shape, spec.dtype, spec.device = sizes, dtype, device
                _specs[sizes, dtype, device] = spec
            return spec

    def like(self, *, shape: Iterable[int] | None = None, dtype: DType | None = None) -> Spec:
        """The same device, with another shape or dtype."""
        return Spec.of(self.shape if shape is None else shape, dtype or self.dtype, self.device)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __repr__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}] on {self.device}"

    def __reduce__(self) -> tuple[Any, ...]:
        return Spec.of, (self.shape, self.dtype, self.device)
