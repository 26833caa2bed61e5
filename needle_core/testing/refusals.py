"""Checks of what must fail: with the right error, in the right words, and without a trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

import needle_core as ndl
from needle_core.errors import ArgumentError, BoundsError, DeviceError, NeedleError
from needle_core.op import KERNELS, OPS
from needle_core.spec import DTYPES
from needle_core.tensor_op import TensorOp
from needle_core.testing.bounds import rounded
from needle_core.testing.samples import Case, MismatchError, Refusal, Sample
from needle_core.testing.transfers import other_device


def check_refusal(name: str, refusal: Refusal, seed: int = 0) -> None:
    """A call that must fail does so with the right class and words, showing the operands, which stay as they were.

    Whether an index is out of bounds is known where the host computes; other devices need not notice. Where a body runs in
    place of a kernel, it is an op of the body that notices.
    """
    tensors = _leaves(name, refusal.sample, seed)
    backend = ndl.default_device().backend
    inside = refusal.error is BoundsError and not OPS[name].is_primitive and (name, backend.name) not in KERNELS
    _expect(
        f"{name}/refusal/{refusal.sample}",
        partial(OPS[name], *tensors, **refusal.sample.arguments),
        tensors,
        refusal.error,
        ["" if inside else f"{name}: ", refusal.text, *([] if inside else [str(t.spec) for t in tensors])],
        must=backend.host or refusal.error is not BoundsError,
    )


def check_arguments(case: Case, seed: int = 0) -> None:
    """An operand too many, one that is no tensor and never can be, and an attribute that the op does not have are refused."""
    op, sample = OPS[case.name], case.samples[0]
    tensors, attrs = _leaves(case.name, sample, seed), sample.arguments
    calls: dict[str, tuple[Sequence[Any], dict[str, Any], str]] = {}
    if not (op.operands and op.operands[-1].startswith("*")):
        calls["too many"] = [*tensors, ndl.Tensor(1.0)], attrs, f"takes {len(tensors) or 'no'} tensor"
    if tensors:
        calls["text"] = ["text", *tensors[1:]], attrs, "no tensor can be made of 'text'"
    if not isinstance(op, TensorOp):
        calls["unknown"] = tensors, {**attrs, "unheard_of": 1}, "has no attribute 'unheard_of'"
    for what, (operands, given, text) in calls.items():
        place = f"{case.name}/arguments/{what}"
        _expect(place, partial(op, *operands, **given), tensors, ArgumentError, [f"{case.name}: ", text])


def check_devices(case: Case, seed: int = 0) -> None:
    """Operands on two devices are refused, whichever of them is the stranger."""
    sample = next(s for s in case.samples if len(s.inputs) > 1)
    tensors = _leaves(case.name, sample, seed)
    other = other_device()
    assert other is not None, "where there is one device, this is not checked"
    for i in range(len(tensors)):
        operands = [t.to(other) if i == j else t for j, t in enumerate(tensors)]
        _expect(
            f"{case.name}/devices/{sample}: input {i}",
            partial(OPS[case.name], *operands, **sample.arguments),
            tensors,
            DeviceError,
            [f"{case.name}: ", "operands are on different devices", *(str(t.spec) for t in operands)],
        )


def _leaves(name: str, sample: Sample, seed: int) -> list[ndl.Tensor]:
    """The inputs of a sample in float32, those that can requiring gradients."""
    tensors = [ndl.Tensor(rounded(x, DTYPES["float32"])) for x in sample.draw(name, seed)]
    for t in tensors:
        t.requires_grad = t.dtype.is_floating
    return tensors


def _expect(
    place: str,
    call: Callable[[], Any],
    operands: Sequence[ndl.Tensor],
    kind: type[NeedleError],
    texts: Sequence[str],
    *,
    must: bool = True,
) -> None:
    """The call raises an error of this very class, whose message begins with the first text and has the others in it."""
    before = [_state(t) for t in operands]
    try:
        call()
    except NeedleError as error:
        text = str(error)
        if type(error) is not kind or not text.startswith(texts[0]) or not all(part in text for part in texts):
            wanted = " ... ".join(filter(None, texts))
            raise MismatchError(f"{place}: expected {kind.__name__} {wanted!r}, got {type(error).__name__} {text}") from error
    else:
        if must:
            raise MismatchError(f"{place}: nothing was raised")
    if [_state(t) for t in operands] != before:
        raise MismatchError(f"{place}: an operand is not as it was before")


def _state(t: ndl.Tensor) -> tuple[Any, ...]:
    return t.spec, np.array(t.numpy()).tobytes(), t.requires_grad, t.grad, t.node
