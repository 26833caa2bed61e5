"""Lion: steps of one size, in the direction of a sign."""

from __future__ import annotations

from needle_core.ops import sign, zeros_like
from needle_core.optim import Hyper, Optimizer, Params, Schedule, State, require_within
from needle_core.tensor import Tensor


class Lion(Optimizer):
    """Evolved sign momentum.

        c  = beta1 * m + (1 - beta1) * g
        p := p - lr * (sign c + weight_decay * p)
        m := beta2 * m + (1 - beta2) * g

    Source: Chen et al. 2023, arXiv:2302.06675
    """

    is_pure = True

    def __init__(
        self,
        params: Params,
        lr: float | Schedule = 1e-4,
        *,
        beta1: float = 0.9,
        beta2: float = 0.99,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr, beta1=beta1, beta2=beta2, weight_decay=weight_decay)

    def check(self, hyper: Hyper) -> None:
        require_within("beta1", hyper.beta1, 0, 1)
        require_within("beta2", hyper.beta2, 0, 1)
        require_within("weight_decay", hyper.weight_decay, 0)

    def init(self, p: Tensor, hyper: Hyper) -> State:
        return {"m": zeros_like(p)}

    def update(self, p: Tensor, g: Tensor, state: State, hyper: Hyper) -> tuple[Tensor, State]:
        c = hyper.beta1 * state["m"] + (1 - hyper.beta1) * g
        direction = sign(c) + hyper.weight_decay * p if hyper.weight_decay else sign(c)
        return p - hyper.lr * direction, {"m": hyper.beta2 * state["m"] + (1 - hyper.beta2) * g}
