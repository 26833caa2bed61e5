"""Needle: tensors, differentiation and training on any backend.

import needle_core as ndl
"""

from needle_core import spec, errors  # noqa: I001  (in the order of dependency)
from needle_core.spec import DType, Device, Spec, bfloat16, bool_, float16, float32, float64, int32, int64, promote, uint8
from needle_core.tensor import Tensor, from_dlpack
from needle_core.op import Node, Op, TensorOp, composite, primitive
from needle_core.backend import Backend, default_device, device, set_default_device
from needle_core import tree
from needle_core.autograd import enable_grad, grad, no_grad, value_and_grad, vjp
from needle_core import ops
from needle_core.ops import *
from needle_core import random
from needle_core.random import Generator, manual_seed
