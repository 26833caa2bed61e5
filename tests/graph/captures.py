"""Graphs of functions, and what they give: for the tests of what is done to graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

import needle_core as ndl
from needle_core.graph.capture import capture
from needle_core.graph.executor import executor
from needle_core.graph.graph import Graph
from needle_core.spec import dtype
from needle_core.testing.programs import RandomProgram, random_program


def graph_of(function: Callable[..., Any], *tensors: ndl.Tensor) -> Graph:
    """What `function` does with tensors like these, as captured."""
    return capture(function, tensors, lambda given: (tuple(given), {}), keep_grads=False).graph


def ops_of(graph: Graph) -> list[str]:
    return [node.op.name for node in graph.nodes]


def results(graph: Graph, *tensors: ndl.Tensor) -> list[tuple[str, tuple[int, ...], bytes]]:
    """Dtype, shape and bytes of all outputs: equal only if every bit is, but for those of nan, which mean nothing."""
    return [identity(y) for y in executor(graph)(*(t.buffer for t in tensors))]


def identity(y: Any) -> tuple[str, tuple[int, ...], bytes]:
    array = ndl.default_device().backend.to_numpy(y)
    if dtype(array.dtype).is_floating:
        array = np.where(np.isnan(array), np.array(np.nan, array.dtype), array)
    return array.dtype.name, array.shape, array.tobytes()


def random_graph(seed: int, **options: Any) -> tuple[RandomProgram, list[ndl.Tensor], Graph]:
    """A random program, its arguments, and its graph as captured."""
    program = random_program(seed, **options)
    tensors = [ndl.Tensor(x) for x in program.inputs]
    return program, tensors, graph_of(program, *tensors)


def of(values: Any, dtype: npt.DTypeLike = np.float32) -> ndl.Tensor:
    return ndl.Tensor(np.array(values, dtype))
