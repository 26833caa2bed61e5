"""Recipes of recurrent networks: products over whole sequences, and for each step a product and a kernel.

A step depends on what came before, and everything else does not: one product for the inputs of all steps comes first, and one
for each weight's gradient last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import needle_core as ndl
from needle_core.graph.program import Load, Program, Store
from needle_core.graph.single_ops import copying
from needle_core.spec import DType
from needle_core.tensor import Tensor
from needle_cuda_backend.expression import Function, expressed
from needle_cuda_backend.linalg import product
from needle_cuda_backend.loops import recipe_of
from needle_cuda_backend.recipe import Call, Place, Recipe, inputs_of, outputs_of

# -- steps: a unit of a sample, whose gates have parts of the products with x, `a`, and with h, `b` --------------------------


def _sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + ndl.exp(-x))


def _lstm_step(h: Tensor, c: Tensor, *ab: Tensor) -> tuple[Tensor, Tensor]:
    """h and c."""
    i, f, g, o = (a + b for a, b in zip(ab[:4], ab[4:], strict=True))
    now = _sigmoid(f) * c + _sigmoid(i) * ndl.tanh(g)
    return _sigmoid(o) * ndl.tanh(now), now


def _lstm_step_grad(
    gy: Tensor, gc: Tensor, c: Tensor, before: Tensor, dh: Tensor, dc: Tensor, *ab: Tensor
) -> tuple[Tensor, ...]:
    """For c and the gates."""
    i, f, g, o = (a + b for a, b in zip(ab[:4], ab[4:], strict=True))
    i, f, g, o, now = _sigmoid(i), _sigmoid(f), ndl.tanh(g), _sigmoid(o), ndl.tanh(c)
    by_h = gy + dh
    by_c = gc + dc + by_h * (o * (1 - now * now))
    by_gates = (
        by_c * (g * i * (1 - i)), by_c * (before * f * (1 - f)), by_c * (i * (1 - g * g)), by_h * (now * o * (1 - o))
    )  # fmt: skip
    return by_c * f, *by_gates


def _gru_gates(ab: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
    reset, keep = _sigmoid(ab[0] + ab[3]), _sigmoid(ab[1] + ab[4])
    return reset, keep, ndl.tanh(ab[2] + reset * ab[5])


def _gru_step(h: Tensor, *ab: Tensor) -> Tensor:
    _, keep, fresh = _gru_gates(ab)
    return fresh + keep * (h - fresh)


def _gru_step_grad(g: Tensor, before: Tensor, kept: Tensor, product: Tensor, *ab: Tensor) -> tuple[Tensor, ...]:
    """For h, without what comes through the product, for `a`, and for `b`."""
    reset, keep, fresh = _gru_gates(ab)
    by_h = g + (kept + product)
    by_fresh = by_h * (1 - keep) * (1 - fresh * fresh)
    by_reset = by_fresh * ab[5] * reset * (1 - reset)
    by_keep = by_h * (before - fresh) * keep * (1 - keep)
    return by_h * keep, by_reset, by_keep, by_fresh, by_reset, by_keep, by_fresh * reset


def _rnn_step(h: Tensor, a: Tensor, b: Tensor, nonlinearity: str) -> Tensor:
    return ndl.maximum(a + b, 0) if nonlinearity == "relu" else ndl.tanh(a + b)


def _rnn_step_grad(g: Tensor, y: Tensor, dh: Tensor, nonlinearity: str) -> Tensor:
    return (g + dh) * (ndl.less(0, y).astype(y.dtype) if nonlinearity == "relu" else 1 - y * y)


# -- sequences --------------------------------------------------------------------------------------------------------------


def lstm(call: Call) -> Recipe:
    return _Work(call, gates=4, states=2).forward(_lstm_step)


def lstm_grad(call: Call) -> Recipe:
    """The gradients of the gates take the place of `a`."""
    (gy, gc, y, cs), work = inputs_of(4), _Work(call, gates=4, states=2)
    dh, dc = work.by_states
    states, a, b = work.again(y)
    work.zero(dh, dc)
    for s, before in reversed(work.steps()):
        cell, gates = work.states[1] if before is None else work.state(cs, before), [work.gates(a, s), work.gates(b, s)]
        work.step(_lstm_step_grad, [*(work.state(p, s) for p in (gy, gc, cs)), cell, dh, dc], gates, [dc], gates[:1])
        work.back(gates[0], dh)
    return work.by_weights(a, a, states)


def gru(call: Call) -> Recipe:
    return _Work(call, gates=3).forward(_gru_step)


def gru_grad(call: Call) -> Recipe:
    """The gradients take the places of `a` and `b`. What h gets from the step behind is what that kept of it, and a product."""
    (g, y), work = inputs_of(2), _Work(call, gates=3)
    states, a, b = work.again(y)
    kept, through = work.space(work.n, work.d), work.space(work.n, work.d)
    work.zero(kept, through)
    for s, _ in reversed(work.steps()):
        gates = [work.gates(a, s), work.gates(b, s)]
        work.step(_gru_step_grad, [work.state(g, s), work.state(states, s), kept, through], gates, [kept], gates)
        work.back(gates[1], through)
    work.step(ndl.add, [kept, through], [], work.by_states)
    return work.by_weights(a, b, states)


def rnn(call: Call) -> Recipe:
    return _Work(call, gates=1).forward(_rnn_step)


def rnn_grad(call: Call) -> Recipe:
    (g, y), work = inputs_of(2), _Work(call, gates=1)
    (dh,), da = work.by_states, work.space(work.rows, work.d)
    work.zero(dh)
    for s, _ in reversed(work.steps()):
        work.step(_rnn_step_grad, [work.state(g, s), work.state(y, s), dh], [], [work.state(da, s)])
        work.back(work.state(da, s), dh)
    return work.by_weights(da, da, work.before(y))


class _Work:
    """The recipe of a network of t steps, n samples, i features, d units, as it is written.

    The operands of a network are x, the first of its states, weights and biases; those of a gradient have others before.
    """

    def __init__(self, call: Call, gates: int, states: int = 1) -> None:
        self.call, self.recipe, self.count = call, Recipe(), gates
        start = max(i for i, spec in enumerate(call.inputs) if spec.ndim == 3)
        self.t, self.n, self.i = call.inputs[start].shape
        self.d = call.inputs[start + 1].shape[1]
        self.rows, self.width = self.t * self.n, gates * self.d
        self.dtype: DType = call.outputs[0].dtype
        self.x, *rest = inputs_of(len(call.inputs))[start:]
        self.states, (self.w_ih, self.w_hh, self.b_ih, *more) = rest[:states], rest[states:]
        self.b_hh = more[0] if more else None
        self.by_states = outputs_of(1 + states)[1:]

    def forward(self, function: Function) -> Recipe:
        """The recipe of all steps."""
        a, b, sequences = self._by_x(), self.space(self.n, self.width), outputs_of(len(self.states))
        for s, before in self.steps():
            now = self.states if before is None else [self.state(y, before) for y in sequences]
            self.product(now[0], self.w_hh, self.n, self.d, self.width, b, bias=self.b_hh)
            self.step(function, now, [self.gates(a, s), b], [self.state(y, s) for y in sequences])
        return self.recipe

    def again(self, y: Place) -> tuple[Place, Place, Place]:
        """The states before every step, and the products with x and with these."""
        states = self.before(y)
        return states, self._by_x(), self.product(states, self.w_hh, self.rows, self.d, self.width, bias=self.b_hh)

    def _by_x(self) -> Place:
        return self.product(self.x, self.w_ih, self.rows, self.i, self.width, bias=self.b_ih)

    def back(self, db: Place, dh: Place) -> None:
        """Append what the step before gets through the product with h."""
        self.product(db, self.w_hh, self.n, self.width, self.d, dh, transpose_b=True)

    def steps(self) -> list[tuple[int, int | None]]:
        """The steps in the order of computing, and the one before each."""
        steps = range(self.t - 1, -1, -1) if self.call.attrs["reverse"] else range(self.t)
        return list(zip(steps, [None, *steps], strict=False))

    def space(self, *shape: int) -> Place:
        return self.recipe.space(math.prod(shape) * self.dtype.itemsize)

    def state(self, sequence: Place, step: int) -> Place:
        return sequence.plus(step * self.n * self.d * self.dtype.itemsize)

    def gates(self, sequence: Place, step: int) -> Place:
        return sequence.plus(step * self.n * self.width * self.dtype.itemsize)

    def product(self, a: Place, b: Place, m: int, k: int, n: int, y: Place | None = None, **how: Any) -> Place:
        """Append a product, of m by k and k by n, and say where it is."""
        y = y or self.space(m, n)
        left, right = (k, m) if how.get("transpose_a") else (m, k), (n, k) if how.get("transpose_b") else (k, n)
        product(self.recipe, a, b, y, left, right, self.dtype, fixed=self.call.fixed, **how)
        return y

    def step(
        self, function: Function, states: Sequence[Place], gates: Sequence[Place],
        new_states: Sequence[Place], new_gates: Sequence[Place] = (),
    ) -> None:  # fmt: skip
        """Append what a function gives of states and of the gates in rows, to new ones, which may take the places of these.

        The program is that of every step: its packs lie as they must wherever a step begins, for their width divides d, or n d
        where no gates are read.
        """

        def views(states: int, rows: int) -> list[tuple[int, int, int]]:
            """For each operand of a function its place, how far apart its rows are, and where it begins in these."""
            parts = [1] * states + [self.count] * rows
            return [(i, n * self.d, k * self.d) for i, n in enumerate(parts) for k in range(n)]

        kind, attrs = self.dtype, {name: value for name, value in self.call.attrs.items() if name != "reverse"}
        loads = [Load(i, kind, (step, 1), offset) for i, step, offset in views(len(states), len(gates))]
        stores = [Store(i, 0, kind, steps=(step, 1), offset=k) for i, step, k in views(len(new_states), len(new_gates))]
        made = expressed(self.call, function, (self.n, self.d), loads, stores, **attrs)
        self.recipe.then(made, [*states, *gates], [*new_states, *new_gates])

    def before(self, y: Place) -> Place:
        """The states before every step: those after it and the first, at offsets of programs, so that packs lie right."""
        states, size = self.space(self.rows, self.d), self.n * self.d
        if self.t:
            first, source, rest = (self.t - 1, size, 0) if self.call.attrs["reverse"] else (0, 0, size)
            for x, count, start, to in ((self.states[0], size, 0, first * size), (y, (self.t - 1) * size, source, rest)):
                store = Store(0, 0, self.dtype, steps=(1,), offset=to)
                self._run(copying(0, self.dtype, (count,), (1,), store, start), [x], states)
        return states

    def by_weights(self, da: Place, db: Place, states: Place) -> Recipe:
        """The recipe with the gradients for x, weights and biases, from those of the products with x and with the states."""
        dx, *rest = outputs_of(len(self.call.outputs))
        by_ih, by_hh, *by_biases = rest[len(self.states) :]
        self.product(da, self.w_ih, self.rows, self.width, self.i, dx, transpose_b=True)
        self.product(self.x, da, self.i, self.rows, self.width, by_ih, transpose_a=True)
        self.product(states, db, self.d, self.rows, self.width, by_hh, transpose_a=True)
        total = Store(0, 0, self.dtype, "sum", (0,))
        program = Program((self.rows, self.width), (Load(0, self.dtype, (self.width, 1)),), (), (), (total,))
        for gates, bias in zip((da, db), by_biases, strict=False):
            self._run(program, [gates], bias)
        return self.recipe

    def zero(self, *states: Place) -> None:
        """Append that states are 0: what the last step gets from behind, and what there is without any."""
        stores = tuple(Store(i, 0, self.dtype) for i in range(len(states)))
        self._run(Program((self.n * self.d,), (), ((0, self.dtype),), (), stores), [], *states)

    def _run(self, program: Program, inputs: Sequence[Place], *outputs: Place) -> None:
        self.recipe.then(recipe_of(program, self.call.fixed), inputs, outputs)
