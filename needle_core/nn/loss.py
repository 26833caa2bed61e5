"""Losses as modules. `reduction` is "mean", "sum" or "none", which gives one loss for each sample or element."""

from __future__ import annotations

from needle_core.nn.module import Module
from needle_core.ops import bce_with_logits, cross_entropy, l1_loss, mse_loss
from needle_core.tensor import Tensor


class _Loss(Module):
    """A loss with its reduction."""

    def __init__(self, reduction: str = "mean") -> None:
        self.reduction = reduction

    def extra_repr(self) -> str:
        return "" if self.reduction == "mean" else f"reduction={self.reduction!r}"


class SoftmaxLoss(_Loss):
    """Softmax cross entropy of scores x (*s, c) with integer labels y (*s): log(sum_j exp(x[j])) - x[y]."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(x, y, reduction=self.reduction)


class L2Loss(_Loss):
    """Squared error (x - y)^2."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return mse_loss(x, y, reduction=self.reduction)


class L1Loss(_Loss):
    """Absolute error |x - y|."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return l1_loss(x, y, reduction=self.reduction)


class BCEWithLogitsLoss(_Loss):
    """Binary cross entropy of scores x with probabilities y: -y log s(x) - (1 - y) log(1 - s(x)), s the sigmoid."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return bce_with_logits(x, y, reduction=self.reduction)


CrossEntropyLoss = SoftmaxLoss
"""The field's name of the course's SoftmaxLoss."""

MSELoss = L2Loss
"""The field's name of the course's L2Loss."""
