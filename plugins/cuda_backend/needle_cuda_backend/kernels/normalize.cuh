// Softmax and layer norm, row by row; mean and variance of columns.
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

// -- batch norm --------------------------------------------------------------------------------------------------------------

// So many numbers, their sum, and the sum of squares of their distances from the mean.
// Source: Chan, Golub & LeVeque 1983, doi:10.1080/00031305.1983.10483115
template <class A>
struct Moments {
  A count = 0, sum = 0, squares = 0;

  __device__ inline void add(const Moments& more) {
    if (more.count == 0) return;
    const A step = count == 0 ? A(0) : sum / count - more.sum / more.count;
    squares += more.squares + step * step * (count * (more.count / (count + more.count)));
    count += more.count, sum += more.sum;
  }
};

// Those of the threads with one threadIdx.x in blocks of LANES by 256 / LANES, for the first of them.
template <int LANES, class A>
__device__ inline void over_depth(Moments<A>& mine) {
  __shared__ A parts[3][256];
  const int at = int(threadIdx.y * LANES + threadIdx.x);
  __syncthreads();  // the parts before have been read
  parts[0][at] = mine.count, parts[1][at] = mine.sum, parts[2][at] = mine.squares;
  __syncthreads();
  if (threadIdx.y) return;
  for (int i = at + LANES; i < 256; i += LANES) mine.add({parts[0][i], parts[1][i], parts[2][i]});
}

// Of the columns of x (rows, c) in each chunk of rows, `parts` (chunks, 2, c): sums, and squares. x is read once: rows in
// groups, of which each finds its mean before its squares.
template <class Index, class T, int LANES, int W>
__device__ inline void batch_moments(const T* x, wide<T>* parts, Index rows, Index c, Index chunk) {
  using A = wide<T>;
  constexpr int kDepth = 256 / LANES, kGroup = W > 4 || sizeof(A) > 4 ? 4 : 8;
  const Index column = (Index(blockIdx.x) * LANES + threadIdx.x) * W, first = Index(blockIdx.y) * chunk;
  const Index stop = first + chunk < rows ? first + chunk : rows;
  Moments<A> mine[W];
  for (Index row = first + threadIdx.y; column < c && row < stop; row += kDepth * kGroup) {
    A v[kGroup][W];
    int found = 0;
#pragma unroll
    for (int g = 0; g < kGroup; ++g) {
      if (row + g * kDepth >= stop) continue;
      load_wide(x + (row + g * kDepth) * c + column, v[g]);
      found = g + 1;
    }
#pragma unroll
    for (int k = 0; k < W; ++k) {
      Moments<A> group;
      group.count = A(found);
#pragma unroll
      for (int g = 0; g < kGroup; ++g) group.sum += g < found ? v[g][k] : A(0);
      const A mean = group.sum / group.count;
#pragma unroll
      for (int g = 0; g < kGroup; ++g) group.squares += g < found ? (v[g][k] - mean) * (v[g][k] - mean) : A(0);
      mine[k].add(group);
    }
  }
  parts += Index(blockIdx.y) * 2 * c + column;
#pragma unroll
  for (int k = 0; k < W; ++k) {
    over_depth<LANES>(mine[k]);
    if (threadIdx.y == 0 && column < c) parts[k] = mine[k].sum, parts[c + k] = mine[k].squares;
  }
}

// Mean and variance from the chunks, which blocks of 32 by 8 add up.
template <class Index, class A>
__device__ inline void batch_statistics(const A* parts, A* mean, A* var, Index rows, Index c, Index chunk, Index chunks) {
  const Index column = Index(blockIdx.x) * 32 + threadIdx.x;
  Moments<A> mine;
  for (Index i = threadIdx.y; column < c && i < chunks; i += 8) {
    const Index left = rows - i * chunk;
    mine.add({A(left < chunk ? left : chunk), parts[i * 2 * c + column], parts[(i * 2 + 1) * c + column]});
  }
  over_depth<32>(mine);
  if (threadIdx.y || column >= c) return;
  mean[column] = mine.sum / mine.count;
  var[column] = mine.squares / mine.count;
}
