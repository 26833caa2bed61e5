"""Checks of gradients: against the derivatives of the reference, in float64 and in other dtypes, of themselves, and at kinks.

A gradient for cotangents g is checked against g J. Its scale is the greatest element of |g| |J|: those of g J hide
cancellation. Below float64 the greatest |g| is added, for where a derivative vanishes, as 1 - y^2 does, its terms cancel.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

import numpy as np

import needle_core as ndl
from needle_core import tree
from needle_core.op import OPS
from needle_core.spec import DTYPES
from needle_core.testing.bounds import LEAST, NOISE, compare, derivative, jacobian, outputs, roundoff
from needle_core.testing.samples import Array, Case, Kink, MismatchError, Sample

GRADIENT_ROUNDS: Final = 2.0**10  # units in the last place of |g| |J| that a rule may lose in float64
ROUNDINGS: Final = 2.0**5  # units of the scale that it may lose in any dtype, where the formula of a layer loses about 6


def check_gradient(case: Case, sample: Sample, seed: int = 0) -> None:
    """The gradients for random cotangents, of every input and of every subset of inputs."""
    place = f"{case.name}/gradient/{sample}"
    arrays = sample.draw(case.name, seed)
    moving = [i for i, x in enumerate(arrays) if x.dtype.kind == "f"]
    slopes, doubt = jacobian(case, sample, arrays)
    for chosen in _subsets(moving):
        value, pull = ndl.vjp(_of(case, sample, arrays, chosen), *(ndl.Tensor(arrays[i]) for i in chosen))
        gs = cotangents(f"{place}/{seed}", outputs(value))
        gradients = pull(_like(value, gs))
        g = _flat(gs)
        parts = _parts([arrays[i] for i in moving])
        for i, gradient in zip(chosen, gradients, strict=True):
            part = parts[moving.index(i)]
            scale = np.max(np.abs(g) @ np.abs(slopes[:, part]), initial=0)
            bound = roundoff(case, ndl.float64) * GRADIENT_ROUNDS * scale + np.abs(g) @ doubt[:, part]
            expected = (g @ slopes[:, part]).reshape(arrays[i].shape)
            compare(
                f"{place}/input {i} of {chosen}", gradient, expected, DTYPES["float64"], bound.reshape(expected.shape) + 1e-300
            )


def check_second_order(case: Case, sample: Sample, seed: int = 0) -> None:
    """The gradient of the gradient, by inputs and cotangents, against differences of the gradient in random directions."""
    place = f"{case.name}/second order/{sample}"
    arrays = sample.draw(case.name, seed)
    moving = [i for i, x in enumerate(arrays) if x.dtype.kind == "f"]
    f = _of(case, sample, arrays, moving)
    probe = f(*(ndl.Tensor(arrays[i]) for i in moving))
    gs = cotangents(f"{place}/{seed}", outputs(probe))
    floating = [c.dtype.is_floating for c in gs]

    def first(*xs: ndl.Tensor) -> tuple[ndl.Tensor, ...]:
        given = iter(xs[len(moving) :])
        cs = [next(given) if is_floating else c for c, is_floating in zip(gs, floating, strict=True)]
        _, pull = ndl.vjp(f, *xs[: len(moving)])
        gradients: tuple[ndl.Tensor, ...] = pull(_like(probe, cs))
        return gradients

    start = [arrays[i] for i in moving] + [c.numpy() for c, is_floating in zip(gs, floating, strict=True) if is_floating]
    value, pull = ndl.vjp(first, *map(ndl.Tensor, start))
    weights = cotangents(f"{place}/weights/{seed}", list(value))
    second = [h.numpy() for h in pull(tuple(weights))]
    rng = np.random.default_rng([7, seed])

    def weighted(directions: Sequence[Array], t: Array) -> Array:
        moved = [ndl.Tensor(x + t * d) for x, d in zip(start, directions, strict=True)]
        return np.array(sum(float((w.numpy() * y.numpy()).sum()) for w, y in zip(weights, first(*moved), strict=True)))

    for _ in range(2):
        directions = [rng.uniform(-1, 1, x.shape) for x in start]
        slope, doubt = derivative(partial(weighted, directions), np.array(0.0), np.array(1.0), False)
        found = sum(float((h * d).sum()) for h, d in zip(second, directions, strict=True))
        scale = sum(float(np.abs(h * d).sum()) for h, d in zip(second, directions, strict=True))
        mass = sum(float(np.abs(w.numpy() * y.numpy()).sum()) for w, y in zip(weights, value, strict=True))
        bound = roundoff(case, ndl.float64) * (GRADIENT_ROUNDS * scale + NOISE * mass) + float(doubt)
        if not abs(found - float(slope)) <= bound:
            raise MismatchError(f"{place}: {found!r} for {float(slope)!r}, bound {bound:.3g}")


def check_gradient_dtypes(case: Case, sample: Sample, dtypes: Sequence[str], seed: int = 0) -> None:
    """Inputs of these dtypes, one for each, get gradients of their own specs, right to the roundoff of the dtypes."""
    place = f"{case.name}/gradient dtypes/{sample}/{dtypes}"
    arrays = sample.draw(case.name, seed)
    moving = [i for i, x in enumerate(arrays) if x.dtype.kind == "f"]
    tensors = [ndl.Tensor(arrays[i]).astype(d) for i, d in zip(moving, itertools.cycle(dtypes), strict=False)]
    for i, t in zip(moving, tensors, strict=True):
        arrays[i] = t.numpy().astype(np.float64)
    slopes, doubt = jacobian(case, sample, arrays)
    value, pull = ndl.vjp(_of(case, sample, arrays, moving), *tensors)
    gs = cotangents(f"{place}/{seed}", outputs(value))
    g = _flat(gs)
    used = [c.dtype for c in gs if c.dtype.is_floating]
    parts = _parts([arrays[i] for i in moving])
    for t, gradient, part in zip(tensors, pull(_like(value, gs)), parts, strict=True):
        if gradient.spec is not t.spec:
            raise MismatchError(f"{place}: the gradient of {t.spec} is {gradient}")
        scale = np.max(np.abs(g) @ np.abs(slopes[:, part]), initial=0) + np.max(np.abs(g), initial=0)
        u = max(roundoff(case, d) for d in (t.dtype, *used))
        bound = u * ROUNDINGS * scale + np.abs(g) @ doubt[:, part] + 4 * LEAST[t.dtype.name]
        compare(place, gradient, (g @ slopes[:, part]).reshape(t.shape), t.dtype, bound.reshape(t.shape))


def check_kink(case: Case, kink: Kink) -> None:
    """Where there is no derivative, the gradients for cotangents of ones are those that are documented."""
    place = f"{case.name}/kink/{kink}"
    xs = [ndl.Tensor(np.array(v)) for v in kink.inputs]
    for x in xs:
        x.requires_grad = x.dtype.is_floating
    y = OPS[case.name](*xs, **kink.attrs)
    y.backward(ndl.ones_like(y))
    for x, expected in zip(xs, kink.gradients, strict=True):
        found = None if x.grad is None else x.grad.tolist()
        if found != (None if expected is None else list(expected)):
            raise MismatchError(f"{place}: the gradient at {x.tolist()} is {found}, and not {expected}")


def cotangents(seed: str, ys: Sequence[ndl.Tensor]) -> list[ndl.Tensor]:
    """Random tensors like `ys`; ones that are not floating, which have no cotangents, stand for themselves."""
    rng = np.random.default_rng(zlib.crc32(seed.encode()))
    return [ndl.Tensor(rng.standard_normal(y.shape)).astype(y.dtype) if y.dtype.is_floating else y for y in ys]


def _flat(gs: Sequence[ndl.Tensor]) -> Array:
    """All floating cotangents, as one vector in float64."""
    return np.concatenate([np.ravel(c.numpy()).astype(np.float64) for c in gs if c.dtype.is_floating])


def _parts(xs: Sequence[Array]) -> list[slice]:
    """The columns of the Jacobian that belong to each of the inputs."""
    ends = itertools.accumulate(x.size for x in xs)
    return [slice(end - x.size, end) for x, end in zip(xs, ends, strict=True)]


def _like(value: Any, leaves: Sequence[ndl.Tensor]) -> Any:
    """Tensors in the structure of a value."""
    return tree.unflatten(tree.flatten(value)[1], list(leaves))


def _of(case: Case, sample: Sample, arrays: Sequence[Array], chosen: Sequence[int]) -> Callable[..., Any]:
    """The op as a function of the chosen inputs, the others fixed."""

    def f(*xs: ndl.Tensor) -> Any:
        full = [ndl.Tensor(x) for x in arrays]
        for i, x in zip(chosen, xs, strict=True):
            full[i] = x
        return OPS[case.name](*full, **sample.arguments)

    return f


def _subsets(items: Sequence[int]) -> Iterator[list[int]]:
    """All non-empty ones; of more than five, those of one, of all but one, and of all: ten would make 1023."""
    sizes = range(1, len(items) + 1) if len(items) <= 5 else (1, len(items) - 1, len(items))
    for n in sizes:
        yield from map(list, itertools.combinations(items, n))
