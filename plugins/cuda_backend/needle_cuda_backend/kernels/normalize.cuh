// Softmax and layer norm, row by row.
#pragma once

#include "rows.cuh"

template <class Index, class T, int LANES, int W, int HELD>
__device__ inline void softmax(const T* x, T* y, Index rows, Index n) {
  using A = wide<T>;
  const Index row = Index(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row >= rows) return;
  Rows<Index, T, LANES, W, HELD, 1> r{{x + row * n}, n};
  A top, total;
  r.begin();
  exponentials(r, &top, &total);
  const A scale = 1 / total;
  r.write(y + row * n, [&](Index, auto& v, int) {
    for (A& x : v[0]) x = (r.kHeld ? x : do_exp(x - top)) * scale;
  });
}

template <class Index, class T, int LANES, int W, int HELD>
__device__ inline void log_softmax(const T* x, T* y, Index rows, Index n) {
  using A = wide<T>;
  const Index row = Index(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row >= rows) return;
  Rows<Index, T, LANES, W, HELD, 1> r{{x + row * n}, n};
  A top = Least<A>::value(), total = 0;
  r.begin();
  r.each([&](Index, auto& v, int) {
    for (const A& x : v[0]) top = do_maximum(top, x);
  });
  top = over_lanes<Max>(top);
  r.each([&](Index, auto& v, int) {
    for (const A& x : v[0]) total += do_exp(x - top);
  });
  const A low = do_log(over_lanes<Sum>(total));
  r.write(y + row * n, [&](Index, auto& v, int) {
    for (A& x : v[0]) x = (x - top) - low;
  });
}

template <class Index, class T, int LANES, int W, int HELD>
__device__ inline void softmax_grad(const T* g, const T* y, T* dx, Index rows, Index n) {
  const Index row = Index(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row >= rows) return;
  Rows<Index, T, LANES, W, HELD, 2> r{{g + row * n, y + row * n}, n};
  wide<T> total = 0;
  r.begin();
  r.each([&](Index, auto& v, int) {
    for (int k = 0; k < W; ++k) total += v[0][k] * v[1][k];
  });
  total = over_lanes<Sum>(total);
  r.write(dx + row * n, [&](Index, auto& v, int) {
    for (int k = 0; k < W; ++k) v[0][k] = v[1][k] * (v[0][k] - total);
  });
}

// -- layer norm --------------------------------------------------------------------------------------------------------------

// Mean and 1 / deviation of row M.
template <int M, class R, class A>
__device__ inline void moments(R& row, A n, A eps, A* mean, A* scale) {
  A sum = 0, squares = 0;
  row.each([&](auto, auto& v, int) {
    for (const A& x : v[M]) sum += x;
  });
  const A middle = over_lanes<Sum>(sum) / n;
  row.each([&](auto, auto& v, int) {
    for (const A& x : v[M]) squares += (x - middle) * (x - middle);
  });
  *mean = middle, *scale = 1 / do_sqrt(over_lanes<Sum>(squares) / n + eps);
}

template <class Index, class T, int LANES, int W, int HELD>
__device__ inline void layer_norm(const T* x, const T* weight, const T* bias, T* y, Index rows, Index n, double eps) {
  using A = wide<T>;
  const Index row = Index(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row >= rows) return;
  Rows<Index, T, LANES, W, HELD, 1> r{{x + row * n}, n};
  A mean, scale;
  r.begin();
  moments<0>(r, A(n), A(eps), &mean, &scale);
  r.write(y + row * n, [&](Index i, auto& v, int) {
    A w[W], b[W];
    load_wide(weight + i, w);
    load_wide(bias + i, b);
    for (int k = 0; k < W; ++k) v[0][k] = (v[0][k] - mean) * scale * w[k] + b[k];
  });
}

// Adds up values of the threads with one threadIdx.x in blocks of 32 by 8, for the first of them.
template <bool ARE_WARPS, class A, int W>
__device__ inline void over_warps(A (&values)[W]) {
  if constexpr (ARE_WARPS) {
    for (A& x : values) x = over_strips<Sum>(x);
  }
}

// A block's 8 warps, or the whole of it, go through rows that are `groups` apart. As a thread always has the same columns, it
// adds up what weight and bias get there. If registers hold rows, they hold these sums too, and `sums` has (2, n) for each
// block; else they are added up there, where each group has (2, n).
template <class Index, class T, int LANES, int W, int HELD>
__device__ inline void layer_norm_grad(const T* g, const T* x, const T* weight, T* dx, wide<T>* sums, Index rows, Index n,
                                       Index groups, double eps) {
  using A = wide<T>;
  const Index group = Index(blockIdx.x) * blockDim.y + threadIdx.y;
  if (group >= groups) return;
  constexpr bool kHeld = HELD > 0;
  A own[2][kHeld ? HELD : 1][W] = {};
  A *by_weight = sums + group * 2 * n, *by_bias = by_weight + n;
  if constexpr (!kHeld) {
    for (Index i = Index(threadIdx.x) * W; i < n; i += LANES * W) {
      for (int k = 0; k < W; ++k) by_weight[i + k] = by_bias[i + k] = 0;
    }
  }
  for (Index row = group; row < rows; row += groups) {
    Rows<Index, T, LANES, W, HELD, 2> r{{g + row * n, x + row * n}, n};
    A mean, scale, by_shift = 0, by_scale = 0;
    r.begin();
    moments<1>(r, A(n), A(eps), &mean, &scale);
    r.each([&](Index i, auto& v, int p) {
      A w[W];
      load_wide(weight + i, w);
      for (int k = 0; k < W; ++k) {
        const A h = (v[1][k] - mean) * scale, to_weight = v[0][k] * h;
        if constexpr (kHeld) {
          own[0][p][k] += to_weight, own[1][p][k] += v[0][k];
          v[0][k] *= w[k], v[1][k] = h;
        } else {
          by_weight[i + k] += to_weight, by_bias[i + k] += v[0][k];
        }
        by_shift += kHeld ? v[0][k] : v[0][k] * w[k];
        by_scale += to_weight * w[k];
      }
    });
    by_shift = over_lanes<Sum>(by_shift) / A(n), by_scale = over_lanes<Sum>(by_scale) / A(n);
    r.write(dx + row * n, [&](Index i, auto& v, int) {
      A w[W];
      if constexpr (!kHeld) load_wide(weight + i, w);
      for (int k = 0; k < W; ++k) {
        const A z = kHeld ? v[0][k] : v[0][k] * w[k], h = kHeld ? v[1][k] : (v[1][k] - mean) * scale;
        v[0][k] = (z - by_shift - h * by_scale) * scale;
      }
    });
  }
  if constexpr (kHeld) {
    by_weight = sums + Index(blockIdx.x) * 2 * n, by_bias = by_weight + n;
#pragma unroll
    for (int p = 0; p < HELD; ++p) {
      const Index i = (Index(threadIdx.x) + p * LANES) * W;
      for (int m = 0; m < 2; ++m) over_warps<LANES == 32>(own[m][p]);
      if (i >= n || threadIdx.y) continue;
      store_wide(by_weight + i, own[0][p]);
      store_wide(by_bias + i, own[1][p]);
    }
  }
}
