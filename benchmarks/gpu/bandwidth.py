"""How fast the device moves memory, and what of that each template of kernels reaches: python bandwidth.py [--small] [--once]

Prints a JSON object a line: what launches cost, how fast the device copies, then for each template and dtype the bytes of its
operands, each counted once, by the seconds of a replay, and that as a fraction of the copy. Arrays are larger than caches,
and a graph has each template several times, so that what the host does costs nothing. With --once each runs once and nothing
is measured, for sanitizers. NEEDLE_CUDA_SIMULATED=1 runs the same on a simulated device, whose times say nothing.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np

import needle_core as ndl
from needle_core import nn
from needle_core.graph.costs import nbytes
from needle_core.graph.graph import Constant, Graph, Value
from needle_core.ops.normalize import batch_statistics, layer_norm_grad, softmax_grad
from needle_core.spec import DTYPES, Device
from needle_cuda_backend.backend import driver_of
from needle_cuda_backend.body import recipe_of_node
from needle_cuda_backend.driver import Driver
from needle_cuda_backend.issue import addresses, prepared
from needle_cuda_backend.recipe import Entry

GOAL = 0.85
"""Of the bandwidth of a copy."""
TURNS = 5

Shape: TypeAlias = tuple[int, ...]
Operand: TypeAlias = Shape | tuple[Shape, int]
"""The shape of a floating array; or that of integers, and how many values they have, each about equally often."""


class Template(NamedTuple):
    """A function that becomes kernels of one template, and its operands."""

    function: Callable[..., Any]
    operands: Sequence[Operand]
    dtypes: Sequence[str] = ("float32", "bfloat16")


def templates(rows: int, columns: int) -> dict[str, Template]:
    """Every memory-bound template, on arrays of so many rows and columns."""
    x, row, labels, places = (rows, columns), (columns,), ((rows,), columns), ((rows,), rows)
    return {
        "map": Template(lambda a, b: ndl.tanh(a) * b + 1, [x, x]),
        "map, broadcast": Template(lambda a, b: ndl.maximum(a + b, 0), [x, row]),
        "map, transposed": Template(lambda a: ndl.permute_dims(a, axes=(1, 0)), [x]),
        "map, dropout": Template(nn.Dropout(0.1), [x]),
        "rows": Template(lambda a: (a * a).sum(-1), [x]),
        "columns": Template(lambda a: (a * a).sum(0), [x]),
        "softmax": Template(ndl.softmax, [x]),
        "softmax, gradient": Template(softmax_grad, [x, x]),
        "layer norm": Template(ndl.layer_norm, [x, row, row]),
        "layer norm, gradient": Template(layer_norm_grad, [x, x, row]),
        "batch statistics": Template(batch_statistics, [x]),
        "cross entropy": Template(ndl.cross_entropy, [x, labels]),
        "cross entropy, gradient": Template(_cross_entropy_gradient, [x, labels]),
        "take": Template(lambda table, i: ndl.take(table, i, axis=0), [x, places]),
        "scatter": Template(lambda table, i, u: ndl.scatter_add(table, i, u, axis=0), [x, places, x]),
        "Adam": Template(_adam(rows * columns), [(rows * columns,)], ["float32"]),
    }


def others() -> dict[str, Template]:
    """What is bound by arithmetic or by latency, in small: for --once."""
    image, steps, state, gates = (2, 9, 9, 8), (5, 3, 16), (3, 16), (16, 64)
    return {
        "convolution": Template(_gradients(lambda x, w: ndl.conv(x, w, padding=1)), [image, (16, 3, 3, 8)]),
        "convolution, in groups": Template(_gradients(lambda x, w: ndl.conv(x, w, groups=2)), [image, (16, 3, 3, 4)]),
        "pooling": Template(_gradients(lambda x: ndl.max_pool(x, size=3, stride=2, padding=1)), [image]),
        "attention": Template(
            _gradients(lambda q, k, v: ndl.scaled_dot_product_attention(q, k, v, causal=True)), [(2, 3, 33, 16)] * 3
        ),
        "lstm": Template(_gradients(lambda *x: ndl.lstm(*x)[0]), [steps, state, state, gates, gates, (64,)]),
        "gru": Template(_gradients(ndl.gru), [steps, state, (16, 48), (16, 48), (48,), (48,)]),
        "product": Template(_gradients(ndl.matmul), [(33, 40), (40, 24)]),
        "embedding": Template(_gradients(lambda table, i: ndl.embedding(i, table)), [(50, 16), ((96,), 50)]),
        "sort": Template(lambda x: ndl.argsort(x, axis=-1), [(3, 1500)]),
        "cumsum": Template(lambda x: ndl.cumsum(x, axis=-1), [(3, 1500)]),
    }


def _gradients(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that gives the value and the gradients by all operands."""

    def both(*operands: ndl.Tensor) -> Any:
        y, pullback = ndl.vjp(function, *operands)
        return y, [g for g in pullback(y) if g is not None]

    return both


def _cross_entropy_gradient(x: ndl.Tensor, labels: ndl.Tensor) -> Any:
    _, pullback = ndl.vjp(lambda z: ndl.cross_entropy(z, labels), x)
    return pullback(ndl.ones((), dtype=x.dtype, device=x.device))


def _adam(size: int) -> Callable[[ndl.Tensor], None]:
    """A step of Adam for so many numbers, by a gradient."""
    state: list[tuple[nn.Parameter, ndl.optim.Optimizer]] = []

    def step(g: ndl.Tensor) -> None:
        weight, opt = state[0]
        weight.grad = g
        opt.step()

    def prepare(device: Device) -> None:
        weight = nn.Parameter(ndl.zeros((size,), device=device))
        state.append((weight, ndl.optim.Adam([weight], lr=1e-3)))

    step.prepare = prepare  # type: ignore[attr-defined]
    return step


