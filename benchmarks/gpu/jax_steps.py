"""The training steps of steps.py in JAX, each one jitted function with donated state: python jax_steps.py [--small] WORKLOAD

Precision is that of steps.py: float32 with `jax_default_matmul_precision="float32"`, which forbids TF32, or products of
bfloat16 operands where steps.py has autocast. Attention is `jax.nn.dot_product_attention`, by cuDNN where a GPU computes in
bfloat16. The protocol is that of steps.py too.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

WARMING = 5
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # others use the device too

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

Tree = Any
Scores = Callable[[Tree, Tree, jax.Array, jax.Array], tuple[jax.Array, Tree]]
"""Of parameters, running statistics, a key and inputs: scores, and new statistics."""


class Task(NamedTuple):
    parameters: Tree
    statistics: Tree
    scores: Scores
    x: jax.Array
    labels: jax.Array


random = np.random.default_rng(1)


def _uniform(*shape: int, fan: int) -> jax.Array:
    """Weights as PyTorch's layers start with them."""
    return jnp.asarray(random.uniform(-1, 1, shape) / math.sqrt(fan), jnp.float32)


def _linear(i: int, o: int) -> Tree:
    return {"w": _uniform(i, o, fan=i), "b": _uniform(o, fan=i)}


def _scale(d: int) -> Tree:
    return {"w": jnp.ones(d), "b": jnp.zeros(d)}


def _moments(d: int) -> Tree:
    return {"mean": jnp.zeros(d), "var": jnp.ones(d)}


def _images(batch: int, *shape: int) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.standard_normal((batch, *shape), np.float32)), jnp.asarray(rng.integers(0, 10, batch))


def _tokens(count: int, *shape: int) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    x, labels = rng.integers(0, count, shape), rng.integers(0, count, shape[0] * shape[1])
    return jnp.asarray(x), jnp.asarray(labels)


def _product(p: Tree, x: jax.Array) -> jax.Array:
    return x @ p["w"] + p["b"]


def _product_in_half(p: Tree, x: jax.Array) -> jax.Array:
    y = x.astype(jnp.bfloat16) @ p["w"].astype(jnp.bfloat16)
    return y + p["b"].astype(jnp.bfloat16) if "b" in p else y


def _batch_norm(p: Tree, s: Tree, x: jax.Array) -> tuple[jax.Array, Tree]:
    axes = tuple(range(x.ndim - 1))
    n = x.size // x.shape[-1]
    mean, var = x.mean(axes), x.var(axes)
    y = (x - mean) * jax.lax.rsqrt(var + 1e-5) * p["w"] + p["b"]
    return y, {"mean": 0.9 * s["mean"] + 0.1 * mean, "var": 0.9 * s["var"] + 0.1 * var * n / max(n - 1, 1)}


def _layer_norm(p: Tree, x: jax.Array) -> jax.Array:
    mean = x.mean(-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5) * p["w"] + p["b"]


def mlpresnet(small: bool) -> Task:
    blocks = [{"in": _linear(100, 50), "n1": _scale(50), "out": _linear(50, 100), "n2": _scale(100)} for _ in range(3)]
    parameters = {"first": _linear(784, 100), "blocks": blocks, "last": _linear(100, 10)}

    def scores(p: Tree, statistics: Tree, key: jax.Array, x: jax.Array) -> tuple[jax.Array, Tree]:
        h, new = jax.nn.relu(_product(p["first"], x)), []
        for b, s, k in zip(p["blocks"], statistics, jax.random.split(key, 3), strict=True):
            u, s1 = _batch_norm(b["n1"], s[0], _product(b["in"], h))
            u = jax.nn.relu(u)
            u = jnp.where(jax.random.bernoulli(k, 0.9, u.shape), u / 0.9, 0)
            u, s2 = _batch_norm(b["n2"], s[1], _product(b["out"], u))
            h = jax.nn.relu(h + u)
            new.append([s1, s2])
        return _product(p["last"], h), new

    return Task(parameters, [[_moments(50), _moments(100)] for _ in range(3)], scores, *_images(8 if small else 128, 784))


