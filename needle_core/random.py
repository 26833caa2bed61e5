"""Random numbers that are the same, bit for bit, on every device.

A generator has a seed and a position, which together with the place of an element in its tensor determine every number (see
the op `random_bits`). Its state is a tensor like any other: it can be saved, restored and compiled.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from needle_core.backend import DeviceLike, default_device, device as find_device
from needle_core.doors import normalize_integer
from needle_core.errors import ArgumentError, DtypeError, brief
from needle_core.ops import argsort, less, random_bits, random_normal, random_uniform
from needle_core.record import mode
from needle_core.spec import Device, DType, DTypeLike, dtype as to_dtype, float32, int64
from needle_core.tensor import Tensor


class Generator:
    """A source of random numbers on one device. `state` is int64[2]: the seed and the position, which moves on at each draw."""

    def __init__(self, seed: int = 0, *, device: DeviceLike | None = None) -> None:
        where = default_device() if device is None else find_device(device)
        self.state = Tensor([_checked(seed), 0], dtype=int64, device=where)
        self._step = Tensor([0, 1], dtype=int64, device=where)

    @property
    def device(self) -> Device:
        return self.state.device

    def seed(self, seed: int) -> None:
        """Start anew from `seed`, an integer in [0, 2^63)."""
        self.state.data = Tensor([_checked(seed), 0], dtype=int64, device=self.device)

    def _draw(self) -> Tensor:
        """The state for one draw; the next draw gets another."""
        state = self.state.data
        self.state.data = state + self._step
        return state

    def bits(self, *shape: int) -> Tensor:
        """Uniform integers in [0, 2^32), int64."""
        return random_bits(self._draw(), shape=shape)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0, dtype: DTypeLike = float32) -> Tensor:
        """Uniform numbers in [low, high), rounded to the dtype, so that `high` itself can occur unless the range is [0, 1)."""
        unit, wanted = self._floats(random_uniform, shape, dtype)
        return (unit if (low, high) == (0.0, 1.0) else unit * (high - low) + low).astype(wanted)

    def normal(self, *shape: int, mean: float = 0.0, std: float = 1.0, dtype: DTypeLike = float32) -> Tensor:
        """Normal numbers. float16 and bfloat16 are rounded from float32."""
        standard, wanted = self._floats(random_normal, shape, dtype)
        return (standard if (mean, std) == (0.0, 1.0) else standard * std + mean).astype(wanted)

    def _floats(self, draw: Any, shape: tuple[int, ...], dtype: DTypeLike) -> tuple[Tensor, DType]:
        wanted = to_dtype(dtype)
        if not wanted.is_floating:
            raise DtypeError(f"random numbers are drawn in a floating dtype, not {wanted}")
        return draw(self._draw(), shape=shape, dtype=float32 if wanted.itemsize < 4 else wanted), wanted

    def bernoulli(self, *shape: int, p: float) -> Tensor:
        """True with probability `p`, as bool."""
        if not 0 <= p <= 1:
            raise ArgumentError(f"bernoulli: p is a probability, not {p}")
        return less(self.uniform(*shape), p)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Integers in [low, high), int64; of ranges up to 2^32, uniform to within 2^-31 of each probability."""
        low, high = normalize_integer("low", low), normalize_integer("high", high)
        if not 0 < high - low <= 2**32:
            raise ArgumentError(f"integers: the range [{low}, {high}) is empty or larger than 2^32")
        words = random_bits(self._draw(), shape=(*shape, 2))
        return ((words[..., 0] % (high - low)) * (2**32 % (high - low)) + words[..., 1]) % (high - low) + low

    def permutation(self, n: int) -> Tensor:
        """The integers 0 ... n - 1 in random order, int64."""
        words = random_bits(self._draw(), shape=(n, 2))
        return argsort((words[:, 0] // 2) * 2**32 + words[:, 1])


_generators: dict[Device, Generator] = {}
_seed = 0


def default_generator(device: DeviceLike | None = None) -> Generator:
    """The generator of a device (None: the default device) from which initialisers, dropout and loaders draw.

    Its seed is that of `manual_seed`, 0 at first, so that a program gives the same numbers on every device.
    """
    where = default_device() if device is None else find_device(device)
    if where not in _generators:
        trace, mode.trace = mode.trace, None  # it outlives the function that is captured
        try:
            _generators[where] = Generator(0, device=where)
            _generators[where].state.data = _default_state()
        finally:
            mode.trace = trace
    return _generators[where]


def manual_seed(seed: int) -> None:
    """Start every device's default generator anew from `seed`, an integer in [0, 2^63)."""
    global _seed
    _seed = _checked(seed)
    for generator in _generators.values():
        generator.state.data = _default_state()


def _default_state() -> list[int]:
    """The state at which default generators start: its key, below zero, is that of no other, so that data drawn from
    `Generator(seed)` are independent of weights drawn with the same seed."""
    return [~_seed, 0]


def _checked(seed: Any) -> int:
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise ArgumentError(f"a seed is an integer in [0, 2^63), not {brief(seed)}")
    return int(seed)
