"""The training steps that Needle is measured by, each as a function that builds one: `WORKLOADS[name](device) -> step`.

A step is forward, backward and update on a fixed batch, and returns the loss. The peers' versions of the same steps, and the
program that times all of them in turn, stand outside of this repository.
"""

from __future__ import annotations

import math
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
        y: ndl.Tensor = self.paths[0](x) + self.paths[1](x)
        return y


class SumOfSquares(nn.Module):
    """The squared error, summed."""

    def forward(self, x: ndl.Tensor, y: ndl.Tensor) -> ndl.Tensor:
        total: ndl.Tensor = ((x - y) ** 2).sum()
        return total


def _step(model: nn.Module, loss: nn.Module, opt: ndl.optim.Optimizer, x: ndl.Tensor, y: ndl.Tensor) -> Step:
    def step() -> ndl.Tensor:
        opt.reset_grad()
        value: ndl.Tensor = loss(model(x), y)
        value.backward()
        opt.step()
        return value

    return step


def _images(*shape: int) -> tuple[ndl.Tensor, ndl.Tensor]:
    rng = np.random.default_rng(0)
    return ndl.Tensor(rng.normal(size=shape).astype(np.float32)), ndl.Tensor(rng.integers(0, 10, shape[0]))


def _tokens(count: int, *shape: int) -> tuple[ndl.Tensor, ndl.Tensor]:
    """Tokens in a shape, and as many in one row to predict."""
    rng = np.random.default_rng(0)
    return ndl.Tensor(rng.integers(0, count, shape)), ndl.Tensor(rng.integers(0, count, math.prod(shape)))


def scaleadd() -> Step:
    """Four numbers, SGD: nothing but overhead."""
    model = MultiPathScaleAdd()
    x = ndl.Tensor([2.0])
    return _step(model, SumOfSquares(), ndl.optim.SGD(model.parameters(), lr=1e-2), x, x)


def mlp() -> Step:
    """784-256-10, batch 100, SGD: five matrix products."""
    model = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))
    return _step(model, nn.SoftmaxLoss(), ndl.optim.SGD(model.parameters(), lr=1e-2), *_images(100, 784))


def _block(dim: int, hidden: int) -> nn.Module:
    inner = nn.Sequential(
        nn.Linear(dim, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(0.1), nn.Linear(hidden, dim), nn.BatchNorm1d(dim)
    )
    return nn.Sequential(nn.Residual(inner), nn.ReLU())


def mlpresnet() -> Step:
    """784-100, three residual blocks 100-50-100 with BatchNorm and Dropout, 100-10, batch 250, Adam."""
    blocks = [_block(100, 50) for _ in range(3)]
    model = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), *blocks, nn.Linear(100, 10))
    return _step(model, nn.SoftmaxLoss(), ndl.optim.Adam(model.parameters(), lr=1e-3), *_images(250, 784))


def _convolution(channels: int, filters: int, size: int, stride: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, filters, size, stride, padding=size // 2), nn.BatchNorm2d(filters), nn.ReLU())


def resnet9() -> Step:
    """Eight convolutions with BatchNorm, two residual connections, two linear layers; batch 128 of 32 x 32 x 3, Adam."""
    model = nn.Sequential(
        _convolution(3, 16, 7, 4), _convolution(16, 32, 3, 2),
        nn.Residual(nn.Sequential(_convolution(32, 32, 3, 1), _convolution(32, 32, 3, 1))),
        _convolution(32, 64, 3, 2), _convolution(64, 128, 3, 2),
        nn.Residual(nn.Sequential(_convolution(128, 128, 3, 1), _convolution(128, 128, 3, 1))),
        nn.Flatten(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip
    return _step(model, nn.SoftmaxLoss(), ndl.optim.Adam(model.parameters(), lr=1e-3), *_images(128, 32, 32, 3))


class LanguageModel(nn.Module):
    """Scores of the next token by an LSTM, one row for each token of x (t, n)."""

    def __init__(self, count: int, dim: int) -> None:
        self.embed, self.rnn, self.head = nn.Embedding(count, dim), nn.LSTM(dim, dim), nn.Linear(dim, count)

    def forward(self, x: ndl.Tensor) -> ndl.Tensor:
        h, _ = self.rnn(self.embed(x))
        scores: ndl.Tensor = self.head(h.reshape(-1, h.shape[-1]))
        return scores


def lstm() -> Step:
    """Embedding of 10,000 tokens, one LSTM layer 100-100, 100-10,000; 40 steps of batch 16, Adam."""
    model = LanguageModel(10_000, 100)
    return _step(model, nn.SoftmaxLoss(), ndl.optim.Adam(model.parameters(), lr=1e-3), *_tokens(10_000, 40, 16))


class Block(nn.Module):
    """Causal attention and a perceptron, each behind a LayerNorm and beside a residual connection."""

    def __init__(self, dim: int, heads: int) -> None:
        self.norm1, self.attention = nn.LayerNorm(dim), nn.MultiHeadAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.perceptron = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(approximate="tanh"), nn.Linear(4 * dim, dim))

    def forward(self, x: ndl.Tensor) -> ndl.Tensor:
        x = x + self.attention(self.norm1(x), causal=True)
        y: ndl.Tensor = x + self.perceptron(self.norm2(x))
        return y


class GPT(nn.Module):
    """Scores of the next token by a transformer, one row for each token of x (n, t)."""

    def __init__(self, count: int, dim: int, heads: int, layers: int, length: int) -> None:
        self.token, self.position = nn.Embedding(count, dim), nn.Embedding(length, dim)
        self.blocks = [Block(dim, heads) for _ in range(layers)]
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, count, bias=False)

    def forward(self, x: ndl.Tensor) -> ndl.Tensor:
        h: ndl.Tensor = self.token(x) + self.position(ndl.arange(x.shape[1], device=x.device))
        for block in self.blocks:
            h = block(h)
        scores: ndl.Tensor = self.head(self.norm(h))
        return scores.reshape(-1, scores.shape[-1])


def gpt() -> Step:
    """Four blocks of 128 with 4 heads, 65 characters; batch 12 of 64, Adam."""
    model = GPT(65, dim=128, heads=4, layers=4, length=64)
    return _step(model, nn.SoftmaxLoss(), ndl.optim.Adam(model.parameters(), lr=1e-3), *_tokens(65, 12, 64))


WORKLOADS: dict[str, Callable[[], Step]] = {step.__name__: step for step in (scaleadd, mlp, mlpresnet, resnet9, lstm, gpt)}
