"""Arrays that libraries lend each other by DLPack, as NumPy does it, with what NumPy lacks: bfloat16, and memory safe to lend.

Source:   DLPack 1.0, https://dmlc.github.io/dlpack/latest/c_api.html
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

_UNSIGNED: Final = 1  # kinds of numbers, as DLPack numbers them
_BFLOAT: Final = 4
_NAMES: Final = {b"dltensor": False, b"dltensor_versioned": True}  # of capsules: whether a version comes first


def export(array: npt.NDArray[Any], max_version: tuple[int, int] | None, options: dict[str, Any]) -> Any:
    """A capsule that lends `array`, which nobody may write; a copy of it for readers too old to know what is read-only.

    Copied is also what cannot be lent safely: elements that share memory, and a lone number, which may be a constant of many,
    since PyTorch writes into what is read-only; and negative strides, at which PyTorch aborts.
    """
    old = max_version is None or max_version < (1, 0)
    if old or array.size <= 1 or any(stride <= 0 for stride, n in zip(array.strides, array.shape, strict=True) if n > 1):
        if options.get("copy") is False:
            raise BufferError("these values can be lent only as a copy")  # as the array API standard has it
        array = array.copy(order="C")
        array.flags.writeable = old
    if not old:
        options["max_version"] = max_version
    if array.dtype.name != "bfloat16":
        return array.__dlpack__(**options)
    return _renumbered(array.view(np.uint16).__dlpack__(**options), _UNSIGNED, _BFLOAT)


def imported(source: Any) -> npt.NDArray[Any]:
    """What `source`, anything with `__dlpack__`, lends, as an array that shares its memory."""
    lender = _Lender(source)
    array = np.from_dlpack(lender)
    if not lender.bfloat16:
        return array
    import ml_dtypes

    return array.view(ml_dtypes.bfloat16)


class _Lender:
    """Lends what `source` does, bfloat16 as the unsigned integers of the same bits."""

    def __init__(self, source: Any) -> None:
        self.source, self.bfloat16 = source, False

    def __dlpack_device__(self) -> Any:
        return self.source.__dlpack_device__()

    def __dlpack__(self, **options: Any) -> Any:
        try:
            capsule = self.source.__dlpack__(**options)
        except TypeError:  # a lender older than DLPack 1.0 knows no options
            capsule = self.source.__dlpack__()
        self.bfloat16 = _kind(capsule).code == _BFLOAT
        return _renumbered(capsule, _BFLOAT, _UNSIGNED)


def _renumbered(capsule: Any, old: int, new: int) -> Any:
    """The capsule, which nobody has read yet, saying that its numbers are of the kind `new` if it said `old`."""
    kind = _kind(capsule)
    if kind.code == old:
        kind.code = new
    return capsule


def _kind(capsule: Any) -> Any:
    """The DLDataType in a capsule: a view of its memory."""
    import ctypes as c

    class DLDataType(c.Structure):
        _fields_ = [("code", c.c_uint8), ("bits", c.c_uint8), ("lanes", c.c_uint16)]

    class DLTensor(c.Structure):  # up to where the numbers are described
        _fields_ = [("data", c.c_void_p), ("device", c.c_int32 * 2), ("ndim", c.c_int32), ("dtype", DLDataType)]

    class Versioned(c.Structure):
        _fields_ = [
            ("version", c.c_uint32 * 2),
            ("context", c.c_void_p),
            ("deleter", c.c_void_p),
            ("flags", c.c_uint64),
            ("tensor", DLTensor),
        ]

    name_of = c.PYFUNCTYPE(c.c_char_p, c.py_object)(("PyCapsule_GetName", c.pythonapi))
    pointer_in = c.PYFUNCTYPE(c.c_void_p, c.py_object, c.c_char_p)(("PyCapsule_GetPointer", c.pythonapi))
    name = name_of(capsule)
    address = pointer_in(capsule, name)
    assert address is not None
    return Versioned.from_address(address).tensor.dtype if _NAMES[name] else DLTensor.from_address(address).dtype
