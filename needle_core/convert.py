"""NumPy arrays of what users write: nested lists, Python numbers, other arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from needle_core.errors import ArgumentError, DtypeError, brief
from needle_core.record import mode
from needle_core.spec import DEFAULT, DTYPES, DType, DTypeLike, dtype, float32, promote


def as_array(data: Any, like: DTypeLike | None) -> npt.NDArray[Any]:
    """A new array with the values of `data`: NumPy's dtypes are kept, Python's numbers are weak beside them."""
    if like is not None:
        wanted = dtype(like)
        if isinstance(data, list | tuple):
            _refuse_tracked(data)
    elif hasattr(data, "__array__"):
        array = np.asarray(data)
        check_dtype(array)
        return np.array(array, DTYPES[array.dtype.name].numpy, order="C")
    else:
        wanted = promote(*dtypes_in([data]) or [float32])
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # as `astype`: beyond the largest number is infinity
            return np.array(data, wanted.numpy, order="C")
    except OverflowError as error:
        raise DtypeError(f"a value is out of the range of {wanted}") from error
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"no tensor can be made of {brief(data)}: {error}") from None


def dtypes_in(data: Sequence[Any]) -> set[DType | type]:
    """The dtypes of the arrays and the types of the Python numbers in nested lists."""
    found: set[DType | type] = set()
    for kind in set(map(type, data)):
        if kind in DEFAULT:
            found.add(kind)
            continue
        for part in data:
            if type(part) is not kind:
                continue
            if isinstance(part, Sequence) and not isinstance(part, str | bytes):
                found |= dtypes_in(part)
            elif hasattr(part, "dtype"):
                _refuse_tracked([part])
                found.add(dtype(part.dtype.name))
            else:
                raise ArgumentError(f"no tensor can be made of {brief(part)}")
    return found


def _refuse_tracked(data: Sequence[Any]) -> None:
    """Refuse tensors in nested lists whose gradients would be lost with them."""
    if not mode.grad or set(map(type, data)) <= DEFAULT.keys():
        return
    for part in data:
        if isinstance(part, list | tuple):
            _refuse_tracked(part)
        elif getattr(part, "tracked", False):
            raise ArgumentError(
                "a list of tensors that require gradients would lose them", hint="ndl.stack(list), or x.detach()"
            )


def check_dtype(array: npt.NDArray[Any]) -> None:
    """Refuse an array of a dtype that Needle does not have."""
    if array.dtype.name not in DTYPES:
        raise DtypeError(f"no dtype {array.dtype}", details={"dtypes": ", ".join(DTYPES)}, hint="convert it, or give dtype=")


def zero_dimensional(number: bool | float, dtype: DType) -> npt.NDArray[Any]:
    """The NumPy array, without axes, of a Python number in `dtype`. Raises DtypeError if an integer is out of range."""
    try:
        with np.errstate(over="ignore"):  # beyond the largest number of a floating dtype is infinity
            return np.array(float(number) if dtype.is_floating else number, dtype.numpy)
    except OverflowError:
        raise DtypeError(f"{brief(number)} is out of the range of {dtype}") from None
