"""Ops that are nothing but programs: the elementwise, reductions of any axes, and all that moves elements about.

A backend that compiles the programs of fused nodes needs no other kernels for these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from needle_core.graph.passes import ELEMENTWISE
from needle_core.graph.program import Instruction, Load, Program, Store, broadcast_steps, row_major
from needle_core.spec import DType, Spec
from needle_core.tensor import Number

Specs: TypeAlias = Sequence[Spec]
Attrs: TypeAlias = Mapping[str, Any]
Steps: TypeAlias = Sequence[int]


def programs_of(name: str, inputs: Specs, outputs: Specs, attrs: Attrs) -> list[Program] | None:
    """The programs that, one after the other, do what op `name` does; None if it is more than that."""
    if name in ELEMENTWISE:
        return [_elementwise(name, inputs, outputs[0], attrs)]
    make = _PROGRAMS.get(name)
    return None if make is None else make(inputs, outputs[0], attrs)


def copying(x: int, dtype: DType, shape: Sequence[int], source: Steps, target: Store | None = None, start: int = 0) -> Program:
    """Elements of input `x` at `source` steps from `start`, written row after row, or as `target` says."""
    load = Load(x, dtype, tuple(source), start)
    return Program(tuple(shape), (load,), (), (), (target or Store(0, 0, dtype),))


def _elementwise(name: str, inputs: Specs, y: Spec, attrs: Attrs) -> Program:
    loads = tuple(Load(i, x.dtype, broadcast_steps(x.shape, y.shape)) for i, x in enumerate(inputs))
    instruction = Instruction(name, tuple(range(len(loads))), attrs, y.dtype)
    return Program(y.shape, loads, (), (instruction,), (Store(0, len(loads), y.dtype),))


def _number(number: Number, y: Spec) -> Program:
    return Program(y.shape, (), ((number, y.dtype),), (), (Store(0, 0, y.dtype),))


def _reduction(name: str) -> Callable[[Specs, Spec, Attrs], list[Program]]:
    def make(inputs: Specs, y: Spec, attrs: Attrs) -> list[Program]:
        """The index space has the axes last, or first where they are the first."""
        (x,), axes = inputs, attrs["axes"]
        kept = [i for i in range(x.ndim) if i not in axes]
        if not axes:
            return [_elementwise("astype", inputs, y, {"dtype": y.dtype})]
        leading = tuple(axes) == tuple(range(len(axes))) and bool(kept)
        order = [*axes, *kept] if leading else [*kept, *axes]
        over = tuple(range(len(axes))) if leading else tuple(range(len(kept), x.ndim))
        steps = row_major(x.shape)
        load = Load(0, x.dtype, tuple(steps[i] for i in order))
        return [Program(tuple(x.shape[i] for i in order), (load,), (), (), (Store(0, 0, y.dtype, name, over),))]

    return make


def _reshape(inputs: Specs, y: Spec, attrs: Attrs) -> list[Program]:
    return [copying(0, y.dtype, (y.size,), (1,))]


def _permute_dims(inputs: Specs, y: Spec, attrs: Attrs) -> list[Program]:
    steps = row_major(inputs[0].shape)
    return [copying(0, y.dtype, y.shape, [steps[i] for i in attrs["axes"]])]


def _broadcast_to(inputs: Specs, y: Spec, attrs: Attrs) -> list[Program]:
    return [copying(0, y.dtype, y.shape, broadcast_steps(inputs[0].shape, y.shape))]


def _strided_slice(inputs: Specs, y: Spec, attrs: Attrs) -> list[Program]:
    steps = row_major(inputs[0].shape)
    source = [a * b for a, b in zip(steps, attrs["step"], strict=True)]
    return [copying(0, y.dtype, y.shape, source, start=_dot(steps, attrs["start"]))]


def _flip(inputs: Specs, y: Spec, attrs: Attrs) -> list[Program]:
    steps, axes = row_major(y.shape), attrs["axes"]
    source = [-step if i in axes else step for i, step in enumerate(steps)]
    return [copying(0, y.dtype, y.shape, source, start=_dot([steps[i] for i in axes], [y.shape[i] - 1 for i in axes]))]


def _pad(inputs: Specs, y: Spec, attrs: Attrs) -> list[Program]:
    (x,) = inputs
    steps = row_major(y.shape)
    target = tuple(a * b for a, b in zip(steps, attrs["dilation"], strict=True))
    offset = _dot(steps, [before for before, _ in attrs["width"]])
    inside = Store(0, 0, y.dtype, steps=target, offset=offset)
    return [_number(attrs["value"], y), copying(0, y.dtype, x.shape, row_major(x.shape), inside)]


def _concat(inputs: Specs, y: Spec, attrs: Attrs) -> list[Program]:
    axis, steps = attrs["axis"], row_major(y.shape)
    programs, offset = [], 0
    for i, x in enumerate(inputs):
        part = Store(0, 0, y.dtype, steps=steps, offset=offset)
        programs.append(copying(i, y.dtype, x.shape, row_major(x.shape), part))
        offset += x.shape[axis] * steps[axis]
    return programs


def _iota(inputs: Specs, y: Spec, attrs: Attrs) -> list[Program]:
    return [Program(y.shape, (), (), (Instruction("iota", (), {}, y.dtype),), (Store(0, 0, y.dtype),))]


def _random_bits(inputs: Specs, y: Spec, attrs: Attrs) -> list[Program]:
    still = (0,) * y.ndim
    loads = tuple(Load(0, inputs[0].dtype, still, offset) for offset in (0, 1))
    return [Program(y.shape, loads, (), (Instruction("random_bits", (0, 1), {}, y.dtype),), (Store(0, 2, y.dtype),))]


def _dot(a: Sequence[int], b: Sequence[int]) -> int:
    return sum(map(math.prod, zip(a, b, strict=True)))


_PROGRAMS: Final[Mapping[str, Callable[[Specs, Spec, Attrs], list[Program]]]] = {
    **{name: _reduction(name) for name in ("sum", "mean", "prod", "max", "min", "any", "all")},
    "reshape": _reshape,
    "permute_dims": _permute_dims,
    "broadcast_to": _broadcast_to,
    "expand_as": _broadcast_to,
    "strided_slice": _strided_slice,
    "flip": _flip,
    "pad": _pad,
    "concat": _concat,
    "iota": _iota,
    "random_bits": _random_bits,
}  # fmt: skip

SINGLE: Final = tuple(_PROGRAMS)
"""The names of those that are not elementwise."""