class _Convolutions:
    """Convolutions with batch norm and ReLU, built in the order in which they are applied."""

    def __init__(self, half: bool) -> None:
        self.dtype = jnp.bfloat16 if half else jnp.float32
        self.parameters: list[Tree] = []
        self.statistics: list[Tree] = []
        self.strides: list[int] = []

    def add(self, i: int, o: int, size: int = 3, stride: int = 1) -> None:
        fan = i * size * size
        self.parameters.append({"w": _uniform(size, size, i, o, fan=fan), "b": _uniform(o, fan=fan), "norm": _scale(o)})
        self.statistics.append(_moments(o))
        self.strides.append(stride)

    def apply(self, p: list[Tree], statistics: list[Tree], new: list[Tree], h: jax.Array) -> jax.Array:
        """The next one: `new` gets its statistics."""
        at = len(new)
        w, stride = p[at]["w"], self.strides[at]
        sides = [(n // 2, n // 2) for n in w.shape[:2]]
        y = jax.lax.conv_general_dilated(
            h.astype(self.dtype), w.astype(self.dtype), (stride, stride), sides, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        y, s = _batch_norm(p[at]["norm"], statistics[at], y.astype(jnp.float32) + p[at]["b"])
        new.append(s)
        return jax.nn.relu(y).astype(self.dtype)


def resnet9(small: bool) -> Task:
    layers = _Convolutions(half=False)
    for sizes in [(3, 16, 7, 4), (16, 32, 3, 2), (32, 32), (32, 32), (32, 64, 3, 2), (64, 128, 3, 2), (128, 128), (128, 128)]:
        layers.add(*sizes)
    parameters = {"layers": layers.parameters, "hidden": _linear(128, 128), "last": _linear(128, 10)}

    def scores(p: Tree, statistics: Tree, key: jax.Array, x: jax.Array) -> tuple[jax.Array, Tree]:
        new: list[Tree] = []
        h, apply = x, partial(layers.apply, p["layers"], statistics, new)
        for _ in range(2):
            h = apply(apply(h))
            h = h + apply(apply(h))
        h = jax.nn.relu(_product(p["hidden"], h.reshape(len(x), -1)))
        return _product(p["last"], h), new

    return Task(parameters, layers.statistics, scores, *_images(4 if small else 128, 32, 32, 3))


def _pooled(x: jax.Array, size: int) -> jax.Array:
    n, h, w, c = x.shape
    return x.reshape(n, h // size, size, w // size, size, c).max((2, 4))


def resnet9_bf16(small: bool) -> Task:
    d = 8 if small else 64
    layers = _Convolutions(half=True)
    for i, o in [
        (3, d),
        (d, 2 * d),
        (2 * d, 2 * d),
        (2 * d, 2 * d),
        (2 * d, 4 * d),
        (4 * d, 8 * d),
        (8 * d, 8 * d),
        (8 * d, 8 * d),
    ]:
        layers.add(i, o)
    parameters = {"layers": layers.parameters, "last": _linear(8 * d, 10)}

    def scores(p: Tree, statistics: Tree, key: jax.Array, x: jax.Array) -> tuple[jax.Array, Tree]:
        new: list[Tree] = []
        apply = partial(layers.apply, p["layers"], statistics, new)
        h = _pooled(apply(apply(x)), 2)
        h = h + apply(apply(h))
        h = _pooled(apply(_pooled(apply(h), 2)), 2)
        h = h + apply(apply(h))
        return _product_in_half(p["last"], _pooled(h, 4).reshape(len(x), -1)), new

    return Task(parameters, layers.statistics, scores, *_images(2 if small else 512, 32, 32, 3))


def lstm(small: bool) -> Task:
    count, dim, t, n = (100, 32, 5, 4) if small else (10_000, 512, 35, 64)
    layers = [
        {
            "in": {"w": _uniform(dim, 4 * dim, fan=dim), "b": _uniform(4 * dim, fan=dim)},
            "state": _uniform(dim, 4 * dim, fan=dim),
        }
        for _ in range(2)
    ]
    embed = jnp.asarray(random.standard_normal((count, dim), np.float32))

    def scores(p: Tree, statistics: Tree, key: jax.Array, x: jax.Array) -> tuple[jax.Array, Tree]:
        h = p["embed"][x]
        for layer in p["layers"]:

            def cell(state: Tree, inputs: jax.Array, weight: jax.Array = layer["state"]) -> tuple[Tree, jax.Array]:
                y, c = state
                i, f, g, o = jnp.split(inputs + y @ weight, 4, 1)
                c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
                y = jax.nn.sigmoid(o) * jnp.tanh(c)
                return (y, c), y

            zeros = jnp.zeros((x.shape[1], dim))
            _, h = jax.lax.scan(cell, (zeros, zeros), _product(layer["in"], h))
        return _product(p["last"], h.reshape(-1, dim)), statistics

    return Task({"embed": embed, "layers": layers, "last": _linear(dim, count)}, (), scores, *_tokens(count, t, n))


def gpt_bf16(small: bool) -> Task:
    dim, heads, layers, t, n = (48, 6, 2, 16, 2) if small else (384, 6, 6, 256, 64)
    blocks = [
        {
            "n1": _scale(dim), "qkv": _linear(dim, 3 * dim), "out": _linear(dim, dim),
            "n2": _scale(dim), "up": _linear(dim, 4 * dim), "down": _linear(4 * dim, dim),
        }
        for _ in range(layers)
    ]  # fmt: skip
    token, position = (jnp.asarray(random.standard_normal((k, dim), np.float32)) for k in (65, t))
    parameters = {"token": token, "position": position, "blocks": blocks, "norm": _scale(dim)}
    parameters["head"] = {"w": _uniform(dim, 65, fan=dim)}
    by_cudnn = jax.default_backend() == "gpu"

    def scores(p: Tree, statistics: Tree, key: jax.Array, x: jax.Array) -> tuple[jax.Array, Tree]:
        h = p["token"][x] + p["position"]
        for b in p["blocks"]:
            parts = _product_in_half(b["qkv"], _layer_norm(b["n1"], h)).reshape(*x.shape, 3, heads, -1)
            q, k, v = (parts[:, :, i] for i in range(3))
            y = jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="cudnn" if by_cudnn else "xla")
            h = h + _product_in_half(b["out"], y.reshape(h.shape))
            u = jax.nn.gelu(_product_in_half(b["up"], _layer_norm(b["n2"], h)), approximate=True)
            h = h + _product_in_half(b["down"], u)
        return _product_in_half(p["head"], _layer_norm(p["norm"], h)).reshape(-1, 65), statistics

    return Task(parameters, (), scores, *_tokens(65, n, t))


WORKLOADS = {f.__name__: f for f in (mlpresnet, resnet9, resnet9_bf16, lstm, gpt_bf16)}


# -- the step ---------------------------------------------------------------------------------------------------------------


def _adam(p: Tree, g: Tree, state: Tree) -> tuple[Tree, Tree]:
    t = state["t"] + 1
    m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, state["m"], g)
    v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, state["v"], g)
    a, b = 1 - 0.9**t, 1 - 0.999**t
    p = jax.tree.map(lambda p, m, v: p - 1e-3 * (m / a) / (jnp.sqrt(v / b) + 1e-8), p, m, v)
    return p, {"m": m, "v": v, "t": t}


def step_of(task: Task) -> Callable[[], jax.Array]:
    """Forward, backward and Adam: a function without arguments that keeps the state."""

    def loss_of(p: Tree, statistics: Tree, key: jax.Array) -> tuple[jax.Array, Tree]:
        z, statistics = task.scores(p, statistics, key, task.x)
        z = z.astype(jnp.float32)
        chosen = jnp.take_along_axis(z, task.labels[:, None], 1)[:, 0]
        return (jax.nn.logsumexp(z, -1) - chosen).mean(), statistics

    @partial(jax.jit, donate_argnums=0)
    def step(state: Tree) -> tuple[jax.Array, Tree]:
        p, statistics, moments, key = state
        key, once = jax.random.split(key)
        (loss, statistics), g = jax.value_and_grad(loss_of, has_aux=True)(p, statistics, once)
        p, moments = _adam(p, g, moments)
        return loss, (p, statistics, moments, key)

    p = task.parameters
    moments = {"m": jax.tree.map(jnp.zeros_like, p), "v": jax.tree.map(jnp.zeros_like, p), "t": jnp.zeros((), jnp.int32)}
    state: Tree = (p, task.statistics, moments, jax.random.key(0))

    def run() -> jax.Array:
        nonlocal state
        loss, state = step(state)
        return loss

    run.wait = lambda: jax.block_until_ready(state)  # type: ignore[attr-defined]
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("--device", default="gpu")
    parser.add_argument("--small", action="store_true", help="few and small layers, a small batch: to try this file")
    args = parser.parse_args()
    try:
        jax.config.update("jax_default_device", jax.devices(args.device)[0])
    except RuntimeError as cause:
        raise SystemExit(f"JAX {jax.__version__} sees no {args.device}: {cause}") from cause
    if not args.workload.endswith("bf16"):
        jax.config.update("jax_default_matmul_precision", "float32")
    step: Any = step_of(WORKLOADS[args.workload](args.small))
    start = time.perf_counter()
    first = float(step())
    step.wait()
    seconds = time.perf_counter() - start
    for _ in range(WARMING):
        step()
    step.wait()
    print("ready", seconds, first, flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            loss = step()
        step.wait()
        print(time.perf_counter() - start, float(loss), flush=True)


if __name__ == "__main__":
    main()
