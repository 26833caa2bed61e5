"""Recipes of pooling: programs over places that have to do with the same elements.

Seen from windows, these are the elements of the image in each; seen from the image, the elements of windows that a place is.
They are fewer at the edges than elsewhere, so that a few programs do, whose loads and stores have no conditions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property, reduce
from itertools import groupby, product
from typing import Final, NamedTuple

import needle_core as ndl
from needle_core.graph.program import Load, Program, Store, row_major
from needle_core.spec import DType, Spec
from needle_core.tensor import Tensor
from needle_cuda_backend.body import recipe_of_body, recipe_of_programs
from needle_cuda_backend.expression import Function, expressed
from needle_cuda_backend.loops import recipe_of
from needle_cuda_backend.recipe import Call, Place, Recipe, inputs_of, outputs_of, wide

MOST: Final = 16
"""Elements that a thread loads: registers have room for a pack of each."""
MOST_BOXES: Final = 64

# -- what becomes of elements -----------------------------------------------------------------------------------------------


def _greatest(*x: Tensor, counts: tuple[int, ...] = ()) -> Tensor:
    return reduce(ndl.maximum, x)


def _mean(*x: Tensor, counts: tuple[int, ...]) -> Tensor:
    return reduce(ndl.add, x) / counts[0]


def _shares(g: Tensor, *x: Tensor) -> tuple[Tensor, Tensor]:
    """The greatest element of a window, and what each that is equal to it gets. With nan, none is, and all get nan."""
    top = _greatest(*x)
    return top, g / reduce(ndl.add, [ndl.equal(v, top).astype(g.dtype) for v in x])


def _shared(g: Tensor, *x: Tensor) -> tuple[Tensor, ...]:
    top, share = _shares(g, *x)
    return tuple(ndl.equal(v, top).astype(g.dtype) * share for v in x)


def _sum_of_shares(x: Tensor, *windows: Tensor) -> Tensor:
    """Of the greatest elements of windows, and then the shares of each."""
    tops, shares = windows[: len(windows) // 2], windows[len(windows) // 2 :]
    return reduce(ndl.add, [ndl.equal(x, t).astype(x.dtype) * share for t, share in zip(tops, shares, strict=True)])


def _sum_of_means(*g: Tensor, counts: tuple[int, ...]) -> Tensor:
    return reduce(ndl.add, [v / count for v, count in zip(g, counts, strict=True)])


# -- recipes ----------------------------------------------------------------------------------------------------------------


def max_pool(call: Call) -> Recipe:
    return _pooled(call, _greatest, "max", -math.inf)


def avg_pool(call: Call) -> Recipe:
    return _pooled(call, _mean, "mean", 0.0)


def _pooled(call: Call, function: Function, reduction: str, outside: float) -> Recipe:
    (x,), (y,), recipe = call.inputs, call.outputs, Recipe()
    boxes = _boxes(call, x, y)
    if not _are_few(boxes):
        counts_differ = not call.attrs.get("count_include_pad", True) and any(map(any, call.attrs["padding"]))
        return recipe_of_body("avg_pool", call) if counts_differ else _reduced(call, reduction, outside)
    for box in boxes:
        made = expressed(call, function, box.shape, box.loads(0, x.dtype), [box.store(0, x.dtype)], counts=box.counts)
        recipe.then(made, inputs_of(1), outputs_of(1))
    return recipe


def max_pool_grad(call: Call) -> Recipe:
    """Where windows meet, the greatest elements of all are found first."""
    (g, x), kind, recipe = call.inputs, call.inputs[1].dtype, Recipe()
    meet = _meet(call, g)
    boxes, places = _boxes(call, x, g), _boxes(call, x, g, of_image=True) if meet else []
    if not _are_few(boxes, places):
        return recipe_of_body("max_pool_grad", call)
    if not meet:
        _zero_unless_all(recipe, call, boxes, meet)
        for box in boxes:
            loads, stores = [box.load(0, kind), *box.loads(1, kind)], box.stores(0, kind)
            recipe.then(expressed(call, _shared, box.shape, loads, stores), inputs_of(2), outputs_of(1))
        return recipe
    tops, shares = recipe.space(g.nbytes), recipe.space(g.size * wide(kind).itemsize)
    for box in boxes:
        loads, stores = [box.load(0, kind), *box.loads(1, kind)], [box.store(0, kind), box.store(1, wide(kind))]
        recipe.then(expressed(call, _shares, box.shape, loads, stores), inputs_of(2), [tops, shares])
    _zero_unless_all(recipe, call, places, meet)
    for box in places:
        loads = [box.load(0, kind), *box.loads(1, kind), *box.loads(2, wide(kind))]
        made = expressed(call, _sum_of_shares, box.shape, loads, [box.store(0, kind)])
        recipe.then(made, [Place("input", 1), tops, shares], outputs_of(1))
    return recipe


def avg_pool_grad(call: Call) -> Recipe:
    """Where windows do not meet, each hands its share on to its elements, along axes of their own."""
    (g,), (x,), recipe = call.inputs, call.outputs, Recipe()
    meet = _meet(call, g)
    boxes = _boxes(call, x, g, of_image=meet)
    if meet and not _are_few(boxes):
        return recipe_of_body("avg_pool_grad", call)
    _zero_unless_all(recipe, call, boxes, meet)
    for box in boxes:
        if meet:
            loads, stores = box.loads(0, x.dtype), [box.store(0, x.dtype)]
            made = expressed(call, _sum_of_means, box.shape, loads, stores, counts=box.counts)
        else:
            elements = tuple(len(run.met) for run in box.runs)
            apart = [a * b for a, b in zip(call.attrs["dilation"], row_major(x.shape)[1:-1], strict=True)]
            load = Load(0, x.dtype, (*box.here[:-1], *(0 for _ in elements), 1), box.offset)
            store = Store(0, 0, x.dtype, steps=(*box.there[:-1], *apart, 1), offset=box.pairs[0][0])
            made = expressed(call, _mean, (*box.shape[:-1], *elements, x.shape[-1]), [load], [store], counts=box.counts[:1])
        recipe.then(made, inputs_of(1), outputs_of(1))
    return recipe


def _zero_unless_all(recipe: Recipe, call: Call, boxes: Sequence[_Box], meet: bool) -> None:
    """Append zeros for the whole image if some of its places are in no window."""
    x = call.outputs[0]
    if sum(math.prod(box.shape) * (1 if meet else box.size) for box in boxes) < x.size:
        zeros = Program((x.size,), (), ((0.0, x.dtype),), (), (Store(0, 0, x.dtype),))
        recipe.then(recipe_of(zeros, call.fixed), [], outputs_of(1))


def _reduced(call: Call, reduction: str, outside: float) -> Recipe:
    """The pooling of large windows: a reduction along their elements, of the image in its padding."""
    (x,), (y,), recipe, source = call.inputs, call.outputs, Recipe(), Place("input")
    stride, padding, dilation = (call.attrs[name] for name in ("stride", "padding", "dilation"))
    if any(map(any, padding)):
        width = ((0, 0), *padding, (0, 0))
        padded = x.like(shape=tuple(n + sum(p) for n, p in zip(x.shape, width, strict=True)))
        source, attrs = recipe.space(padded.nbytes), {"width": width, "value": outside, "dilation": (1,) * x.ndim}
        recipe.then(recipe_of_programs("pad", Call((x,), (padded,), attrs, call.fixed)), inputs_of(1), [source])
        x = padded
    n, *inner, _ = row_major(x.shape)
    elements, places = ([a * b for a, b in zip(steps, inner, strict=True)] for steps in (dilation, stride))
    load, total = Load(0, x.dtype, (*elements, n, *places, 1)), Store(0, 0, y.dtype, reduction, tuple(range(len(elements))))
    program = Program((*call.attrs["size"], *y.shape), (load,), (), (), (total,))
    recipe.then(recipe_of(program, call.fixed), [source], outputs_of(1))
    return recipe


# -- places that are alike --------------------------------------------------------------------------------------------------


class _Run(NamedTuple):
    """Places along an axis that have to do with the same elements of windows.

    They are `places`, the first and every `step`-th after it. For each of the elements, `met` has where the other place of the
    first is, in the image or among the windows, from where it moves on by `pace`, and how many elements of its window count.
    """

    first: int
    step: int
    places: int
    pace: int
    met: Sequence[tuple[int, int]]


class _Box:
    """Places in an array of shape `target`, with a run along each spatial axis; their other places are in one of `source`."""

    def __init__(self, runs: Sequence[_Run], target: Sequence[int], source: Sequence[int]) -> None:
        to, of = row_major(target), row_major(source)
        self.runs, self.source = runs, source
        self.shape = (target[0], *(run.places for run in runs), target[-1])
        self.here = (to[0], *(run.step * s for run, s in zip(runs, to[1:-1], strict=True)), 1)
        self.there = (of[0], *(run.pace * s for run, s in zip(runs, of[1:-1], strict=True)), 1)
        self.offset = sum(run.first * s for run, s in zip(runs, to[1:-1], strict=True))
        self.size = math.prod(len(run.met) for run in runs)

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """Where the other places of the first are, and how many elements of the window count with each."""
        steps = row_major(self.source)[1:-1]
        return [
            (sum(place * step for (place, _), step in zip(met, steps, strict=True)), math.prod(count for _, count in met))
            for met in product(*(run.met for run in self.runs))
        ]

    @property
    def counts(self) -> tuple[int, ...]:
        return tuple(count for _, count in self.pairs)

    def load(self, number: int, dtype: DType) -> Load:
        return Load(number, dtype, self.here, self.offset)

    def loads(self, number: int, dtype: DType) -> list[Load]:
        return [Load(number, dtype, self.there, offset) for offset, _ in self.pairs]

    def store(self, number: int, dtype: DType) -> Store:
        return Store(number, 0, dtype, steps=self.here, offset=self.offset)

    def stores(self, number: int, dtype: DType) -> list[Store]:
        return [Store(number, 0, dtype, steps=self.there, offset=offset) for offset, _ in self.pairs]


def _boxes(call: Call, x: Spec, y: Spec, *, of_image: bool = False) -> list[_Box]:
    """The boxes of all windows, places in y, or of all places in x that are in some."""
    by_axis, counts_all = [], call.attrs.get("count_include_pad", True)
    sides = (call.attrs[name] for name in ("size", "stride", "padding", "dilation"))
    for s, t, k, stride, (before, _), apart in zip(x.shape[1:-1], y.shape[1:-1], *sides, strict=True):
        met: list[list[tuple[int, int, int]]] = [[] for _ in range(s if of_image else t)]
        for p in range(t):
            inside = [(e, i) for e in range(k) if 0 <= (i := p * stride - before + e * apart) < s]
            for e, i in inside:
                here, there = (i, p) if of_image else (p, i)
                met[here].append((e, there, k if counts_all else len(inside)))
        by_axis.append(_runs(met, *((stride, 1) if of_image else (1, stride))))
    shapes = (x.shape, y.shape) if of_image else (y.shape, x.shape)
    return [_Box(runs, *shapes) for runs in product(*by_axis)]


def _runs(met: Sequence[Sequence[tuple[int, int, int]]], step: int, pace: int) -> list[_Run]:
    """Runs of the places that have met any: for each place the elements, their other places, and how many count with them."""
    runs = []
    for start in range(min(step, len(met))):
        for alike, places in groupby(range(start, len(met), step), lambda i: [(e, count) for e, _, count in met[i]]):
            first, *more = places
            if alike:
                runs.append(_Run(first, step, 1 + len(more), pace, [(place, count) for _, place, count in met[first]]))
    return runs


def _meet(call: Call, y: Spec) -> bool:
    """Whether a place of the image may be in several windows."""
    sides = zip(y.shape[1:-1], call.attrs["size"], call.attrs["stride"], call.attrs["dilation"], strict=True)
    return any(t > 1 and (k - 1) * apart >= stride for t, k, stride, apart in sides)


def _are_few(*boxes: Sequence[_Box]) -> bool:
    """Whether there is a program for each of the boxes, whose loads are not too many."""
    return all(len(some) <= MOST_BOXES and all(box.size <= MOST for box in some) for some in boxes)
