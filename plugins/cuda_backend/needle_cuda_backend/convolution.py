"""Convolutions: cuDNN where it has them, else windows and products, which their bodies are made of."""

from __future__ import annotations

from typing import Literal, NamedTuple

from needle_core.precision import matmul_precision
from needle_core.spec import Spec
from needle_cuda_backend.body import recipe_of_body
from needle_cuda_backend.cudnn import Attention, Convolution, supports
from needle_cuda_backend.recipe import Call, Place, Recipe, inputs_of


class CudnnCall(NamedTuple):
    """A call of cuDNN: the operands in the order of the description, results last."""

    description: Convolution | Attention
    operands: tuple[Place, ...]


def conv(call: Call) -> Recipe:
    (x, weight), (y,) = call.inputs, call.outputs
    return by_cudnn("conv", call, _described("forward", x, weight, y, call), *inputs_of(2), Place("output"))


def conv_transpose(call: Call) -> Recipe:
    (y, weight), (x,) = call.inputs, call.outputs
    return by_cudnn("conv_transpose", call, _described("input_grad", x, weight, y, call), *inputs_of(2), Place("output"))


def conv_weight_grad(call: Call) -> Recipe:
    (y, x), (weight,) = call.inputs, call.outputs
    return by_cudnn("conv_weight_grad", call, _described("weight_grad", x, weight, y, call), *inputs_of(2), Place("output"))


def _described(
    kind: Literal["forward", "input_grad", "weight_grad"], x: Spec, weight: Spec, y: Spec, call: Call
) -> Convolution:
    """The convolution that makes y of x, or one of its gradients."""
    before, after = zip(*call.attrs["padding"], strict=True)
    return Convolution(
        kind, x.dtype, x.shape, weight.shape, y.shape,
        call.attrs["stride"], before, after, call.attrs["dilation"], call.attrs["groups"], matmul_precision() == "tf32",
    )  # fmt: skip


def by_cudnn(name: str, call: Call, description: Convolution | Attention | None, *operands: Place) -> Recipe:
    """The recipe of an op: a call of cuDNN if it is asked for this, else what the body of the op consists of."""
    if description is None or not supports(description):
        return recipe_of_body(name, call)
    return Recipe([CudnnCall(description, operands)])
