"""Needle: tensors, differentiation and training on any backend.

    import needle_core as ndl

The names here are the public ones. `ndl.optim.NAME`, `ndl.ops.NAME` and devices also resolve to those of installed plugins;
`ndl.data`, `ndl.checkpoint` and `ndl.compile` are imported when first used.
"""

# ruff: noqa: I001  (in the order of dependency)

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from needle_core import errors
from needle_core.spec import DType, Device, Spec, bfloat16, bool_, float16, float32, float64, int32, int64, promote, uint8
from needle_core.tensor import Tensor, from_dlpack
from needle_core.record import Node
from needle_core.op import Op, composite, primitive
from needle_core.tensor_op import TensorOp
from needle_core.backend import Backend, default_device, device, set_default_device, set_num_threads
from needle_core.precision import autocast, matmul_precision, set_matmul_precision
from needle_core import tree
from needle_core.fallback import fallbacks
from needle_core.autograd import enable_grad, grad, no_grad, value_and_grad, vjp
from needle_core import ops  # and its families one by one, for type checkers do not see through the package:
from needle_core.ops.activation import *
from needle_core.ops.attention import *
from needle_core.ops.convolution import *
from needle_core.ops.create import *
from needle_core.ops.elementary import *
from needle_core.ops.elementwise import *
from needle_core.ops.index import *
from needle_core.ops.interpolation import *
from needle_core.ops.linalg import *
from needle_core.ops.loss import *
from needle_core.ops.normalize import *
from needle_core.ops.pooling import *
from needle_core.ops.recurrent import *
from needle_core.ops.reduce import *
from needle_core.ops.shape import *
from needle_core import random
from needle_core.random import Generator, manual_seed
from needle_core import nn, optim
from needle_core.nn import init

if TYPE_CHECKING:
    from needle_core import checkpoint, data
    from needle_core.graph.compiled import Compiled, compile

__version__ = "0.1.0"

__all__ = [
    "Backend", "Compiled", "DType", "Device", "Generator", "Node", "Op", "Spec", "Tensor", "TensorOp", "autocast", "bfloat16",
    "bool_", "checkpoint", "compile", "composite", "data", "default_device", "device", "enable_grad", "errors", "fallbacks",
    "float16", "float32", "float64", "from_dlpack", "grad", "init", "int32", "int64", "manual_seed", "matmul_precision", "nn",
    "no_grad", "ops", "optim", "primitive", "promote", "random", "set_default_device", "set_matmul_precision",
    "set_num_threads", "tree", "uint8", "value_and_grad", "vjp",
]  # fmt: skip
__all__ += ops.__all__


# What users of NumPy and PyTorch look for, and where it is.
_CALLED_ELSEWHERE = {
    "array": "Tensor", "asarray": "Tensor", "cat": "concat", "concatenate": "concat", "transpose": "permute_dims",
    "norm": "vector_norm", "power": "pow", "cumulative_sum": "cumsum", "cumulative_prod": "cumprod", "dot": "matmul",
    "rand": "init.rand", "randn": "init.randn", "from_numpy": "Tensor", "float": "float32", "bool": "bool_",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in ("checkpoint", "data"):
        return import_module(f"needle_core.{name}")
    if name in ("Compiled", "compile"):
        return getattr(import_module("needle_core.graph.compiled"), name)
    hint = f"; it is called ndl.{_CALLED_ELSEWHERE[name]}" if name in _CALLED_ELSEWHERE else ""
    raise AttributeError(f"module 'needle_core' has no attribute {name!r}{hint}")


def __dir__() -> list[str]:
    return __all__
