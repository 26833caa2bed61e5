// One step of recurrent networks, between the products: a thread has a unit of a sample.
#pragma once

#include "prelude.cuh"

template <class A>
__device__ inline A sigmoid(A x) {
  return 1 / (1 + do_exp(-x));
}

// Where a thread's unit is in n by d states, and where its first of `gates` blocks of d is in n rows of them.
template <class Index>
struct Unit {
  Index at, gate, d;
  bool inside;

  __device__ inline Unit(Index n, Index d, int gates) : at(Index(blockIdx.x) * blockDim.x + threadIdx.x), d(d) {
    inside = at < n * d;
    gate = at / d * gates * d + at % d;
  }
};

// -- long short-term memory --------------------------------------------------------------------------------------------------

template <class A>
struct LstmGates {
  A in, forget, cell, out;
};

// Of the products with x, and bias, `a`, and with h, `b`.
template <class Index, class T>
__device__ inline LstmGates<wide<T>> lstm_gates(const T* a, const T* b, const Unit<Index>& unit) {
  const auto sum = [&](int k) { return load(a + unit.gate + k * unit.d) + load(b + unit.gate + k * unit.d); };
  return {sigmoid(sum(0)), sigmoid(sum(1)), do_tanh(sum(2)), sigmoid(sum(3))};
}

template <class Index, class T>
__device__ inline void lstm_step(const T* a, const T* b, const T* before, T* y, T* c, Index n, Index d) {
  const Unit<Index> unit(n, d, 4);
  if (!unit.inside) return;
  const auto gates = lstm_gates(a, b, unit);
  const wide<T> now = gates.forget * load(before + unit.at) + gates.in * gates.cell;
  store(c + unit.at, now);
  store(y + unit.at, gates.out * do_tanh(now));
}

// The gradients of the gates take the place of `a`. What comes from the step behind, dh and dc, is nothing for the last one.
template <class Index, class T, bool LAST>
__device__ inline void lstm_step_grad(const T* gy, const T* gc, const T* c, const T* before, const T* b, const T* dh, T* a,
                                      T* dc, Index n, Index d) {
  using A = wide<T>;
  const Unit<Index> unit(n, d, 4);
  if (!unit.inside) return;
  const auto gates = lstm_gates(a, b, unit);
  const A now = do_tanh(load(c + unit.at));
  A by_h = load(gy + unit.at), by_c = load(gc + unit.at);
  if constexpr (!LAST) by_h += load(dh + unit.at), by_c += load(dc + unit.at);
  by_c += by_h * (gates.out * (1 - now * now));
  a += unit.gate;
  store(a, by_c * (gates.cell * gates.in * (1 - gates.in)));
  store(a + d, by_c * (load(before + unit.at) * gates.forget * (1 - gates.forget)));
  store(a + 2 * d, by_c * (gates.in * (1 - gates.cell * gates.cell)));
  store(a + 3 * d, by_h * (now * gates.out * (1 - gates.out)));
  store(dc + unit.at, by_c * gates.forget);
}

// -- the gated recurrent unit ------------------------------------------------------------------------------------------------

template <class A>
struct GruGates {
  A reset, keep, fresh, by_h;  // the last one is the part of h in the new state, which the reset gate scales
};

template <class Index, class T>
__device__ inline GruGates<wide<T>> gru_gates(const T* a, const T* b, const Unit<Index>& unit) {
  const auto of_a = [&](int k) { return load(a + unit.gate + k * unit.d); };
  const auto of_b = [&](int k) { return load(b + unit.gate + k * unit.d); };
  const wide<T> reset = sigmoid(of_a(0) + of_b(0)), by_h = of_b(2);
  return {reset, sigmoid(of_a(1) + of_b(1)), do_tanh(of_a(2) + reset * by_h), by_h};
}

template <class Index, class T>
__device__ inline void gru_step(const T* a, const T* b, const T* before, T* y, Index n, Index d) {
  const Unit<Index> unit(n, d, 3);
  if (!unit.inside) return;
  const auto gates = gru_gates(a, b, unit);
  store(y + unit.at, gates.fresh + gates.keep * (load(before + unit.at) - gates.fresh));
}

// The gradients take the places of `a` and `b`. What h gets from the step behind is the sum of two: of what that step kept of
// it, which is replaced, and of what came through the product.
template <class Index, class T, bool LAST>
__device__ inline void gru_step_grad(const T* g, const T* before, const T* product, T* kept, T* a, T* b, Index n, Index d) {
  using A = wide<T>;
  const Unit<Index> unit(n, d, 3);
  if (!unit.inside) return;
  const auto gates = gru_gates(a, b, unit);
  A by_h = load(g + unit.at);
  if constexpr (!LAST) by_h += load(kept + unit.at) + load(product + unit.at);
  const A by_fresh = by_h * (1 - gates.keep) * (1 - gates.fresh * gates.fresh);
  const A by_reset = by_fresh * gates.by_h * gates.reset * (1 - gates.reset);
  const A by_keep = by_h * (load(before + unit.at) - gates.fresh) * gates.keep * (1 - gates.keep);
  a += unit.gate, b += unit.gate;
  store(a, by_reset);
  store(b, by_reset);
  store(a + d, by_keep);
  store(b + d, by_keep);
  store(a + 2 * d, by_fresh);
  store(b + 2 * d, by_fresh * gates.reset);
  store(kept + unit.at, by_h * gates.keep);
}

// -- the plain network -------------------------------------------------------------------------------------------------------

template <class Index, class T, bool RELU>
__device__ inline void rnn_step(const T* a, const T* b, T* y, Index n, Index d) {
  const Unit<Index> unit(n, d, 1);
  if (!unit.inside) return;
  const wide<T> sum = load(a + unit.at) + load(b + unit.at);
  store(y + unit.at, RELU ? do_maximum(sum, wide<T>(0)) : do_tanh(sum));
}

template <class Index, class T, bool RELU, bool LAST>
__device__ inline void rnn_step_grad(const T* g, const T* y, const T* dh, T* da, Index n, Index d) {
  using A = wide<T>;
  const Unit<Index> unit(n, d, 1);
  if (!unit.inside) return;
  const A now = load(y + unit.at);
  A by_h = load(g + unit.at);
  if constexpr (!LAST) by_h += load(dh + unit.at);
  store(da + unit.at, by_h * (RELU ? A(now > 0 ? 1 : 0) : 1 - now * now));
}
