"""How a layer is declared: built in a dtype, and what it computes in float64 NumPy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from needle_core import nn
from needle_core.testing import CASES
from needle_core.testing.samples import Array, Input

State: TypeAlias = Mapping[str, Array]


@dataclass(frozen=True)
class Layer:
    """A layer as `make` builds it in a dtype, and what it computes: `reference(state, *inputs)`."""

    name: str
    text: str
    make: Callable[[str], nn.Module]
    reference: Callable[..., Any]
    inputs: tuple[Input, ...]


def like_op(kind: type[nn.Module], op: str, *inputs: Input, **options: Any) -> Layer:
    """A layer without parameters that computes `op`, whose attributes are its options."""
    text = ", ".join(f"{name}={value!r}" for name, value in options.items()) or "defaults"
    return Layer(kind.__name__, text, lambda dtype: kind(**options), of_op(op, **options), inputs)


def of_op(op: str, **attrs: Any) -> Callable[..., Array]:
    """The reference of an op, which also takes the parameters of a layer, in their order, as its last operands."""
    return lambda s, *xs: np.asarray(CASES[op].reference(*xs, *s.values(), **attrs))
