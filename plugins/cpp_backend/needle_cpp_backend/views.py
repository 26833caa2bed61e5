"""Eager calls that copy nothing: what they give is a view of the operand. Tensors are never written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any, Final

from needle_cpp_backend.call import Call
from needle_cpp_backend.native import native

View = Callable[..., Any]


def _reshape(call: Call) -> View:
    return native.Arranged(call.outputs[0].shape, is_order=False).function  # type: ignore[no-any-return]


def _permute_dims(call: Call) -> View:
    return native.Arranged(call.attrs["axes"], is_order=True).function  # type: ignore[no-any-return]


def _repeated(call: Call) -> View:
    return native.Repeated(call.outputs[0].shape).function  # type: ignore[no-any-return]


def _strided_slice(call: Call) -> View:
    start, stop, step = (call.attrs[name] for name in ("start", "stop", "step"))
    return itemgetter((..., *map(slice, start, stop, step)))  # ... keeps a 0-d array an array


def _flip(call: Call) -> View:
    axes = call.attrs["axes"]
    return itemgetter((..., *(slice(None, None, -1 if i in axes else 1) for i in range(call.inputs[0].ndim))))


VIEWS: Final[Mapping[str, Callable[[Call], View]]] = {
    "reshape": _reshape,
    "permute_dims": _permute_dims,
    "broadcast_to": _repeated,
    "expand_as": _repeated,
    "strided_slice": _strided_slice,
    "flip": _flip,
}
"""What makes the function for an eager call, of an array, without a line of Python in it."""
