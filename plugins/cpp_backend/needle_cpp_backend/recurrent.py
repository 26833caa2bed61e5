"""Which native kernels compute recurrent networks: products over whole sequences, and one that goes from step to step."""

from __future__ import annotations

from needle_core.spec import Spec
from needle_cpp_backend import programs
from needle_cpp_backend.call import Call, Kernel, code, in_float32
from needle_cpp_backend.native import native
from needle_cpp_backend.work import Work


@in_float32
def lstm(call: Call) -> Kernel:
    x, h, c, w_ih, w_hh, bias = range(6)
    work = Work(call)
    (t, n, i), d, dtype = call.inputs[x].shape, call.inputs[h].shape[1], code(call.inputs[x].dtype)
    a = work.add(native.product(dtype, (t * n, i), (i, 4 * d), bias=True), [x, w_ih, bias], (t, n, 4 * d))
    work.finish(native.lstm(dtype, t, n, d, **call.attrs), [a, h, c, w_hh], [0, 1])
    return work.kernel()


@in_float32
def lstm_grad(call: Call) -> Kernel:
    gy, gc, y, cs, x, h, c, w_ih, w_hh, bias = range(10)
    work, reverse = Work(call), call.attrs["reverse"]
    (t, n, i), d, dtype = call.inputs[x].shape, call.inputs[h].shape[1], call.inputs[x].dtype
    wide, rows = code(dtype), t * n
    states = work.before(y, h, (t, n, d), reverse)
    a = work.add(native.product(wide, (rows, i), (i, 4 * d), bias=True), [x, w_ih, bias], (t, n, 4 * d))
    b = work.add(native.product(wide, (rows, d), (d, 4 * d)), [states, w_hh], (t, n, 4 * d))
    turned = work.add(programs.of_copy(dtype, (4 * d, d), (1, 4 * d)), [w_hh], (4 * d, d))
    da = work.space((t, n, 4 * d))
    work.finish(native.lstm_grad(wide, t, n, d, reverse), [gy, gc, cs, c, a, b, turned], [da, 1, 2])
    work.finish(native.product(wide, (rows, 4 * d), (i, 4 * d), transpose_b=True), [da, w_ih], [0])
    work.finish(native.product(wide, (rows, i), (rows, 4 * d), transpose_a=True), [x, da], [3])
    work.finish(native.product(wide, (rows, d), (rows, 4 * d), transpose_a=True), [states, da], [4])
    work.finish(_sum_of_rows(call.inputs[x].like(shape=(rows, 4 * d)), call.outputs[5]), [da], [5])
    return work.kernel()


@in_float32
def gru(call: Call) -> Kernel:
    x, h, w_ih, w_hh, b_ih, b_hh = range(6)
    work = Work(call)
    (t, n, i), d, dtype = call.inputs[x].shape, call.inputs[h].shape[1], code(call.inputs[x].dtype)
    a = work.add(native.product(dtype, (t * n, i), (i, 3 * d), bias=True), [x, w_ih, b_ih], (t, n, 3 * d))
    work.finish(native.gru(dtype, t, n, d, **call.attrs), [a, h, w_hh, b_hh], [0])
    return work.kernel()


@in_float32
def gru_grad(call: Call) -> Kernel:
    g, y, x, h, w_ih, w_hh, b_ih, b_hh = range(8)
    work, reverse = Work(call), call.attrs["reverse"]
    (t, n, i), d, dtype = call.inputs[x].shape, call.inputs[h].shape[1], call.inputs[x].dtype
    wide, rows = code(dtype), t * n
    states = work.before(y, h, (t, n, d), reverse)
    a = work.add(native.product(wide, (rows, i), (i, 3 * d), bias=True), [x, w_ih, b_ih], (t, n, 3 * d))
    b = work.add(native.product(wide, (rows, d), (d, 3 * d), bias=True), [states, w_hh, b_hh], (t, n, 3 * d))
    turned = work.add(programs.of_copy(dtype, (3 * d, d), (1, 3 * d)), [w_hh], (3 * d, d))
    da, db = work.space((t, n, 3 * d)), work.space((t, n, 3 * d))
    work.finish(native.gru_grad(wide, t, n, d, reverse), [g, states, a, b, turned], [da, db, 1])
    work.finish(native.product(wide, (rows, 3 * d), (i, 3 * d), transpose_b=True), [da, w_ih], [0])
    work.finish(native.product(wide, (rows, i), (rows, 3 * d), transpose_a=True), [x, da], [2])
    work.finish(native.product(wide, (rows, d), (rows, 3 * d), transpose_a=True), [states, db], [3])
    by_bias = _sum_of_rows(call.inputs[x].like(shape=(rows, 3 * d)), call.outputs[4])
    work.finish(by_bias, [da], [4])
    work.finish(by_bias, [db], [5])
    return work.kernel()


def _sum_of_rows(x: Spec, y: Spec) -> Kernel:
    return programs.of_op("sum")(Call((x,), (y,), {"axes": (0,)}))
