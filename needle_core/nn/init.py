"""How weights start: constants and random numbers, in the shapes that layers want.

Every function takes `dtype`, `device` (the default device) and `requires_grad`. Those that draw take `generator`, by default
that of the device, so that one seed gives the same weights on every device.
"""

from __future__ import annotations

import math
from typing import TypedDict, Unpack

from needle_core import ops
from needle_core.backend import DeviceLike
from needle_core.errors import ArgumentError
from needle_core.random import Generator, default_generator
from needle_core.spec import DTypeLike
from needle_core.tensor import Number, Operand, Tensor


class Options(TypedDict, total=False):
    """The keywords that Xavier and Kaiming initialisers pass on to `rand` and `randn`."""

    dtype: DTypeLike
    device: DeviceLike | None
    generator: Generator | None
    requires_grad: bool


# -- constants --------------------------------------------------------------------------------------------------------------


def constant(
    *shape: int, c: Number = 1.0, dtype: DTypeLike = "float32", device: DeviceLike | None = None, requires_grad: bool = False
) -> Tensor:
    """`c` everywhere."""
    return _marked(ops.full(shape, c, dtype=dtype, device=device), requires_grad)


def zeros(*shape: int, dtype: DTypeLike = "float32", device: DeviceLike | None = None, requires_grad: bool = False) -> Tensor:
    """0 everywhere."""
    return constant(*shape, c=0, dtype=dtype, device=device, requires_grad=requires_grad)


def ones(*shape: int, dtype: DTypeLike = "float32", device: DeviceLike | None = None, requires_grad: bool = False) -> Tensor:
    """1 everywhere."""
    return constant(*shape, c=1, dtype=dtype, device=device, requires_grad=requires_grad)


def one_hot(
    n: int, i: Operand, *, dtype: DTypeLike = "float32", device: DeviceLike | None = None, requires_grad: bool = False
) -> Tensor:
    """1 at the place among n that each integer names, 0 elsewhere; all 0 for an integer outside of 0 ... n - 1.

    Shapes:   i (*s) -> (*s, n)
    """
    return _marked(ops.one_hot(Tensor(i, device=device), num_classes=n, dtype=dtype), requires_grad)


# -- random numbers ---------------------------------------------------------------------------------------------------------


def rand(
    *shape: int,
    low: float = 0.0,
    high: float = 1.0,
    dtype: DTypeLike = "float32",
    device: DeviceLike | None = None,
    generator: Generator | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Uniform numbers in [low, high)."""
    source = default_generator(device) if generator is None else generator
    return _marked(_placed(source.uniform(*shape, low=low, high=high, dtype=dtype), device), requires_grad)


def randn(
    *shape: int,
    mean: float = 0.0,
    std: float = 1.0,
    dtype: DTypeLike = "float32",
    device: DeviceLike | None = None,
    generator: Generator | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Normal numbers of this mean and standard deviation."""
    source = default_generator(device) if generator is None else generator
    return _marked(_placed(source.normal(*shape, mean=mean, std=std, dtype=dtype), device), requires_grad)


def xavier_uniform(
    fan_in: int, fan_out: int, gain: float = 1.0, shape: tuple[int, ...] | None = None, **options: Unpack[Options]
) -> Tensor:
    """Uniform numbers in [-a, a) with a = gain sqrt(6 / (fan_in + fan_out)).

    Shapes:   -> `shape`, by default (fan_in, fan_out)
    Source:   Glorot & Bengio 2010, Proceedings of AISTATS 9
    """
    return _uniform(fan_in, fan_out, gain * math.sqrt(2 / _fan(fan_in, fan_out)), shape, options)


def xavier_normal(
    fan_in: int, fan_out: int, gain: float = 1.0, shape: tuple[int, ...] | None = None, **options: Unpack[Options]
) -> Tensor:
    """Normal numbers with mean 0 and standard deviation gain sqrt(2 / (fan_in + fan_out)).

    Shapes:   -> `shape`, by default (fan_in, fan_out)
    Source:   Glorot & Bengio 2010, Proceedings of AISTATS 9
    """
    return _normal(fan_in, fan_out, gain * math.sqrt(2 / _fan(fan_in, fan_out)), shape, options)


def kaiming_uniform(
    fan_in: int, fan_out: int, nonlinearity: str = "relu", shape: tuple[int, ...] | None = None, **options: Unpack[Options]
) -> Tensor:
    """Uniform numbers in [-a, a) with a = gain sqrt(3 / fan_in), the gain that of `nonlinearity`.

    Shapes:   -> `shape`, by default (fan_in, fan_out)
    Source:   He et al. 2015, arXiv:1502.01852
    """
    return _uniform(fan_in, fan_out, calculate_gain(nonlinearity) / math.sqrt(_fan(fan_in)), shape, options)


def kaiming_normal(
    fan_in: int, fan_out: int, nonlinearity: str = "relu", shape: tuple[int, ...] | None = None, **options: Unpack[Options]
) -> Tensor:
    """Normal numbers with mean 0 and standard deviation gain / sqrt(fan_in), the gain that of `nonlinearity`.

    Shapes:   -> `shape`, by default (fan_in, fan_out)
    Source:   He et al. 2015, arXiv:1502.01852
    """
    return _normal(fan_in, fan_out, calculate_gain(nonlinearity) / math.sqrt(_fan(fan_in)), shape, options)


_GAINS = {
    "linear": 1.0,
    "sigmoid": 1.0,
    "tanh": 5 / 3,
    "relu": math.sqrt(2),
    "leaky_relu": math.sqrt(2 / (1 + 0.01**2)),
    "selu": 3 / 4,
}


def calculate_gain(nonlinearity: str) -> float:
    """By what the weights before a nonlinearity are scaled, so that it keeps the variance of activations.

    Raises:   ArgumentError for a nonlinearity whose gain is not known
    """
    if nonlinearity not in _GAINS:
        raise ArgumentError(f"no gain is known for the nonlinearity {nonlinearity!r}", details={"known": ", ".join(_GAINS)})
    return _GAINS[nonlinearity]


def _uniform(fan_in: int, fan_out: int, std: float, shape: tuple[int, ...] | None, options: Options) -> Tensor:
    bound = math.sqrt(3) * std
    return rand(*((fan_in, fan_out) if shape is None else shape), low=-bound, high=bound, **options)


def _normal(fan_in: int, fan_out: int, std: float, shape: tuple[int, ...] | None, options: Options) -> Tensor:
    return randn(*((fan_in, fan_out) if shape is None else shape), std=std, **options)


def _fan(*fans: int) -> int:
    """The sum of fans, each of which must be positive."""
    if min(fans) < 1:
        raise ArgumentError(f"a fan is at least 1, not {min(fans)}")
    return sum(fans)


def _placed(x: Tensor, device: DeviceLike | None) -> Tensor:
    return x if device is None else x.to(device)


def _marked(x: Tensor, requires_grad: bool) -> Tensor:
    x.requires_grad = requires_grad
    return x
