// Cross entropy, row by row.
#pragma once

#include "rows.cuh"

// The class that a label names; one that names none is noted, and stands for the first.
template <class Index, class L>
__device__ inline Index class_of(L label, Index n, Failure failure) {
  const int64 at = int64(label);
  if (at < -int64(n) || at >= int64(n)) {
    failure.note();
    return 0;
  }
  return Index(at < 0 ? at + n : at);
}

template <class Index, class T, class L, int LANES, int W, int HELD, class Y>
__device__ inline void cross_entropy(const T* x, const L* labels, Y* losses, Index rows, Index n, Failure failure) {
  using A = wide<T>;
  const Index row = Index(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row >= rows) return;
  Rows<Index, T, LANES, W, HELD, 1> r{{x + row * n}, n};
  const A named = load(r.x[0] + class_of(labels[row], n, failure));
  A top, total;
  r.begin();
  exponentials(r, &top, &total);
  if (threadIdx.x == 0) store(losses + row, do_log(total) - (named - top));
}

enum class Gradient { OfRow, OfSum, OfMean };

// dx may lie where x does. So what is named is passed on to other lanes, that it has been read before any of them writes.
template <class Index, class T, class L, int LANES, int W, int HELD, class Y>
__device__ inline void cross_entropy_grad(const T* g, const T* x, const L* labels, T* dx, Y* losses, Index rows, Index n,
                                          bool with_loss, Gradient gradient, Failure failure) {
  using A = wide<T>;
  const Index row = Index(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row >= rows) return;
  Rows<Index, T, LANES, W, HELD, 1> r{{x + row * n}, n};
  const Index at = class_of(labels[row], n, failure);
  const A named = __shfl_sync(0xffffffffu, load(r.x[0] + at), 0);
  A top, total, by_row = load(g + (gradient == Gradient::OfRow ? row : Index(0)));
  if (gradient == Gradient::OfMean) by_row /= A(rows);
  r.begin();
  exponentials(r, &top, &total);
  const A scale = 1 / total;
  r.write(dx + row * n, [&](Index i, auto& v, int) {
    for (int k = 0; k < W; ++k) {
      const A share = (r.kHeld ? v[0][k] : do_exp(v[0][k] - top)) * scale;
      v[0][k] = (i + k == at ? share - 1 : share) * by_row;
    }
  });
  if (with_loss && threadIdx.x == 0) store(losses + row, do_log(total) - (named - top));
}
