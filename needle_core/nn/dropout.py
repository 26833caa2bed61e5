"""Dropout."""

from __future__ import annotations

from needle_core.errors import ArgumentError
from needle_core.nn.module import Module
from needle_core.ops import where
from needle_core.random import Generator, default_generator
from needle_core.tensor import Tensor


class Dropout(Module):
    """In training, each element is dropped with probability `p`, and what stays is scaled so that the mean does too.

        y[i] = x[i] / (1 - p) with probability 1 - p, else 0;  in evaluation y = x

    The choice is drawn from `generator`, or else from the default generator of the device of x.

    Source:   Srivastava et al. 2014, Journal of Machine Learning Research 15
    """

    def __init__(self, p: float = 0.5, *, generator: Generator | None = None) -> None:
        if not 0 <= p < 1:
            raise ArgumentError(f"Dropout: p is a probability in [0, 1), not {p!r}")
        self.p, self.generator = p, generator

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        generator = default_generator(x.device) if self.generator is None else self.generator
        return where(generator.bernoulli(*x.shape, p=1 - self.p), x / (1 - self.p), 0)

    def extra_repr(self) -> str:
        return f"{self.p}"
