"""Stochastic gradient descent."""

from __future__ import annotations

from needle_core.errors import ArgumentError
from needle_core.ops import zeros_like
from needle_core.optim import Hyper, Optimizer, Params, Schedule, State, require_within
from needle_core.tensor import Tensor


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum if asked for.

        g := g + weight_decay * p
        u := momentum * u + (1 - dampening) * g,  u = 0 at first
        p := p - lr * u,  or with `nesterov`  p - lr * (g + momentum * u);  without momentum  p - lr * g

    Numerics: dampening holds from the first step on, where PyTorch spares that one; `dampening=momentum` averages gradients
    Raises:   ArgumentError for Nesterov's rule without momentum or with dampening
    Source:   Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning"
    """

    is_pure = True

    def __init__(
        self,
        params: Params,
        lr: float | Schedule = 0.01,
        *,
        momentum: float = 0.0,
        dampening: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr, momentum=momentum, dampening=dampening, nesterov=nesterov, weight_decay=weight_decay)

    def check(self, hyper: Hyper) -> None:
        require_within("momentum", hyper.momentum, 0, 1)
        require_within("dampening", hyper.dampening, 0, 1)
        require_within("weight_decay", hyper.weight_decay, 0)
        if hyper.nesterov and (not hyper.momentum or hyper.dampening):
            details = {"momentum": hyper.momentum, "dampening": hyper.dampening}
            raise ArgumentError("nesterov needs momentum, and no dampening", details=details)

    def init(self, p: Tensor, hyper: Hyper) -> State:
        return {"u": zeros_like(p)} if hyper.momentum else {}

    def update(self, p: Tensor, g: Tensor, state: State, hyper: Hyper) -> tuple[Tensor, State]:
        if hyper.weight_decay:
            g = g + hyper.weight_decay * p
        if not hyper.momentum:
            return p - hyper.lr * g, state
        u = hyper.momentum * state["u"] + ((1 - hyper.dampening) * g if hyper.dampening else g)
        return p - hyper.lr * (g + hyper.momentum * u if hyper.nesterov else u), {"u": u}
