"""Leaves to differentiate by, and what arrived at them."""

from __future__ import annotations

from typing import Any

import needle_core as ndl
from needle_core import Tensor


def leaf(data: Any) -> Tensor:
    """A float64 tensor that requires a gradient."""
    return Tensor(data, dtype=ndl.float64, requires_grad=True)


def gradient(t: Tensor) -> Any:
    """The gradient of a leaf, which must have one, as nested lists."""
    assert t.grad is not None
    return t.grad.tolist()
