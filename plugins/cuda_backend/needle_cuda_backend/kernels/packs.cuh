// W neighbouring elements as they are computed.
#pragma once

#include "prelude.cuh"

template <int W, class T>
__device__ inline void load_wide(const T* x, wide<T> (&values)[W]) {
  const auto pack = load_pack<W>(x);
  for (int k = 0; k < W; ++k) values[k] = load(pack.at + k);
}

template <int W, class T>
__device__ inline void store_wide(T* y, const wide<T> (&values)[W]) {
  Pack<T, W> pack;
  for (int k = 0; k < W; ++k) store(pack.at + k, values[k]);
  store_pack(y, pack);
}
