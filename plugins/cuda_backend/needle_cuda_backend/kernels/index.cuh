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

// y of the parts of all chunks.
template <class Index, class T, class A>
__device__ inline void combine(const A* parts, T* y, Index n, Index chunks) {
  const Index i = Index(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  A sum = parts[i];
  for (Index k = 1; k < chunks; ++k) sum = do_add(sum, parts[k * n + i]);
  store(y + i, sum);
}

// The same in another way, for large tables: the places that indices name are sorted, and `starts` says where those of each row
// of y begin in their order; -1 where none does.
template <class Index, class I>
__device__ inline void name_places(const I* indices, int64* places, Index size, Index count, Failure failure) {
  const Index i = Index(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) places[i] = place_of(indices[i], size, failure);
}

template <class Index>
__device__ inline void find_starts(const int64* places, const int64* order, Index* starts, Index count) {
  const Index i = Index(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const int64 place = places[order[i]];
  if (i == 0 || places[order[i - 1]] != place) starts[place] = i;
}

template <class Index, class T, bool FROM_ZERO>
__device__ inline void scatter_sorted(const T* x, const int64* places, const int64* order, const Index* starts,
                                      const T* updates, T* y, Index outer, Index size, Index inner, Index count) {
  using A = wide<T>;
  constexpr int kAhead = 8;
  const Index at = Index(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= outer * size * inner) return;
  const Index row = at / inner % size, start = starts[row];
  A sum = FROM_ZERO ? A(0) : load(x + at);
  const T* from = updates + at / inner / size * count * inner + at % inner;
  bool more = start >= 0;
  for (Index i = start; more; i += kAhead) {
    A values[kAhead] = {};
    bool mine[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const Index place = i + k < count ? Index(order[i + k]) : 0;
      mine[k] = i + k < count && places[place] == row;
      if (mine[k]) values[k] = load(from + place * inner);
    }
#pragma unroll
    for (int k = 0; k < kAhead; ++k) sum = mine[k] ? do_add(sum, values[k]) : sum;
    more = mine[kAhead - 1];
  }
  store(y + at, sum);
}

// -- sorting -----------------------------------------------------------------------------------------------------------------

template <class A>
__device__ inline bool goes_before(A a, A b, bool descending) {
  const A low = descending ? b : a, high = descending ? a : b;
  return low < high || (high != high && low == low);  // nan is the greatest
}

// How many of `n` keys in order go before `x`, or are equal to it and `or_equal`.
template <class A, class Key>
__device__ inline int64 count_before(A x, Key key, int64 n, bool or_equal, bool descending) {
  int64 low = 0;
  while (n > 0) {
    const int64 half = n / 2;
    const A other = key(low + half);
    const bool before = or_equal ? !goes_before(x, other, descending) : goes_before(other, x, descending);
    low = before ? low + half + 1 : low;
    n = before ? n - half - 1 : half;
  }
  return low;
}

// Where the element at `i` goes, with key `x`, when runs of `width` elements in order become runs of twice that.
template <class A, class Key>
__device__ inline int64 merged_place(A x, Key key, int64 i, int64 width, int64 n, bool descending) {
  const int64 pair = i / (2 * width) * (2 * width), middle = pair + width < n ? pair + width : n;
  const int64 end = middle + width < n ? middle + width : n;
  const bool right = i >= middle;
  const int64 other = right ? pair : middle, length = right ? middle - pair : end - middle;
  return i - (right ? width : 0) + count_before(x, [&](int64 k) { return key(other + k); }, length, right, descending);
}

constexpr int kSorted = 1024;

// The places of kSorted elements of a line of x (outer, size, inner) in their order, line by line.
template <class Index, class T>
__device__ inline void argsort_tile(const T* x, int64* y, Index lines, Index size, Index inner, bool descending) {
  __shared__ wide<T> keys[kSorted];
  __shared__ short order[2][kSorted];
  const Index tiles = (size + kSorted - 1) / kSorted, line = Index(blockIdx.x) / tiles;
  const Index first = Index(blockIdx.x) % tiles * kSorted, start = line / inner * size * inner + line % inner;
  const int n = size - first < kSorted ? int(size - first) : kSorted;
  for (int i = int(threadIdx.x); i < n; i += int(blockDim.x)) {
    keys[i] = load(x + start + (first + i) * inner);
    order[0][i] = short(i);
  }
  int now = 0;
  for (int width = 1; width < n; width *= 2, now = 1 - now) {
    __syncthreads();
    const short* from = order[now];
    for (int i = int(threadIdx.x); i < n; i += int(blockDim.x)) {
      const auto key = [&](int64 k) { return keys[from[k]]; };
      order[1 - now][merged_place(keys[from[i]], key, i, width, n, descending)] = from[i];
    }
  }
  __syncthreads();
  for (int i = int(threadIdx.x); i < n; i += int(blockDim.x)) y[start + (first + i) * inner] = int64(first) + order[now][i];
}

// Runs of `width` places in order become runs of twice that.
template <class Index, class T>
__device__ inline void argsort_merge(const T* x, int64* from, int64* y, Index lines, Index size, Index inner, Index width,
                                     bool descending) {
  const Index place = Index(blockIdx.x) * blockDim.x + threadIdx.x;
  if (place >= lines * size) return;
  const Index start = place / (size * inner) * size * inner + place % inner, i = place / inner % size;
  const auto key = [&](int64 k) { return load(x + start + Index(from[start + Index(k) * inner]) * inner); };
  y[start + Index(merged_place(key(i), key, i, width, size, descending)) * inner] = from[place];
}
