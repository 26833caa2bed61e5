"""Recipes of recurrent networks: products over whole sequences, and for each step a product and a kernel.

A step depends on what came before, and everything else does not: one product for the inputs of all steps comes first, and one
for each weight's gradient last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from needle_core.graph.program import Instruction, Load, Program, Store
from needle_core.spec import DType
from needle_cuda_backend.linalg import product
from needle_cuda_backend.loops import recipe_of
from needle_cuda_backend.recipe import Call, Place, Recipe, inputs_of, outputs_of, stored
from needle_cuda_backend.templates import THREADS, blocks_for, is_large, launch_of


def lstm(call: Call) -> Recipe:
    x, h, c, w_ih, w_hh, bias = inputs_of(6)
    work = _Work(call, call.inputs[0].shape, call.inputs[1].shape[1], gates=4)
    (y, cs), a, b = outputs_of(2), work.product(x, w_ih, work.rows, work.i, 4 * work.d, bias), work.space(work.n, 4 * work.d)
    for s, before in work.forward():
        state, cell = (h, c) if before is None else (work.state(y, before), work.state(cs, before))
        work.product(state, w_hh, work.n, work.d, 4 * work.d, target=b)
        work.step("lstm_step", [work.gates(a, s), b, cell, work.state(y, s), work.state(cs, s)])
    return work.recipe


def lstm_grad(call: Call) -> Recipe:
    gy, gc, y, cs, x, h, c, w_ih, w_hh, bias = inputs_of(10)
    work = _Work(call, call.inputs[4].shape, call.inputs[5].shape[1], gates=4)
    dx, dh, dc, by_ih, by_hh, by_bias = outputs_of(6)
    states = work.before(y, h)
    a = work.product(x, w_ih, work.rows, work.i, 4 * work.d, bias)
    b = work.product(states, w_hh, work.rows, work.d, 4 * work.d)
    work.zero_if_no_steps(dh, dc)
    for s, before in work.backward():
        cell = c if before is None else work.state(cs, before)
        g = [work.state(p, s) for p in (gy, gc, cs)]
        work.step("lstm_step_grad", [*g, cell, work.gates(b, s), dh, work.gates(a, s), dc], work.is_last(s))
        work.product(work.gates(a, s), w_hh, work.n, 4 * work.d, work.d, target=dh, transpose_b=True)
    work.by_operands(a, x, w_ih, dx, by_ih, by_bias)
    work.by_weight(states, a, work.d, by_hh)
    return work.recipe


def gru(call: Call) -> Recipe:
    x, h, w_ih, w_hh, b_ih, b_hh = inputs_of(6)
    work, y = _Work(call, call.inputs[0].shape, call.inputs[1].shape[1], gates=3), Place("output")
    a, b = work.product(x, w_ih, work.rows, work.i, 3 * work.d, b_ih), work.space(work.n, 3 * work.d)
    for s, before in work.forward():
        state = h if before is None else work.state(y, before)
        work.product(state, w_hh, work.n, work.d, 3 * work.d, b_hh, target=b)
        work.step("gru_step", [work.gates(a, s), b, state, work.state(y, s)])
    return work.recipe


def gru_grad(call: Call) -> Recipe:
    g, y, x, h, w_ih, w_hh, b_ih, b_hh = inputs_of(8)
    work = _Work(call, call.inputs[2].shape, call.inputs[3].shape[1], gates=3)
    dx, dh, by_ih, by_hh, by_b_ih, by_b_hh = outputs_of(6)
    states, kept, back = work.before(y, h), work.space(work.n, work.d), work.space(work.n, work.d)
    a = work.product(x, w_ih, work.rows, work.i, 3 * work.d, b_ih)
    b = work.product(states, w_hh, work.rows, work.d, 3 * work.d, b_hh)
    work.zero_if_no_steps(dh)
    for s, _ in work.backward():
        places = [work.state(g, s), work.state(states, s), back, kept, work.gates(a, s), work.gates(b, s)]
        work.step("gru_step_grad", places, work.is_last(s))
        work.product(work.gates(b, s), w_hh, work.n, 3 * work.d, work.d, target=back, transpose_b=True)
    if work.t:
        work.add(kept, back, dh)
    work.by_operands(a, x, w_ih, dx, by_ih, by_b_ih)
    work.by_weight(states, b, work.d, by_hh)
    work.by_bias(b, by_b_hh)
    return work.recipe


def rnn(call: Call) -> Recipe:
    x, h, w_ih, w_hh, bias = inputs_of(5)
    work, y = _Work(call, call.inputs[0].shape, call.inputs[1].shape[1], gates=1), Place("output")
    a, b = work.product(x, w_ih, work.rows, work.i, work.d, bias), work.space(work.n, work.d)
    for s, before in work.forward():
        work.product(h if before is None else work.state(y, before), w_hh, work.n, work.d, work.d, target=b)
        work.step("rnn_step", [work.gates(a, s), b, work.state(y, s)], _is_relu(call))
    return work.recipe


def rnn_grad(call: Call) -> Recipe:
    g, y, x, h, w_ih, w_hh, _ = inputs_of(7)
    work = _Work(call, call.inputs[2].shape, call.inputs[3].shape[1], gates=1)
    dx, dh, by_ih, by_hh, by_bias = outputs_of(5)
    da = work.space(work.rows, work.d)
    work.zero_if_no_steps(dh)
    for s, _ in work.backward():
        places = [work.state(g, s), work.state(y, s), dh, work.gates(da, s)]
        work.step("rnn_step_grad", places, _is_relu(call), work.is_last(s))
        work.product(work.gates(da, s), w_hh, work.n, work.d, work.d, target=dh, transpose_b=True)
    work.by_operands(da, x, w_ih, dx, by_ih, by_bias)
    work.by_weight(work.before(y, h), da, work.d, by_hh)
    return work.recipe


def _is_relu(call: Call) -> bool:
    return bool(call.attrs["nonlinearity"] == "relu")


class _Work:
    """The recipe of a network of t steps, n samples, i features, d units, with so many gates, as it is written."""

    def __init__(self, call: Call, x: tuple[int, ...], d: int, gates: int) -> None:
        self.call, self.recipe, self.d = call, Recipe(), d
        self.t, self.n, self.i = x
        self.rows, self.width = self.t * self.n, gates * d
        self.dtype: DType = call.outputs[0].dtype

    def forward(self) -> list[tuple[int, int | None]]:
        """The steps in the order of computing, and the one before each."""
        steps = range(self.t - 1, -1, -1) if self.call.attrs["reverse"] else range(self.t)
        return list(zip(steps, [None, *steps], strict=False))

    def backward(self) -> list[tuple[int, int | None]]:
        return self.forward()[::-1]

    def is_last(self, step: int) -> bool:
        return step == (0 if self.call.attrs["reverse"] else self.t - 1)

    def space(self, *shape: int) -> Place:
        return self.recipe.space(math.prod(shape) * self.dtype.itemsize)

    def state(self, sequence: Place, step: int) -> Place:
        return sequence.plus(step * self.n * self.d * self.dtype.itemsize)

    def gates(self, sequence: Place, step: int) -> Place:
        return sequence.plus(step * self.n * self.width * self.dtype.itemsize)

    def product(
        self, a: Place, b: Place, m: int, k: int, n: int, bias: Place | None = None,
        target: Place | None = None, transpose_b: bool = False,
    ) -> Place:  # fmt: skip
        """Append a b, of m by k and k by n, and say where it is."""
        y = self.space(m, n) if target is None else target
        shape = (n, k) if transpose_b else (k, n)
        product(
            self.recipe, a, b, y, (m, k), shape, self.dtype, transpose_b=transpose_b, bias=bias, fixed=self.call.fixed
        )  # fmt: skip
        return y

    def step(self, function: str, places: Sequence[Place], *flags: bool) -> None:
        """Append a step's kernel, with a thread for each unit of a sample."""
        if not self.n * self.d:
            return
        self.recipe.operations.append(
            launch_of(
                self.call, function, "recurrent", [(p, self.dtype) for p in places], [self.n, self.d],
                blocks_for(self.n * self.d, THREADS // 2), (THREADS // 2, 1, 1),
                types=[stored(self.dtype), *(str(flag).lower() for flag in flags)], is_large=is_large(self.n * self.width),
            )
        )  # fmt: skip

    def before(self, y: Place, h: Place) -> Place:
        """The states before every step, of those after it and of the first."""
        states, size = self.space(self.rows, self.d), self.n * self.d
        if self.t:
            first, source, rest = (self.t - 1, size, 0) if self.call.attrs["reverse"] else (0, 0, size)
            self._copy(size, h, 0, states, first * size)
            self._copy((self.t - 1) * size, y, source, states, rest)
        return states

    def _copy(self, count: int, source: Place, first: int, target: Place, to: int) -> None:
        """The offsets are the program's, as places must lie so that packs can be read there."""
        store = Store(0, 0, self.dtype, steps=(1,), offset=to)
        self._run(Program((count,), (Load(0, self.dtype, (1,), first),), (), (), (store,)), [source], target)

    def by_operands(self, da: Place, x: Place, w_ih: Place, dx: Place, by_ih: Place, by_bias: Place) -> None:
        """Append the gradients for x, w_ih and the bias, from those of the gates of all steps."""
        self.product(da, w_ih, self.rows, self.width, self.i, target=dx, transpose_b=True)
        self.by_weight(x, da, self.i, by_ih)
        self.by_bias(da, by_bias)

    def by_weight(self, x: Place, da: Place, i: int, y: Place) -> None:
        product(
            self.recipe, x, da, y, (self.rows, i), (self.rows, self.width), self.dtype, transpose_a=True, fixed=self.call.fixed
        )  # fmt: skip

    def by_bias(self, da: Place, y: Place) -> None:
        load = Load(0, self.dtype, (self.width, 1))
        self._run(Program((self.rows, self.width), (load,), (), (), (Store(0, 0, self.dtype, "sum", (0,)),)), [da], y)

    def add(self, a: Place, b: Place, y: Place) -> None:
        """Append the sum of two states."""
        loads = (Load(0, self.dtype, (1,)), Load(1, self.dtype, (1,)))
        add = Instruction("add", (0, 1), {}, self.dtype)
        self._run(Program((self.n * self.d,), loads, (), (add,), (Store(0, 2, self.dtype),)), [a, b], y)

    def zero_if_no_steps(self, *states: Place) -> None:
        """Append that states are 0 if no step says what they are."""
        for y in states if not self.t else ():
            self._run(Program((self.n * self.d,), (), ((0, self.dtype),), (), (Store(0, 0, self.dtype),)), [], y)

    def _run(self, program: Program, inputs: Sequence[Place], y: Place) -> None:
        self.recipe.then(recipe_of(program, self.call.fixed), inputs, [y])
