"""Losses."""

from __future__ import annotations

from typing import Final

from needle_core import nn
from needle_core.testing.layers.layer import like_op
from needle_core.testing.samples import index, real

LAYERS: Final = (
    *(like_op(nn.SoftmaxLoss, "cross_entropy", real(4, 3), index(4, below=3), reduction=r) for r in ("mean", "sum", "none")),
    *(like_op(nn.L2Loss, "mse_loss", real(2, 3), real(2, 3), reduction=r) for r in ("mean", "sum", "none")),
    like_op(nn.L1Loss, "l1_loss", real(2, 3, low=1, high=2), real(2, 3, low=-2, high=0), reduction="mean"),
    like_op(nn.BCEWithLogitsLoss, "bce_with_logits", real(2, 3), real(2, 3, low=0, high=1), reduction="mean"),
)  # fmt: skip
