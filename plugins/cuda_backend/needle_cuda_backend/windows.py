"""The windows that pooling and convolution look through, as their kernels get them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from needle_cuda_backend.recipe import Numbers


class Windows(NamedTuple):
    """Along each axis: image, places of the window, its elements, stride, padding before, dilation."""

    s: Sequence[int]
    t: Sequence[int]
    k: Sequence[int]
    step: Sequence[int]
    before: Sequence[int]
    apart: Sequence[int]

    @classmethod
    def of(cls, s: Sequence[int], t: Sequence[int], k: Sequence[int], attrs: Mapping[str, Any]) -> Windows:
        return cls(s, t, k, attrs["stride"], [before for before, _ in attrs["padding"]], attrs["dilation"])

    @property
    def image(self) -> int:
        return math.prod(self.s)

    @property
    def places(self) -> int:
        return math.prod(self.t)

    @property
    def meet(self) -> bool:
        """Whether a place of the image may be in several windows."""
        return any((k - 1) * apart >= step for k, step, apart in zip(self.k, self.step, self.apart, strict=True))

    def written(self, number: Numbers) -> str:
        """The struct of CUDA C."""
        parts = ["{" + ", ".join(f"Index({number(n)})" for n in sizes) + "}" for sizes in self]
        return f"Windows<Index, {len(self.s)}>{{{', '.join(parts)}}}"
