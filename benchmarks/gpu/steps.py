"""Five training steps in Needle, for GPUs: python steps.py [--device cuda:0] [--small] WORKLOAD

Precision is float32 (no TF32), or where a name says so bfloat16 by `ndl.autocast`. torch_steps.py and jax_steps.py beside this
file have the same models, batches and optimizer.

Prints `ready SECONDS LOSS`, the time of the first step with all compilation, and its loss, once warm. Then for each line `N`
on standard input it runs N steps and prints `SECONDS LOSS`: the wall time of all with all work finished, and the last loss.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import needle_core as ndl
from needle_core import nn
from needle_core.benchmark.worker import serve
from needle_core.benchmark.workloads import GPT

WARMING = 5


class Task(NamedTuple):
    """A model, scores of its inputs against labels by cross entropy, and whether its products are computed in bfloat16."""

    model: nn.Module
    x: ndl.Tensor
    labels: ndl.Tensor
    half: bool = False


def _images(batch: int, *shape: int) -> tuple[ndl.Tensor, ndl.Tensor]:
    rng = np.random.default_rng(0)
    return ndl.Tensor(rng.standard_normal((batch, *shape), np.float32)), ndl.Tensor(rng.integers(0, 10, batch))


def _tokens(count: int, *shape: int) -> tuple[ndl.Tensor, ndl.Tensor]:
    rng = np.random.default_rng(0)
    return ndl.Tensor(rng.integers(0, count, shape)), ndl.Tensor(rng.integers(0, count, shape[0] * shape[1]))


def mlpresnet(small: bool) -> Task:
    """784-100, three residual blocks 100-50-100 with BatchNorm and Dropout, 100-10."""

    def block(d: int, h: int) -> nn.Module:
        inner = [nn.Linear(d, h), nn.BatchNorm1d(h), nn.ReLU(), nn.Dropout(0.1), nn.Linear(h, d), nn.BatchNorm1d(d)]
        return nn.Sequential(nn.Residual(nn.Sequential(*inner)), nn.ReLU())

    model = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), *(block(100, 50) for _ in range(3)), nn.Linear(100, 10))
    return Task(model, *_images(8 if small else 128, 784))


def _convolution(i: int, o: int, size: int = 3, stride: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(i, o, size, stride, padding=size // 2), nn.BatchNorm2d(o), nn.ReLU())


def _twice(d: int) -> nn.Module:
    return nn.Residual(nn.Sequential(_convolution(d, d), _convolution(d, d)))


def resnet9(small: bool) -> Task:
    """The narrow one, which shrinks images by strides: 16 to 128 channels, 1 million multiplications an image."""
    model = nn.Sequential(
        _convolution(3, 16, 7, 4), _convolution(16, 32, 3, 2), _twice(32),
        _convolution(32, 64, 3, 2), _convolution(64, 128, 3, 2), _twice(128),
        nn.Flatten(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip
    return Task(model, *_images(4 if small else 128, 32, 32, 3))


def resnet9_bf16(small: bool) -> Task:
    """The wide one, of full images and pooling: 64 to 512 channels, 380 million multiplications an image."""
    d = 8 if small else 64
    model = nn.Sequential(
        _convolution(3, d), _convolution(d, 2 * d), nn.MaxPool2d(2), _twice(2 * d),
        _convolution(2 * d, 4 * d), nn.MaxPool2d(2), _convolution(4 * d, 8 * d), nn.MaxPool2d(2), _twice(8 * d),
        nn.MaxPool2d(4), nn.Flatten(), nn.Linear(8 * d, 10),
    )  # fmt: skip
    return Task(model, *_images(2 if small else 512, 32, 32, 3), half=True)


class LanguageModel(nn.Module):
    """Scores of the next token by layers of LSTM, one row for each token of x (t, n)."""

    def __init__(self, count: int, dim: int, layers: int) -> None:
        self.embed, self.rnn, self.head = nn.Embedding(count, dim), nn.LSTM(dim, dim, layers), nn.Linear(dim, count)

    def forward(self, x: ndl.Tensor) -> ndl.Tensor:
        h, _ = self.rnn(self.embed(x))
        scores: ndl.Tensor = self.head(h.reshape(-1, h.shape[-1]))
        return scores


def lstm(small: bool) -> Task:
    """10,000 tokens, two layers of 512; 35 steps of batch 64."""
    count, dim, t, n = (100, 32, 5, 4) if small else (10_000, 512, 35, 64)
    return Task(LanguageModel(count, dim, 2), *_tokens(count, t, n))


def gpt_bf16(small: bool) -> Task:
    """65 characters, six blocks of 384 with six heads; batch 64 of 256."""
    dim, heads, layers, t, n = (48, 6, 2, 16, 2) if small else (384, 6, 6, 256, 64)
    return Task(GPT(65, dim, heads, layers, t), *_tokens(65, n, t), half=True)


WORKLOADS = {f.__name__: f for f in (mlpresnet, resnet9, resnet9_bf16, lstm, gpt_bf16)}


def step_of(task: Task) -> Callable[[], ndl.Tensor]:
    """Forward, backward and Adam, compiled as one step."""
    opt = ndl.optim.Adam(task.model.parameters(), lr=1e-3)
    cross_entropy = nn.SoftmaxLoss()

    def loss_of() -> ndl.Tensor:
        loss: ndl.Tensor = cross_entropy(task.model(task.x), task.labels)
        return loss

    if task.half:
        loss_of = ndl.autocast("bfloat16")(loss_of)

    def step() -> ndl.Tensor:
        opt.reset_grad()
        loss = loss_of()
        loss.backward()
        opt.step()
        return loss

    return ndl.compile(step)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--small", action="store_true", help="few and small layers, a small batch: to try this file")
    args = parser.parse_args()
    device = ndl.device(args.device)
    ndl.set_default_device(device)
    ndl.manual_seed(0)
    step = step_of(WORKLOADS[args.workload](args.small))
    start = time.perf_counter()
    first = step()
    device.backend.synchronize(device)
    seconds = time.perf_counter() - start
    for _ in range(WARMING):
        step()
    device.backend.synchronize(device)
    print("ready", seconds, float(first), flush=True)
    serve(step, device)


if __name__ == "__main__":
    main()
