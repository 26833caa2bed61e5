"""Recipes of recurrent networks: products over whole sequences, and for each step a product and a kernel.

A step depends on what came before, and everything else does not: one product for the inputs of all steps comes first, and one
for each weight's gradient last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

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


def _lstm_step(c: Tensor, *ab: Tensor) -> tuple[Tensor, Tensor]:
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


def _rnn_step(a: Tensor, b: Tensor, nonlinearity: str) -> Tensor:
    return ndl.maximum(a + b, 0) if nonlinearity == "relu" else ndl.tanh(a + b)


def _rnn_step_grad(g: Tensor, y: Tensor, dh: Tensor, nonlinearity: str) -> Tensor:
    return (g + dh) * (ndl.less(0, y).astype(y.dtype) if nonlinearity == "relu" else 1 - y * y)


def _sum(a: Tensor, b: Tensor) -> Tensor:
    return a + b


# -- sequences --------------------------------------------------------------------------------------------------------------


def lstm(call: Call) -> Recipe:
    x, h, c, w_ih, w_hh, bias = inputs_of(6)
    work = _Work(call, call.inputs[0].shape, call.inputs[1].shape[1], gates=4)
    (y, cs), a, b = outputs_of(2), work.product(x, w_ih, work.rows, work.i, 4 * work.d, bias), work.space(work.n, 4 * work.d)
    for s, before in work.forward():
        state, cell = (h, c) if before is None else (work.state(y, before), work.state(cs, before))
        work.product(state, w_hh, work.n, work.d, 4 * work.d, target=b)
        work.step(_lstm_step, [cell], [work.gates(a, s), b], [work.state(y, s), work.state(cs, s)])
    return work.recipe


def lstm_grad(call: Call) -> Recipe:
    """The gradients of the gates take the place of `a`."""
    gy, gc, y, cs, x, h, c, w_ih, w_hh, bias = inputs_of(10)
    work = _Work(call, call.inputs[4].shape, call.inputs[5].shape[1], gates=4)
    dx, dh, dc, by_ih, by_hh, by_bias = outputs_of(6)
    states = work.before(y, h)
    a = work.product(x, w_ih, work.rows, work.i, 4 * work.d, bias)
    b = work.product(states, w_hh, work.rows, work.d, 4 * work.d)
    work.zero(dh, dc)
    for s, before in work.backward():
        given = [*(work.state(p, s) for p in (gy, gc, cs)), c if before is None else work.state(cs, before), dh, dc]
        work.step(_lstm_step_grad, given, [work.gates(a, s), work.gates(b, s)], [dc], [work.gates(a, s)])
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
        work.step(_gru_step, [state], [work.gates(a, s), b], [work.state(y, s)])
    return work.recipe


def gru_grad(call: Call) -> Recipe:
    """The gradients take the places of `a` and `b`. What h gets from the step behind is what that kept of it, and a product."""
    g, y, x, h, w_ih, w_hh, b_ih, b_hh = inputs_of(8)
    work = _Work(call, call.inputs[2].shape, call.inputs[3].shape[1], gates=3)
    dx, dh, by_ih, by_hh, by_b_ih, by_b_hh = outputs_of(6)
    states, kept, back = work.before(y, h), work.space(work.n, work.d), work.space(work.n, work.d)
    a = work.product(x, w_ih, work.rows, work.i, 3 * work.d, b_ih)
    b = work.product(states, w_hh, work.rows, work.d, 3 * work.d, b_hh)
    work.zero(kept, back)
    for s, _ in work.backward():
        gates = [work.gates(a, s), work.gates(b, s)]
        work.step(_gru_step_grad, [work.state(g, s), work.state(states, s), kept, back], gates, [kept], gates)
        work.product(work.gates(b, s), w_hh, work.n, 3 * work.d, work.d, target=back, transpose_b=True)
    work.step(_sum, [kept, back], [], [dh])
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
        work.step(_rnn_step, [work.state(a, s), b], [], [work.state(y, s)], nonlinearity=call.attrs["nonlinearity"])
    return work.recipe


def rnn_grad(call: Call) -> Recipe:
    g, y, x, h, w_ih, w_hh, _ = inputs_of(7)
    work = _Work(call, call.inputs[2].shape, call.inputs[3].shape[1], gates=1)
    dx, dh, by_ih, by_hh, by_bias = outputs_of(5)
    da = work.space(work.rows, work.d)
    work.zero(dh)
    for s, _ in work.backward():
        given = [work.state(g, s), work.state(y, s), dh]
        work.step(_rnn_step_grad, given, [], [work.state(da, s)], nonlinearity=call.attrs["nonlinearity"])
        work.product(work.state(da, s), w_hh, work.n, work.d, work.d, target=dh, transpose_b=True)
    work.by_operands(da, x, w_ih, dx, by_ih, by_bias)
    work.by_weight(work.before(y, h), da, work.d, by_hh)
    return work.recipe


class _Work:
    """The recipe of a network of t steps, n samples, i features, d units, with so many gates, as it is written."""

    def __init__(self, call: Call, x: tuple[int, ...], d: int, gates: int) -> None:
        self.call, self.recipe, self.d, self.count = call, Recipe(), d, gates
        self.t, self.n, self.i = x
        self.rows, self.width = self.t * self.n, gates * d
        self.dtype: DType = call.outputs[0].dtype

    def forward(self) -> list[tuple[int, int | None]]:
        """The steps in the order of computing, and the one before each."""
        steps = range(self.t - 1, -1, -1) if self.call.attrs["reverse"] else range(self.t)
        return list(zip(steps, [None, *steps], strict=False))

    def backward(self) -> list[tuple[int, int | None]]:
        return self.forward()[::-1]

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

    def step(
        self, function: Function, states: Sequence[Place], gates: Sequence[Place],
        new_states: Sequence[Place], new_gates: Sequence[Place] = (), **attrs: str,
    ) -> None:  # fmt: skip
        """Append what a function gives of states and of the gates in rows, to new ones, which may take the places of these.

        The program is that of every step: its packs lie as they must wherever a step begins, for their width divides d, or n d
        where no gates are read.
        """

        def views(states: int, rows: int) -> list[tuple[int, int, int]]:
            """For each operand of a function its place, how far apart its rows are, and where it begins in these."""
            parts = [1] * states + [self.count] * rows
            return [(i, n * self.d, k * self.d) for i, n in enumerate(parts) for k in range(n)]

        kind = self.dtype
        loads = [Load(i, kind, (step, 1), offset) for i, step, offset in views(len(states), len(gates))]
        stores = [Store(i, 0, kind, steps=(step, 1), offset=k) for i, step, k in views(len(new_states), len(new_gates))]
        made = expressed(self.call, function, (self.n, self.d), loads, stores, **attrs)
        self.recipe.then(made, [*states, *gates], [*new_states, *new_gates])

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
        self._run(copying(0, self.dtype, (count,), (1,), store, first), [source], target)

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

    def zero(self, *states: Place) -> None:
        """Append that states are 0: what the last step gets from behind, and what there is without any."""
        stores = tuple(Store(i, 0, self.dtype) for i in range(len(states)))
        self._run(Program((self.n * self.d,), (), ((0, self.dtype),), (), stores), [], *states)

    def _run(self, program: Program, inputs: Sequence[Place], *outputs: Place) -> None:
        self.recipe.then(recipe_of(program, self.call.fixed), inputs, outputs)