# -- what is measured -------------------------------------------------------------------------------------------------------


def launches(driver: Driver, count: int) -> dict[str, float]:
    """Microseconds of an empty kernel among many: for the host, for the device, and as a node of a graph."""
    entry = Entry.named("empty", ["int* y"], "(void)y;")
    function, memory = driver.functions([entry])[entry.name], driver.allocate(256)

    def issue() -> None:
        for _ in range(count):
            driver.launch(function, (1, 1, 1), (1, 1, 1), [memory.address])

    issue()
    replay = driver.captured(issue)
    replay()
    driver.synchronize()

    def host(work: Callable[[], None]) -> float:
        start = time.perf_counter()
        work()
        taken = time.perf_counter() - start
        driver.synchronize()
        return taken

    def median(of: Callable[[Callable[[], None]], float], work: Callable[[], None]) -> float:
        return statistics.median(of(work) for _ in range(TURNS)) * 1e6

    return {
        "launch, host": median(host, issue) / count,
        "launch, device": median(driver.seconds, issue) / count,
        "node of a graph": median(driver.seconds, replay) / count,
        "launch of a graph, host": median(host, replay),
    }


def copied(driver: Driver, size: int, repeats: int) -> float:
    """Bytes a second, read and written, of a copy of so many bytes within the device."""
    source, target = driver.allocate(size), driver.allocate(size)

    def issue() -> None:
        for _ in range(repeats):
            driver.copy(target.address, source.address, size)

    issue()
    return 2 * size * repeats / statistics.median(driver.seconds(issue) for _ in range(TURNS))


def moved(driver: Driver, graph: Graph, operands: Sequence[ndl.Tensor], repeats: int) -> tuple[int, list[float]]:
    """The bytes of a graph's operands, and the seconds of each turn. Its values have memory each of its own."""
    places: dict[Value, Any] = {v: x.buffer for v, x in zip(graph.inputs, operands, strict=False)}
    for v in [*graph.inputs[len(operands) :], *(y for node in graph.nodes for y in node.outputs)]:
        places[v] = driver.buffer(v.spec.shape, v.spec.dtype)
    for v in graph.inputs[len(operands) :]:  # state
        driver.write(places[v].address, np.zeros(v.spec.shape, v.spec.dtype.numpy))
    recipes = [recipe_of_node(node, fixed=True) for node in graph.nodes]
    scratch = driver.allocate(max(r.scratch for r in recipes))

    def at(v: Value) -> int:
        return int((v.buffer if isinstance(v, Constant) else places[v]).address)

    runs = []
    for node, operations in zip(graph.nodes, prepared(driver, recipes), strict=True):
        address = addresses(driver, [*map(at, node.inputs)], [*map(at, node.outputs)], scratch.address, mark=1)
        runs += [bind(address) for bind in operations]

    def issue() -> None:
        for _ in range(repeats):
            for run in runs:
                run()

    issue()
    replay = driver.captured(issue)
    return sum(map(nbytes, graph.nodes)), [driver.seconds(replay) / repeats for _ in range(TURNS)]


@cache
def _numbers(shape: Shape, device: Device) -> ndl.Tensor:
    """Made once: the host takes longer for them than the device for all else."""
    return ndl.Tensor(np.random.default_rng(0).standard_normal(shape, np.float32), device=device)


def operand(kind: Operand, dtype: str, device: Device, position: int) -> ndl.Tensor:
    """The array that an operand describes, another one at each position."""
    if len(kind) == 2 and isinstance(kind[0], tuple):
        shape, limit = kind
        return ndl.Tensor(np.random.default_rng(position).permutation(np.arange(shape[0]) % limit), device=device)
    return (_numbers(kind, device) * (1 - position / 8)).astype(DTYPES[dtype])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="arrays of a few thousand elements")
    parser.add_argument("--once", action="store_true", help="run each template once, and measure nothing")
    args = parser.parse_args()
    device = ndl.device("cuda:0")
    ndl.set_default_device(device)
    driver = driver_of(device)
    rows, columns, repeats = (96, 64, 2) if args.small else (2**16, 2**10, 10)
    copy = 0.0
    if not args.once:
        print(json.dumps({"kind": "launches", "microseconds": launches(driver, 20 if args.small else 1000)}), flush=True)
        copy = copied(driver, 4 * rows * columns, repeats)
        print(json.dumps({"kind": "copy", "bytes_a_second": copy, "bytes": 4 * rows * columns}), flush=True)
    for name, template in {**templates(rows, columns), **(others() if args.once else {})}.items():
        if hasattr(template.function, "prepare"):
            template.function.prepare(device)
        for dtype in template.dtypes:
            operands = [operand(kind, dtype, device, i) for i, kind in enumerate(template.operands)]
            step = ndl.compile(template.function)
            step(*operands)
            told: dict[str, Any] = {"kind": "template", "template": name, "dtype": dtype}
            if not args.once:
                size, seconds = moved(driver, step.graph, operands, repeats)
                rate = size / statistics.median(seconds)
                told |= {"bytes": size, "seconds": seconds, "bytes_a_second": rate, "of_copy": rate / copy, "goal": GOAL}
            device.backend.synchronize(device)
            print(json.dumps(told), flush=True)
        gc.collect()  # so that no more than one template's arrays are held


if __name__ == "__main__":
    main()
