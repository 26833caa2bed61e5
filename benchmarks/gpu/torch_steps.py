"""The training steps of steps.py in PyTorch: python torch_steps.py [--mode MODE] [--device cuda] [--small] WORKLOAD

Modes: eager; compile, which is torch.compile of the model; reduce-overhead, the same with its graphs; graph, one CUDA graph
by hand around the whole eager step; graph-compile, one around the whole compiled step. The last two need a GPU. Precision is
that of steps.py: float32 without TF32, or bfloat16 by autocast. The protocol is that of steps.py too.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

MODES = ("eager", "compile", "reduce-overhead", "graph", "graph-compile")
WARMING = 5


class Task(NamedTuple):
    model: nn.Module
    x: Tensor
    labels: Tensor
    half: bool = False


def _images(batch: int, *shape: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.standard_normal((batch, *shape), np.float32)), torch.from_numpy(rng.integers(0, 10, batch))


def _tokens(count: int, *shape: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(0)
    x, labels = rng.integers(0, count, shape), rng.integers(0, count, shape[0] * shape[1])
    return torch.from_numpy(x), torch.from_numpy(labels)


class Residual(nn.Module):
    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def mlpresnet(small: bool) -> Task:
    def block(d: int, h: int) -> nn.Module:
        inner = [nn.Linear(d, h), nn.BatchNorm1d(h), nn.ReLU(), nn.Dropout(0.1), nn.Linear(h, d), nn.BatchNorm1d(d)]
        return nn.Sequential(Residual(*inner), nn.ReLU())

    model = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), *(block(100, 50) for _ in range(3)), nn.Linear(100, 10))
    return Task(model, *_images(8 if small else 128, 784))


def _convolution(i: int, o: int, size: int = 3, stride: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(i, o, size, stride, padding=size // 2), nn.BatchNorm2d(o), nn.ReLU())


def _twice(d: int) -> nn.Module:
    return Residual(_convolution(d, d), _convolution(d, d))


def _photographs(batch: int) -> tuple[Tensor, Tensor]:
    """Images with channels in front, as PyTorch has them; they lie in memory as steps.py has them, channels last."""
    x, labels = _images(batch, 32, 32, 3)
    return x.permute(0, 3, 1, 2), labels


def resnet9(small: bool) -> Task:
    model = nn.Sequential(
        _convolution(3, 16, 7, 4), _convolution(16, 32, 3, 2), _twice(32),
        _convolution(32, 64, 3, 2), _convolution(64, 128, 3, 2), _twice(128),
        nn.Flatten(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip
    x, labels = _photographs(4 if small else 128)
    return Task(model, x.contiguous(), labels)  # in float32, cuDNN is faster with channels in front


def resnet9_bf16(small: bool) -> Task:
    d = 8 if small else 64
    model = nn.Sequential(
        _convolution(3, d), _convolution(d, 2 * d), nn.MaxPool2d(2), _twice(2 * d),
        _convolution(2 * d, 4 * d), nn.MaxPool2d(2), _convolution(4 * d, 8 * d), nn.MaxPool2d(2), _twice(8 * d),
        nn.MaxPool2d(4), nn.Flatten(), nn.Linear(8 * d, 10),
    )  # fmt: skip
    return Task(model.to(memory_format=torch.channels_last), *_photographs(2 if small else 512), half=True)


class LanguageModel(nn.Module):
    def __init__(self, count: int, dim: int, layers: int) -> None:
        super().__init__()
        self.embed, self.rnn, self.head = nn.Embedding(count, dim), nn.LSTM(dim, dim, layers), nn.Linear(dim, count)

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.rnn(self.embed(x))
        return self.head(h.flatten(0, 1))


def lstm(small: bool) -> Task:
    count, dim, t, n = (100, 32, 5, 4) if small else (10_000, 512, 35, 64)
    return Task(LanguageModel(count, dim, 2), *_tokens(count, t, n))


class Block(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.queries_keys_values, self.out = nn.LayerNorm(dim), nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.norm2, self.up, self.down = nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        parts = self.queries_keys_values(self.norm1(x)).reshape(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(*parts.unbind(), is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(n, t, d))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class GPT(nn.Module):
    def __init__(self, count: int, dim: int, heads: int, layers: int, length: int) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(count, dim), nn.Embedding(length, dim)
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, count, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.token(x) + self.position.weight[: x.shape[1]]
        return self.head(self.norm(self.blocks(h))).flatten(0, 1)


def gpt_bf16(small: bool) -> Task:
    dim, heads, layers, t, n = (48, 6, 2, 16, 2) if small else (384, 6, 6, 256, 64)
    return Task(GPT(65, dim, heads, layers, t), *_tokens(65, n, t), half=True)


WORKLOADS = {f.__name__: f for f in (mlpresnet, resnet9, resnet9_bf16, lstm, gpt_bf16)}


# -- modes ------------------------------------------------------------------------------------------------------------------


def step_of(task: Task, mode: str, device: str) -> Callable[[], Tensor]:
    """Forward, backward and Adam. The loss is a tensor that a later step may overwrite."""
    model, x, labels = task.model.to(device), task.x.to(device), task.labels.to(device)
    opt = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True, capturable="graph" in mode)

    def loss_of() -> Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=task.half):
            return F.cross_entropy(model(x), labels)

    if mode in ("compile", "graph-compile"):
        loss_of = torch.compile(loss_of)
    elif mode == "reduce-overhead":
        loss_of = torch.compile(loss_of, mode=mode)

    def step() -> Tensor:
        opt.zero_grad(set_to_none=True)
        loss = loss_of()
        loss.backward()
        opt.step()
        return loss.detach()

    return _as_graph(step) if "graph" in mode else step


def _as_graph(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The whole step as one graph, its gradients and its loss in memory of the graph. The first call makes it."""
    made: list[tuple[torch.cuda.CUDAGraph, Tensor]] = []

    def first() -> Tensor:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            loss = step().clone()
            for _ in range(2):
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            held = step()
        made.append((graph, held))
        return loss

    def replayed() -> Tensor:
        if not made:
            return first()
        graph, loss = made[0]
        graph.replay()
        return loss

    return replayed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("--mode", choices=MODES, default="eager")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="few and small layers, a small batch: to try this file")
    args = parser.parse_args()
    if "graph" in args.mode and args.device != "cuda":
        raise SystemExit(f"{args.mode}: CUDA graphs need a GPU")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"PyTorch {torch.__version__} sees no GPU")
    if args.device == "cpu":
        torch.set_num_threads(1)  # small steps gain nothing by more, and threads wait by spinning
    warnings.simplefilter("ignore")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True  # it chooses convolutions by time
    torch.manual_seed(0)
    step = step_of(WORKLOADS[args.workload](args.small), args.mode, args.device)
    wait = torch.cuda.synchronize if args.device == "cuda" else lambda: None
    start = time.perf_counter()
    loss = step()
    first = loss.item()
    wait()
    seconds = time.perf_counter() - start
    for _ in range(WARMING):
        loss = step()
    wait()
    print("ready", seconds, first, flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            loss = step()
        wait()
        print(time.perf_counter() - start, loss.item(), flush=True)


if __name__ == "__main__":
    main()
