"""The training steps that Needle is measured by, each as a function that builds one: `WORKLOADS[name](device) -> step`.

A step is forward, backward and update on a fixed batch, and returns the loss. The peers' versions of the same steps, and the
program that times all of them in turn, stand outside of this repository.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import needle_core as ndl
from needle_core import nn

Step = Callable[[], ndl.Tensor]


class ScaleAdd(nn.Module):
    """x * s + b, with numbers s and b."""

    def __init__(self) -> None:
        self.s, self.b = nn.Parameter([1.0]), nn.Parameter([0.0])

    def forward(self, x: ndl.Tensor) -> ndl.Tensor:
        return x * self.s + self.b


class MultiPathScaleAdd(nn.Module):
    """The sum of two such paths."""

    def __init__(self) -> None:
        self.paths = [ScaleAdd(), ScaleAdd()]

    def forward(self, x: ndl.Tensor) -> ndl.Tensor:
        return self.paths[0](x) + self.paths[1](x)


class SumOfSquares(nn.Module):
    """The squared error, summed."""

    def forward(self, x: ndl.Tensor, y: ndl.Tensor) -> ndl.Tensor:
        return ((x - y) ** 2).sum()


def _step(model: nn.Module, loss: nn.Module, opt: ndl.optim.Optimizer, x: ndl.Tensor, y: ndl.Tensor) -> Step:
    def step() -> ndl.Tensor:
        opt.reset_grad()
        value: ndl.Tensor = loss(model(x), y)
        value.backward()
        opt.step()
        return value

    return step


def _images(n: int) -> tuple[ndl.Tensor, ndl.Tensor]:
    rng = np.random.default_rng(0)
    return ndl.Tensor(rng.normal(size=(n, 784)).astype(np.float32)), ndl.Tensor(rng.integers(0, 10, n))


def scaleadd() -> Step:
    """Four numbers, SGD: nothing but overhead."""
    model = MultiPathScaleAdd()
    x = ndl.Tensor([2.0])
    return _step(model, SumOfSquares(), ndl.optim.SGD(model.parameters(), lr=1e-2), x, x)


def mlp() -> Step:
    """784-256-10, batch 100, SGD: five matrix products."""
    model = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))
    return _step(model, nn.SoftmaxLoss(), ndl.optim.SGD(model.parameters(), lr=1e-2), *_images(100))


def _block(dim: int, hidden: int) -> nn.Module:
    inner = nn.Sequential(
        nn.Linear(dim, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(0.1), nn.Linear(hidden, dim), nn.BatchNorm1d(dim)
    )
    return nn.Sequential(nn.Residual(inner), nn.ReLU())


def mlpresnet() -> Step:
    """784-100, three residual blocks 100-50-100 with BatchNorm and Dropout, 100-10, batch 250, Adam."""
    blocks = [_block(100, 50) for _ in range(3)]
    model = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), *blocks, nn.Linear(100, 10))
    return _step(model, nn.SoftmaxLoss(), ndl.optim.Adam(model.parameters(), lr=1e-3), *_images(250))


WORKLOADS: dict[str, Callable[[], Step]] = {"scaleadd": scaleadd, "mlp": mlp, "mlpresnet": mlpresnet}
