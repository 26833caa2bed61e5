"""Every kernel compiles for GPUs of today, in few registers and without spilling any."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

import needle_core as ndl
from needle_core.backend import device
from needle_core.benchmark.workloads import WORKLOADS
from needle_core.graph.units import units
from needle_core.op import OPS
from needle_core.spec import DTYPES, Device, Spec
from needle_cuda_backend import index, linalg, loss, normalize, pooling, recurrent, reduce
from needle_cuda_backend.compiler import recipe_of_unit
from needle_cuda_backend.recipe import Call, Launch, Many, Recipe
from needle_cuda_backend.unit import cubin, source_of

FLOATS = ("bfloat16", "float16", "float32", "float64")
ANY = ("bool", "uint8", "int32", "int64", *FLOATS)


class Sample(NamedTuple):
    """Calls of a maker for operands of these shapes: of each of the dtypes, or of what stands behind a shape."""

    maker: Callable[[Call], Recipe]
    shapes: tuple[Any, ...]
    attrs: Mapping[str, Any] = MappingProxyType({})
    dtypes: tuple[str, ...] = FLOATS
    op: str = ""

    def calls(self) -> Iterator[Call]:
        for dtype in self.dtypes:
            pairs = [x if x and isinstance(x[0], tuple) else (x, dtype) for x in self.shapes]
            specs = tuple(Spec.of(shape, DTYPES[kind], device("numpy")) for shape, kind in pairs)
            found, attrs = OPS[self.op or self.maker.__name__].door(*specs, **self.attrs)
            for fixed in (False, True):
                yield Call(specs, found if isinstance(found, tuple) else (found,), attrs, fixed)


def _labels(*shape: int, kind: str = "int64") -> Any:
    return shape, kind


_ROWS = ((98304, 256, FLOATS), (16384, 384, ("bfloat16", "float32")), (64, 8000, FLOATS), (8, 33, ("float32",)))
_WINDOW: dict[str, Any] = {"size": (3, 3), "stride": 2, "padding": 1}
_IMAGE = (128, 32, 32, 64)
_LSTM = ((35, 64, 512), (64, 512), (64, 512), (512, 2048), (512, 2048), (2048,))
_GRU = ((35, 64, 512), (64, 512), (512, 1536), (512, 1536), (1536,), (1536,))
_RNN = ((35, 64, 512), (64, 512), (512, 512), (512, 512), (512,))
_STATES = (35, 64, 512)

SAMPLES: dict[str, list[Sample]] = {
    "index": [
        Sample(index.take, ((100, 50, 7), _labels(640, kind="int32")), {"axis": 1}, ANY),
        Sample(index.take, ((10000, 384), _labels(64, 256)), {"axis": 0}, ANY),
        Sample(index.scatter_add, ((100, 50, 7), _labels(640, kind="int32"), (100, 640, 7)), {"axis": 1}, ANY),
        Sample(index.embedding_grad, ((64, 256, 384), _labels(64, 256)), {"count": 65}, FLOATS),
        Sample(index.embedding_grad, ((64, 256, 768), _labels(64, 256, kind="int32")), {"count": 50257}, FLOATS),
        Sample(index.argsort, ((64, 5000),), {}, ANY),
    ],
    "reduce": [
        Sample(reduce.cumsum, ((64, 5000),), {"axis": 1}, ("int64", *FLOATS)),
        Sample(reduce.cumsum, ((64, 50, 100),), {"axis": 1}, ("int64", *FLOATS)),
    ],
    "normalize": [
        *(Sample(normalize.softmax, ((n, c),), {}, kinds) for n, c, kinds in _ROWS),
        *(Sample(normalize.log_softmax, ((n, c),), {}, kinds) for n, c, kinds in _ROWS),
        *(Sample(normalize.softmax_grad, ((n, c), (n, c)), {}, kinds) for n, c, kinds in _ROWS),
        *(Sample(normalize.layer_norm, ((n, c), (c,), (c,)), {}, kinds) for n, c, kinds in _ROWS),
        *(Sample(normalize.layer_norm_grad, ((n, c), (n, c), (c,)), {}, kinds) for n, c, kinds in _ROWS),
        *(Sample(normalize.rms_norm, ((n, c), (c,)), {}, kinds) for n, c, kinds in _ROWS),
        *(Sample(normalize.rms_norm_grad, ((n, c), (n, c), (c,)), {}, kinds) for n, c, kinds in _ROWS),
        Sample(normalize.batch_statistics, (_IMAGE,)),
        Sample(normalize.batch_statistics, ((640, 33),)),
    ],
    "loss": [
        *(
            Sample(loss.cross_entropy, ((n, c), _labels(n)), {"reduction": how})
            for n, c, how in ((128, 10, "mean"), (2240, 10000, "mean"), (64, 33, "none"))
        ),
        *(
            Sample(loss.cross_entropy_grad, ((), (n, c), _labels(n)), {"reduction": how})
            for n, c, how in ((128, 10, "mean"), (2240, 10000, "mean"), (64, 33, "sum"))
        ),
    ],
    "linalg": [
        Sample(linalg.matmul, ((16, 64, 100), (100, 50)), {}, ("uint8", "int32", "int64")),
        Sample(linalg.gemm, ((100, 64), (50, 100)), {"transpose_a": True, "transpose_b": True}, ("uint8", "int32", "int64")),
    ],
    "pooling": [
        Sample(pooling.max_pool, (_IMAGE,), {"size": 2}),
        Sample(pooling.max_pool, (_IMAGE,), _WINDOW),
        Sample(pooling.max_pool_grad, ((128, 16, 16, 64), _IMAGE), {"size": 2}),
        Sample(pooling.max_pool_grad, ((128, 16, 16, 64), _IMAGE), _WINDOW),
        Sample(pooling.avg_pool, (_IMAGE,), {**_WINDOW, "count_include_pad": False}),
        Sample(pooling.avg_pool_grad, ((128, 16, 16, 64),), {**_WINDOW, "shape": (32, 32), "count_include_pad": False}),
        Sample(pooling.max_pool_grad, ((4, 15, 15, 15, 8), (4, 16, 16, 16, 8)), {"size": 2, "stride": 1}),
        Sample(pooling.max_pool, (_IMAGE,), {"size": 4}),
        Sample(pooling.max_pool_grad, ((128, 8, 8, 64), _IMAGE), {"size": 4}),
        Sample(pooling.max_pool_grad, ((128, 29, 29, 64), _IMAGE), {"size": 4, "stride": 1}),
        Sample(pooling.avg_pool, (_IMAGE,), {"size": 32}),
        Sample(pooling.avg_pool_grad, ((128, 1, 1, 64),), {"size": 32, "shape": (32, 32)}),
    ],
    "recurrent": [
        Sample(recurrent.lstm, _LSTM),
        Sample(recurrent.lstm_grad, (*(_STATES,) * 4, *_LSTM)),
        Sample(recurrent.gru, _GRU),
        Sample(recurrent.gru_grad, (*(_STATES,) * 2, *_GRU)),
        *(Sample(recurrent.rnn, _RNN, {"nonlinearity": f}) for f in ("tanh", "relu")),
        *(Sample(recurrent.rnn_grad, (*(_STATES,) * 2, *_RNN), {"nonlinearity": f}) for f in ("tanh", "relu")),
    ],
}  # fmt: skip


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("family", SAMPLES)
def test_kernels_need_few_registers(family: str, architecture: str) -> None:
    """So few that a multiprocessor has room for two blocks of 256 threads, and for one of any size; and no arrays in memory."""
    recipes = [sample.maker(call) for sample in SAMPLES[family] for call in sample.calls()]
    launches = [x for recipe in recipes for x in recipe.operations if isinstance(x, Launch)]
    found = cubin(source_of(x.entry for x in launches), architecture)
    threads = {x.entry.name: math.prod(x.block) for x in launches}
    usage = found.usage()
    assert usage.keys() >= threads.keys()
    assert not {name: (n, spilled) for name, (n, spilled) in usage.items() if n > 128 or n * threads[name] > 2**16 or spilled}
    assert not re.findall(r"[1-9]\d* bytes stack frame", found.log)


@pytest.mark.parametrize("name", WORKLOADS)
def test_steps_need_few_registers(name: str, cuda: Device) -> None:
    """The training steps of the benchmarks, all of whose kernels are one unit."""
    ndl.set_default_device(cuda)
    try:
        step = ndl.compile(WORKLOADS[name]())
        step()
    finally:
        ndl.set_default_device(None)
    launches = [x for unit in units(step.plan) for x in recipe_of_unit(unit).operations if isinstance(x, Launch | Many)]
    for architecture in ("sm_80", "sm_90a"):
        usage = cubin(source_of(x.entry for x in launches), architecture).usage()
        assert usage
        assert not {name: (n, spilled) for name, (n, spilled) in usage.items() if n > 128 or spilled}
