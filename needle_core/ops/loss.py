"""Losses: how far predictions are from targets, as one number or one a sample."""

from __future__ import annotations

from typing import Any

from needle_core.doors import promoting, to_floating
from needle_core.errors import ArgumentError, ShapeError
from needle_core.op import composite
from needle_core.ops.activation import softplus
from needle_core.ops.create import one_hot
from needle_core.ops.elementwise import abs, square
from needle_core.ops.index import take_along_axis
from needle_core.ops.normalize import log_softmax, softmax
from needle_core.ops.reduce import mean, sum
from needle_core.ops.shape import expand_dims
from needle_core.spec import DType, Spec, float32, int64, promote
from needle_core.tensor import Tensor

__all__ = [
    "bce_with_logits", "cross_entropy", "cross_entropy_grad", "l1_loss", "mse_loss",
]  # fmt: skip


def _reduction(name: Any) -> str:
    if name not in ("mean", "sum", "none"):
        raise ArgumentError(f"reduction is 'mean', 'sum' or 'none', not {name!r}")
    return str(name)


def _reduce(losses: Tensor, reduction: str) -> Tensor:
    return mean(losses) if reduction == "mean" else sum(losses) if reduction == "sum" else losses


def _keep_labels(x: DType | type, labels: DType | type) -> list[DType]:
    """x in a floating dtype; labels keep theirs."""
    met = promote(x)
    return [met if met.is_floating else float32, promote(labels)]


@promoting(_keep_labels)
def _classified(x: Spec, labels: Spec, *, reduction: str = "mean") -> tuple[Spec, dict[str, Any]]:
    if not labels.dtype.is_integer:
        raise ArgumentError(f"labels are integers, one for each row, not {labels.dtype}", hint="y.argmax(-1) of one-hot rows")
    if labels.shape != x.shape[:-1] or x.ndim < 1:
        raise ShapeError(f"labels need the shape {list(x.shape[:-1])} of the rows of scores, not {list(labels.shape)}")
    if not x.shape[-1]:
        raise ShapeError("there are no classes")
    how = _reduction(reduction)
    return x.like(shape=labels.shape if how == "none" else ()), {"reduction": how}


def _keep_gradient_and_labels(g: DType | type, x: DType | type, labels: DType | type) -> list[DType]:
    """g and x in the floating dtype where they meet; labels keep theirs."""
    met = _keep_labels(promote(g, x), labels)
    return [met[0], *met]


@promoting(_keep_gradient_and_labels)
def _classified_gradient(g: Spec, x: Spec, labels: Spec, *, reduction: str = "mean") -> tuple[Spec, dict[str, Any]]:
    return x, _classified(x, labels, reduction=reduction)[1]


@composite(_classified_gradient)
def cross_entropy_grad(g: Tensor, x: Tensor, labels: Tensor, *, reduction: str = "mean") -> Tensor:
    """The gradient of cross_entropy for the scores: (softmax(x) - one_hot(labels)) g, over the number of rows for "mean"."""
    classes = x.shape[-1]
    labels = (labels.astype(int64) + classes) % classes
    scale = g / max(labels.size, 1) if reduction == "mean" else g if reduction == "sum" else expand_dims(g, -1)
    return (softmax(x) - one_hot(labels, num_classes=classes, dtype=x.dtype)) * scale


@composite(_classified)
def cross_entropy(x: Tensor, labels: Tensor, *, reduction: str = "mean") -> Tensor:
    """Softmax cross entropy of scores over the last axis with integer labels.

        loss[i] = log(sum_j exp(x[i, j])) - x[i, labels[i]]

    Shapes:   x (*s, c), labels (*s) -> () for reduction "mean" and "sum", (*s) for "none"
    Dtypes:   x floating, labels integer
    Raises:   BoundsError for a label outside of -c ... c - 1
    """
    picked = take_along_axis(log_softmax(x), expand_dims(labels, -1), axis=-1)
    return -_reduce(picked.reshape(labels.shape), reduction)


cross_entropy.vjp(lambda g, y, x, labels, reduction: cross_entropy_grad(g, x, labels, reduction=reduction), None)


@promoting(to_floating)
def _compared(prediction: Spec, target: Spec, *, reduction: str = "mean") -> tuple[Spec, dict[str, Any]]:
    if prediction.shape != target.shape:
        raise ShapeError(f"prediction and target differ in shape, {list(prediction.shape)} and {list(target.shape)}")
    how = _reduction(reduction)
    return prediction if how == "none" else prediction.like(shape=()), {"reduction": how}


@composite(_compared)
def mse_loss(x: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """Squared error (x - target)^2."""
    return _reduce(square(x - target), reduction)


@composite(_compared)
def l1_loss(x: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """Absolute error |x - target|.

    Gradient: 0 where they are equal
    """
    return _reduce(abs(x - target), reduction)


@composite(_compared)
def bce_with_logits(x: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """Binary cross entropy of scores with probabilities: -t log s(x) - (1 - t) log(1 - s(x)), s the sigmoid; no overflow."""
    return _reduce(softplus(x) - x * target, reduction)
