// Running sums.
#pragma once

#include "scan.cuh"

// Of x (outer, size, inner) along the axis in the middle: the threads with one threadIdx.y have a line.
template <class Index, class T>
__device__ inline void cumsum(const T* x, T* y, Index lines, Index size, Index inner) {
  const Index line = Index(blockIdx.x) * blockDim.y + threadIdx.y;
  if (line >= lines) return;
  const Index start = line / inner * size * inner + line % inner;
  wide<T> before = 0, total;
  for (Index first = 0; first < size; first += blockDim.x) {
    const Index i = first + threadIdx.x, place = start + i * inner;
    const wide<T> value = i < size ? load(x + place) : wide<T>(0);
    const wide<T> sum = before + (sum_before(value, &total) + value);
    if (i < size) store(y + place, sum);
    before += total;
  }
}
