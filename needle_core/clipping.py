"""Gradient clipping: between `backward()` and `step()`, before a rare large gradient throws the parameters off."""

from __future__ import annotations

import math
from collections.abc import Iterable

from needle_core.autograd import no_grad
from needle_core.ops import add, astype, clip, isfinite, sqrt, square, sum as sum_, where
from needle_core.schedules import require_within
from needle_core.spec import float32, float64
from needle_core.tensor import Tensor


@no_grad()
def clip_grad_norm(params: Tensor | Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients down together so that their common norm is at most `max_norm`; gives the norm before, 0-d float64.

        norm = sqrt(sum g²) over all elements of all gradients;  g := g * min(max_norm / norm, 1)

    Dtypes:   float16 and bfloat16 are squared and scaled in float32
    Numerics: gradients within the norm stay bit for bit; where the norm is not finite, all become nan, so that one infinite
              element does not pass as a small step
    Source:   Pascanu et al. 2013, arXiv:1211.5063
    """
    require_within("clip_grad_norm: max_norm", max_norm, 0)
    found = [(p, _widened(p.grad)) for p in _listed(params) if p.grad is not None]
    if not found:
        return Tensor(0.0, dtype=float64)
    squares = [astype(sum_(square(g)), dtype=float64) for _, g in found]
    total = squares[0]
    for more in squares[1:]:
        total = add(total, more)
    norm = sqrt(total)
    shrunk = where(isfinite(norm), max_norm / norm, math.nan)
    scale = where(norm <= max_norm, 1.0, shrunk)
    for p, g in found:
        p.grad = astype(g * astype(scale, dtype=g.dtype), dtype=p.dtype)
    return norm


@no_grad()
def clip_grad_value(params: Tensor | Iterable[Tensor], value: float) -> None:
    """Limit every element of every gradient to [-value, value]; nan stays nan."""
    require_within("clip_grad_value: value", value, 0)
    for p in _listed(params):
        if p.grad is not None:
            p.grad = clip(p.grad, min=-value, max=value)


def _listed(params: Tensor | Iterable[Tensor]) -> Iterable[Tensor]:
    return [params] if isinstance(params, Tensor) else params


def _widened(g: Tensor) -> Tensor:
    return astype(g, dtype=float32) if g.dtype.itemsize == 2 else g
