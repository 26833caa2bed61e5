"""How exactly products are computed: in half precision within `autocast`, in TF32 where `set_matmul_precision` permits it.

Products are the ops that are declared with `product=True`: of matrices, convolutions, attention. They take most of the time,
and add up in float32 whatever they multiply. All else computes as always.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from needle_core import record
from needle_core.errors import ArgumentError, DtypeError, brief
from needle_core.op import forget_all
from needle_core.record import Narrowing, mode
from needle_core.spec import DType, DTypeLike, bfloat16, dtype as to_dtype, float16

HALVES: Final = (bfloat16, float16)
"""The dtypes that products may be narrowed to."""

MatmulPrecision: TypeAlias = Literal["float32", "tf32"]

_matmul: MatmulPrecision = "float32"


def autocast(dtype: DTypeLike | None) -> Narrowing:
    """Products inside read float32 as `dtype`, "bfloat16" or "float16"; None switches that off inside. Per thread.

        with ndl.autocast("bfloat16"):
            loss = loss_fn(model(x), y)

    They add up in float32, and what they give is rounded to `dtype` and then is float32 again. So every tensor has the dtype
    that it has without, parameters and their gradients too. It is a decorator as well: `@ndl.autocast("bfloat16")`.

    Gradient: of a product in the dtype in which it was computed, wherever `backward()` is called
    Raises:   DtypeError for another dtype
    Source:   Micikevicius et al. 2018, arXiv:1710.03740
    """
    half = None if dtype is None else to_dtype(dtype)
    if half is not None and half not in HALVES:
        raise DtypeError(f"autocast: products are narrowed to {' or '.join(HALVES)}, or not at all (None), and not to {half}")
    record.exact &= half is None
    return Narrowing(half)


def matmul_precision() -> MatmulPrecision:
    """How products of float32 may be computed: "float32", or "tf32" if `set_matmul_precision` has permitted it."""
    return _matmul


def set_matmul_precision(precision: MatmulPrecision) -> None:
    """Permit products of float32 to round what they read to TF32's 11 bits, with "tf32", or forbid it again, with "float32".

    It is no promise: a backend without such units computes in float32. It holds in all threads, and what is compiled is
    captured anew.

    Raises: ArgumentError for another word
    """
    global _matmul
    if precision not in ("float32", "tf32"):
        raise ArgumentError(f"the precision of products is 'float32' or 'tf32', not {brief(precision)}")
    _matmul = precision
    record.exact &= precision == "float32"
    forget_all()  # kernels are bound anew


def settings() -> dict[str, str]:
    """What differs from float32 in this thread, by name, for reports."""
    found: dict[str, DType | str | None] = {"autocast": mode.autocast, "matmul_precision": _matmul}
    return {name: str(value) for name, value in found.items() if value not in (None, "float32")}
