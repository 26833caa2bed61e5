// Rows that the threads with one threadIdx.y go through together, in packs.
#pragma once

#include "packs.cuh"

// M rows of n elements, one of each of M arrays. Thread i has the packs i, i + LANES, ... of W elements. If these are HELD in
// number at most, their values stay in registers; if HELD is 0, they are read again each time that they are wanted.
template <class Index, class T, int LANES, int W, int HELD, int M>
struct Rows {
  using A = wide<T>;
  static constexpr bool kHeld = HELD > 0;

  const T* x[M];
  Index n;
  A values[kHeld ? HELD : 1][M][W];

  __device__ inline void read(Index i, A (&v)[M][W]) const {
#pragma unroll
    for (int m = 0; m < M; ++m) load_wide(x[m] + i, v[m]);
  }

  // To be called once, before all else.
  __device__ inline void begin() {
    if constexpr (kHeld) {
#pragma unroll
      for (int p = 0; p < HELD; ++p) {
        const Index i = (Index(threadIdx.x) + p * LANES) * W;
        if (i < n) read(i, values[p]);
      }
    }
  }

  // Calls f(i, v, p) for the packs of this thread: v[m][k] is element i + k of row m, p counts the packs. What f changes in v
  // stays so where values are held.
  template <class F>
  __device__ inline void each(F f) {
    if constexpr (kHeld) {
#pragma unroll
      for (int p = 0; p < HELD; ++p) {
        const Index i = (Index(threadIdx.x) + p * LANES) * W;
        if (i < n) f(i, values[p], p);
      }
    } else {
      for (Index i = Index(threadIdx.x) * W; i < n; i += LANES * W) {
        A v[M][W];
        read(i, v);
        f(i, v, 0);
      }
    }
  }

  // Writes what f makes of v[0].
  template <class F>
  __device__ inline void write(T* y, F f) {
    each([&](Index i, A(&v)[M][W], int p) {
      f(i, v, p);
      store_wide(y + i, v[0]);
    });
  }
};

// The greatest element of a row, and the sum of exp(x - top), which take the elements' places if values are held.
template <class R, class A>
__device__ inline void exponentials(R& row, A* top, A* total) {
  *top = Least<A>::value(), *total = 0;
  row.each([&](auto, auto& v, int) {
    for (const A& x : v[0]) *top = do_maximum(*top, x);
  });
  *top = over_lanes<Max>(*top);
  row.each([&](auto, auto& v, int) {
    for (A& x : v[0]) *total += x = do_exp(x - *top);
  });
  *total = over_lanes<Sum>(*total);
}
