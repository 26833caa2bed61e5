"""Layers that normalise activations."""

from __future__ import annotations

import math
from collections.abc import Sequence

from needle_core.backend import DeviceLike
from needle_core.doors import normalize_shape
from needle_core.errors import ArgumentError, ShapeError
from needle_core.nn import init
from needle_core.nn.formats import channels_back, channels_last, normalize_format
from needle_core.nn.module import Buffer, Module, Parameter
from needle_core.ops import batch_norm, batch_statistics, group_norm, instance_norm, layer_norm, rms_norm
from needle_core.spec import DTypeLike
from needle_core.tensor import Tensor


class _BatchNorm(Module):
    """What BatchNorm1d and BatchNorm2d share: parameters, running statistics, and `_normalized` for channels last."""

    def __init__(
        self, dim: int, eps: float = 1e-5, momentum: float = 0.1, device: DeviceLike | None = None, dtype: DTypeLike = "float32"
    ) -> None:
        self.dim, self.eps, self.momentum = dim, eps, momentum
        self.weight = Parameter(init.ones(dim, device=device, dtype=dtype))
        self.bias = Parameter(init.zeros(dim, device=device, dtype=dtype))
        self.running_mean = Buffer(init.zeros(dim, device=device, dtype=dtype))
        self.running_var = Buffer(init.ones(dim, device=device, dtype=dtype))

    def _normalized(self, x: Tensor) -> Tensor:
        if x.shape[-1:] != (self.dim,) or x.ndim < 2:
            what = f"{type(self).__name__}: x needs two axes or more, the last of size {self.dim}"
            raise ShapeError(what, details={"x": x.spec})
        mean, var = self._statistics(x) if self.training else (self.running_mean, self.running_var)
        return batch_norm(x, mean, var, self.weight, self.bias, eps=self.eps)

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the batch, which move the running statistics."""
        n = math.prod(x.shape[:-1])
        if n < 2:
            raise ShapeError(
                f"{type(self).__name__}: in training, at least two samples are needed for a variance, not {n}",
                details={"x": x.spec},
                hint="model.eval() uses the running statistics",
            )
        mean, var = batch_statistics(x)
        self._observe(self.running_mean, mean.detach())
        self._observe(self.running_var, var.detach() * (n / (n - 1)))
        return mean, var

    def _observe(self, running: Buffer, observed: Tensor) -> None:
        running.data = ((1 - self.momentum) * running + self.momentum * observed).astype(running.dtype)

    def extra_repr(self) -> str:
        return f"{self.dim}, eps={self.eps}, momentum={self.momentum}"


class BatchNorm1d(_BatchNorm):
    """Each channel (last axis) normalised: over the batch in training, by running statistics in evaluation.

        y = (x - m) / sqrt(v + eps) * weight + bias

    In training, m and v are mean and variance of the n samples at hand, v with divisor n; and the running statistics move,
    running <- (1 - momentum) running + momentum observed, where the variance observed has the divisor n - 1.

    Shapes:   x (*s, dim) -> (*s, dim); n is the product of s
    Raises:   ShapeError in training for fewer than two samples
    Source:   Ioffe & Szegedy 2015, arXiv:1502.03167
    """

    def forward(self, x: Tensor) -> Tensor:
        return self._normalized(x)


class BatchNorm2d(_BatchNorm):
    """BatchNorm1d of images: every pixel of every image is a sample.

    Shapes:   x (n, h, w, dim) -> (n, h, w, dim); (n, dim, h, w) -> (n, dim, h, w) with data_format="NCHW"
    Raises:   ShapeError in training for fewer than two pixels
    """

    def __init__(
        self,
        dim: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        data_format: str = "NHWC",
        device: DeviceLike | None = None,
        dtype: DTypeLike = "float32",
    ) -> None:
        self.data_format = normalize_format("BatchNorm2d", data_format, 2)
        super().__init__(dim, eps, momentum, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        y = self._normalized(channels_last("BatchNorm2d", x, self.data_format))
        return channels_back(y, self.data_format)

    def extra_repr(self) -> str:
        return super().extra_repr() + _other_format(self.data_format)


class LayerNorm(Module):
    """Each sample normalised over its last axes, those of `shape`, with divisor n in the variance.

        y = (x - mean) / sqrt(var + eps) * weight + bias

    Shapes:   x (*s, *shape) -> (*s, *shape)
    Source:   Ba, Kiros & Hinton 2016, arXiv:1607.06450
    """

    def __init__(
        self, shape: int | Sequence[int], eps: float = 1e-5, device: DeviceLike | None = None, dtype: DTypeLike = "float32"
    ) -> None:
        self.shape, self.eps = normalize_shape(shape), eps
        self.weight = Parameter(init.ones(*self.shape, device=device, dtype=dtype))
        self.bias = Parameter(init.zeros(*self.shape, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(x, self.weight, self.bias, eps=self.eps)

    def extra_repr(self) -> str:
        return f"{self.shape[0] if len(self.shape) == 1 else self.shape}, eps={self.eps}"


class GroupNorm(Module):
    """In each sample each group of neighbouring channels normalised, with divisor n in the variance.

        y = (x - mean) / sqrt(var + eps) * weight + bias

    Shapes:   x (n, *s, dim) -> (n, *s, dim); (n, dim, h, w) -> (n, dim, h, w) with data_format="NCHW"
    Source:   Wu & He 2018, arXiv:1803.08494
    """

    def __init__(
        self,
        groups: int,
        dim: int,
        eps: float = 1e-5,
        data_format: str = "NHWC",
        device: DeviceLike | None = None,
        dtype: DTypeLike = "float32",
    ) -> None:
        if groups < 1 or dim % groups:
            raise ArgumentError(f"GroupNorm: {dim} channels do not make {groups} groups")
        self.groups, self.dim, self.eps = groups, dim, eps
        self.data_format = normalize_format("GroupNorm", data_format, 2)
        self.weight = Parameter(init.ones(dim, device=device, dtype=dtype))
        self.bias = Parameter(init.zeros(dim, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        if self.data_format == "NCHW":
            x = channels_last("GroupNorm", x, self.data_format)
        y = group_norm(x, self.weight, self.bias, groups=self.groups, eps=self.eps)
        return channels_back(y, self.data_format)

    def extra_repr(self) -> str:
        return f"{self.groups}, {self.dim}, eps={self.eps}" + _other_format(self.data_format)


class InstanceNorm2d(Module):
    """In each image each channel normalised over its pixels, with divisor n in the variance; no running statistics.

        y = (x - mean) / sqrt(var + eps) * weight + bias

    Shapes:   x (n, h, w, dim) -> (n, h, w, dim); (n, dim, h, w) -> (n, dim, h, w) with data_format="NCHW"
    Source:   Ulyanov, Vedaldi & Lempitsky 2016, arXiv:1607.08022
    """

    def __init__(
        self,
        dim: int,
        eps: float = 1e-5,
        data_format: str = "NHWC",
        device: DeviceLike | None = None,
        dtype: DTypeLike = "float32",
    ) -> None:
        self.dim, self.eps = dim, eps
        self.data_format = normalize_format("InstanceNorm2d", data_format, 2)
        self.weight = Parameter(init.ones(dim, device=device, dtype=dtype))
        self.bias = Parameter(init.zeros(dim, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        last = channels_last("InstanceNorm2d", x, self.data_format)
        return channels_back(instance_norm(last, self.weight, self.bias, eps=self.eps), self.data_format)

    def extra_repr(self) -> str:
        return f"{self.dim}, eps={self.eps}" + _other_format(self.data_format)


class RMSNorm(Module):
    """Each sample scaled to a mean square of 1 over its last axes, those of `shape`.

        y = x / sqrt(mean(x^2) + eps) * weight

    Shapes:   x (*s, *shape) -> (*s, *shape)
    Source:   Zhang & Sennrich 2019, arXiv:1910.07467
    """

    def __init__(
        self, shape: int | Sequence[int], eps: float = 1e-5, device: DeviceLike | None = None, dtype: DTypeLike = "float32"
    ) -> None:
        self.shape, self.eps = normalize_shape(shape), eps
        self.weight = Parameter(init.ones(*self.shape, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, eps=self.eps)

    def extra_repr(self) -> str:
        return f"{self.shape[0] if len(self.shape) == 1 else self.shape}, eps={self.eps}"


LayerNorm1d = LayerNorm
"""The course's name, where `shape` is one size."""


def _other_format(data_format: str) -> str:
    return "" if data_format == "NHWC" else f", data_format={data_format!r}"
