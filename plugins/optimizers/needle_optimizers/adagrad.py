"""Adagrad and RMSprop: steps divided by the size that gradients have had so far, or lately."""

from __future__ import annotations

from needle_core.ops import full_like, maximum, sqrt, square, zeros_like
from needle_core.optim import Hyper, Optimizer, Params, Schedule, State, require_within
from needle_core.tensor import Tensor


class Adagrad(Optimizer):
    """Steps divided by the root of the sum of all squared gradients.

        g := g + weight_decay * p
        s := s + g²,  s = initial_accumulator at first
        p := p - lr * g / (√s + eps)

    Source: Duchi, Hazan & Singer 2011, JMLR 12
    """

    is_pure = True

    def __init__(
        self,
        params: Params,
        lr: float | Schedule = 0.01,
        *,
        eps: float = 1e-10,
        weight_decay: float = 0.0,
        initial_accumulator: float = 0.0,
    ) -> None:
        super().__init__(params, lr, eps=eps, weight_decay=weight_decay, initial_accumulator=initial_accumulator)

    def check(self, hyper: Hyper) -> None:
        require_within("eps", hyper.eps, 0)
        require_within("weight_decay", hyper.weight_decay, 0)
        require_within("initial_accumulator", hyper.initial_accumulator, 0)

    def init(self, p: Tensor, hyper: Hyper) -> State:
        return {"s": full_like(p, hyper.initial_accumulator)}

    def update(self, p: Tensor, g: Tensor, state: State, hyper: Hyper) -> tuple[Tensor, State]:
        if hyper.weight_decay:
            g = g + hyper.weight_decay * p
        s = state["s"] + square(g)
        return p - hyper.lr * g / (sqrt(s) + hyper.eps), {"s": s}


class RMSprop(Optimizer):
    """Steps divided by the root of a running mean of squared gradients, or with `centered` of their running variance.

        g := g + weight_decay * p
        v := alpha * v + (1 - alpha) * g²
        a := alpha * a + (1 - alpha) * g;  v̂ = max(v - a², 0) if centered, else v
        u := momentum * u + g / (√v̂ + eps)
        p := p - lr * u

    Source: Tieleman & Hinton 2012, lecture 6.5 of "Neural Networks for Machine Learning"; Graves 2013, arXiv:1308.0850
    """

    is_pure = True

    def __init__(
        self,
        params: Params,
        lr: float | Schedule = 0.01,
        *,
        alpha: float = 0.99,
        eps: float = 1e-8,
        momentum: float = 0.0,
        centered: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr, alpha=alpha, eps=eps, momentum=momentum, centered=centered, weight_decay=weight_decay)

    def check(self, hyper: Hyper) -> None:
        require_within("alpha", hyper.alpha, 0, 1)
        require_within("eps", hyper.eps, 0)
        require_within("momentum", hyper.momentum, 0, 1)
        require_within("weight_decay", hyper.weight_decay, 0)

    def init(self, p: Tensor, hyper: Hyper) -> State:
        kept = ["v", *(["a"] if hyper.centered else []), *(["u"] if hyper.momentum else [])]
        return {name: zeros_like(p) for name in kept}

    def update(self, p: Tensor, g: Tensor, state: State, hyper: Hyper) -> tuple[Tensor, State]:
        if hyper.weight_decay:
            g = g + hyper.weight_decay * p
        after = {"v": hyper.alpha * state["v"] + (1 - hyper.alpha) * square(g)}
        spread = after["v"]
        if hyper.centered:
            after["a"] = hyper.alpha * state["a"] + (1 - hyper.alpha) * g
            spread = maximum(spread - square(after["a"]), 0.0)  # rounding may leave less than nothing
        u = g / (sqrt(spread) + hyper.eps)
        if hyper.momentum:
            u = after["u"] = hyper.momentum * state["u"] + u
        return p - hyper.lr * u, after
