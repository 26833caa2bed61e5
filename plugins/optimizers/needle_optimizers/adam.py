"""Adam and AdamW: steps scaled by running moments of the gradient, which start at zero and are corrected for that."""

from __future__ import annotations

import math

from needle_core.ops import expm1, sqrt, square, zeros_like
from needle_core.optim import Hyper, Optimizer, Params, Schedule, State, require_within
from needle_core.tensor import Tensor


class _AdamBase(Optimizer):
    """What Adam and AdamW share: all but the place of the weight decay."""

    is_pure = True

    def __init__(
        self,
        params: Params,
        lr: float | Schedule = 1e-3,
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay)

    def check(self, hyper: Hyper) -> None:
        require_within("beta1", hyper.beta1, 0, 1)
        require_within("beta2", hyper.beta2, 0, 1)
        require_within("eps", hyper.eps, 0)
        require_within("weight_decay", hyper.weight_decay, 0)

    def init(self, p: Tensor, hyper: Hyper) -> State:
        return {"m": zeros_like(p), "v": zeros_like(p)}

    def prepare(self, hyper: Hyper, step: Tensor) -> None:
        """Move the corrections out of the arrays: lr * m̂ / (√v̂ + eps) = lr_t * m / (√v + eps_t), as the paper does."""
        root = sqrt(_correction(hyper.beta2, step))
        hyper.lr = hyper.lr * root / _correction(hyper.beta1, step)
        hyper.eps = hyper.eps * root

    def _move(self, g: Tensor, state: State, hyper: Hyper) -> tuple[Tensor, State]:
        """lr * m̂ / (√v̂ + eps), and the moments."""
        m = hyper.beta1 * state["m"] + (1 - hyper.beta1) * g
        v = hyper.beta2 * state["v"] + (1 - hyper.beta2) * square(g)
        return hyper.lr * m / (sqrt(v) + hyper.eps), {"m": m, "v": v}


class Adam(_AdamBase):
    """Adaptive moment estimation.

        g := g + weight_decay * p
        m := beta1 * m + (1 - beta1) * g;   m̂ = m / (1 - beta1^t)
        v := beta2 * v + (1 - beta2) * g²;  v̂ = v / (1 - beta2^t)
        p := p - lr * m̂ / (√v̂ + eps)

    Numerics: the corrections are computed in float64, without cancellation
    Source:   Kingma & Ba 2015, arXiv:1412.6980
    """

    is_pure = True

    def update(self, p: Tensor, g: Tensor, state: State, hyper: Hyper) -> tuple[Tensor, State]:
        move, after = self._move(g + hyper.weight_decay * p if hyper.weight_decay else g, state, hyper)
        return p - move, after


class AdamW(_AdamBase):
    """Adam with weight decay apart from the gradient, so that it is not scaled by the moments.

        m, v, m̂, v̂ as in Adam
        p := p - lr * (m̂ / (√v̂ + eps) + weight_decay * p)

    Numerics: as Adam
    Source:   Loshchilov & Hutter 2019, arXiv:1711.05101
    """

    is_pure = True

    def __init__(
        self,
        params: Params,
        lr: float | Schedule = 1e-3,
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay)

    def prepare(self, hyper: Hyper, step: Tensor) -> None:
        hyper.decay = hyper.lr * hyper.weight_decay
        super().prepare(hyper, step)

    def update(self, p: Tensor, g: Tensor, state: State, hyper: Hyper) -> tuple[Tensor, State]:
        move, after = self._move(g, state, hyper)
        return p - (move + hyper.decay * p), after  # p * (1 - decay) would round a small decay away in the factor


def _correction(beta: float, step: Tensor) -> Tensor:
    """1 - beta^step."""
    return -expm1(step * (math.log(beta) if beta else -math.inf))
