// Gathering, scattering, sorting.
#pragma once

#include "scan.cuh"

// The place in 0 ... size - 1 that an index names; one that names none is noted, and stands for the first.
template <class I>
__device__ inline int64 place_of(I index, int64 size, Failure failure) {
  const int64 place = int64(index);
  if (place < -size || place >= size) {
    failure.note();
    return 0;
  }
  return place < 0 ? place + size : place;
}

// y (outer, count, inner) of x (outer, size, inner), both in units of up to 16 bytes.
template <class Index, class Unit, class I>
__device__ inline void take(const Unit* x, const I* indices, Unit* y, Index outer, Index size, Index inner, Index count,
                            Failure failure) {
  const Index i = Index(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= outer * count * inner) return;
  const Index row = i / inner;
  y[i] = x[(row / count * size + Index(place_of(indices[row % count], size, failure))) * inner + i % inner];
}

// -- scattering --------------------------------------------------------------------------------------------------------------

// A block has a tile of y (outer, size, inner) of kRows by COLUMNS elements, and goes through a chunk of the indices in order.
// It lists those that name its rows, and each thread adds up what belongs to rows and a column of its own: no sum depends on
// which thread is first. If there are several chunks, y has a part for each, which another kernel combines.
constexpr int kTile = 2048, kListed = 1024;
constexpr int kFlight = 4;  // so many updates are loaded before the first is added

template <class Index, class T, class I, int COLUMNS, bool FROM_ZERO, class Y>
__device__ inline void scatter_add(const T* x, const I* indices, const T* updates, Y* y, Index outer, Index size, Index inner,
                                   Index count, Index chunk, Failure failure) {
  using A = wide<T>;
  constexpr int kRows = kTile / COLUMNS, kLanes = 256 / COLUMNS, kEach = kListed / 256;
  __shared__ A sums[kTile];
  __shared__ int rows[kListed], places[kListed];
  const Index across = (inner + COLUMNS - 1) / COLUMNS, down = (size + kRows - 1) / kRows;
  const Index tile = Index(blockIdx.x) / across, o = tile / down, top = tile % down * kRows;
  const int column = int(threadIdx.x) % COLUMNS, lane = int(threadIdx.x) / COLUMNS;
  const Index at = Index(blockIdx.x) % across * COLUMNS + column;
  const Index begin = Index(blockIdx.y) * chunk, stop = begin + chunk < count ? begin + chunk : count;
  for (int r = lane; r < kRows; r += kLanes) {
    A start = 0;
    if constexpr (!FROM_ZERO) {
      if (at < inner && top + r < size && blockIdx.y == 0) start = load(x + (o * size + top + r) * inner + at);
    }
    sums[r * COLUMNS + column] = start;
  }
  for (Index first = begin; first < stop; first += kListed) {
    int mine[kEach], found = 0, listed = 0;
#pragma unroll
    for (int k = 0; k < kEach; ++k) {
      const Index i = first + Index(threadIdx.x) * kEach + k;
      const int64 row = i < stop ? place_of(indices[i], size, failure) - int64(top) : -1;
      mine[k] = row >= 0 && row < kRows ? int(row) : -1;
      found += mine[k] >= 0;
    }
    int next = sum_before(found, &listed);  // waits until the list before has been read
#pragma unroll
    for (int k = 0; k < kEach; ++k) {
      if (mine[k] < 0) continue;
      rows[next] = mine[k];
      places[next++] = int(threadIdx.x) * kEach + k;
    }
    __syncthreads();
    if (at < inner) {
      const T* from = updates + (o * count + first) * inner + at;
      for (int m = 0; m < listed; m += kFlight) {
        A values[kFlight] = {};
        bool mine[kFlight];
#pragma unroll
        for (int q = 0; q < kFlight; ++q) {
          mine[q] = m + q < listed && rows[m + q] % kLanes == lane;
          if (mine[q]) values[q] = load(from + places[m + q] * inner);
        }
#pragma unroll
        for (int q = 0; q < kFlight; ++q) {
          if (!mine[q]) continue;
          A& sum = sums[rows[m + q] * COLUMNS + column];
          sum = do_add(sum, values[q]);
        }
      }
    }
  }
  y += Index(blockIdx.y) * outer * size * inner;
  for (int r = lane; r < kRows; r += kLanes) {
    if (at < inner && top + r < size) store(y + (o * size + top + r) * inner + at, sums[r * COLUMNS + column]);
  }
}

template <class Index, class I>
__device__ inline void name_places(const I* indices, int64* places, Index size, Index count, Failure failure) {
  const Index i = Index(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) places[i] = place_of(indices[i], size, failure);
}

// -- sorting -----------------------------------------------------------------------------------------------------------------

template <bool DESCENDING, class A>
__device__ inline bool goes_before(A a, A b) {
  const A low = DESCENDING ? b : a, high = DESCENDING ? a : b;
  return low < high || (high != high && low == low);  // nan is the greatest
}

// Runs of `width` places in order become runs of twice that: each place goes behind what comes before it in both. What runs of
// one place would name is not read.
template <class Index, class T, bool DESCENDING>
__device__ inline void argsort_merge(const T* x, const int64* from, int64* y, Index lines, Index size, Index inner,
                                     Index width) {
  const Index place = Index(blockIdx.x) * blockDim.x + threadIdx.x;
  if (place >= lines * size) return;
  const Index start = place / (size * inner) * size * inner + place % inner, i = place / inner % size;
  const auto named = [&](Index k) { return width == 1 ? k : Index(from[start + k * inner]); };
  const auto key = [&](Index k) { return load(x + start + named(k) * inner); };
  const Index pair = i - i % (2 * width), middle = size - pair < width ? size : pair + width;
  const Index end = size - middle < width ? size : middle + width;
  const bool right = i >= middle;
  const Index first = right ? pair : middle;
  const auto mine = key(i);
  Index low = first, high = right ? middle : end;
  while (low < high) {
    const Index half = low + (high - low) / 2;
    const bool before = right ? !goes_before<DESCENDING>(mine, key(half)) : goes_before<DESCENDING>(key(half), mine);
    low = before ? half + 1 : low;
    high = before ? high : half;
  }
  y[start + (i - (right ? width : 0) + low - first) * inner] = named(i);
}
