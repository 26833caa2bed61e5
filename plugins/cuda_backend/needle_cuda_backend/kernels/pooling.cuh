// Pooling of images with channels last: a thread has W channels of a place.
#pragma once

#include "packs.cuh"
#include "windows.cuh"

// The greatest elements of a window, nan if one is nan, and with `counts` how many are equal to it.
template <class Index, class T, int W, class V>
__device__ inline void greatest(const T* x, const V& windows, Index place, Index c, wide<T>* top, wide<T>* counts) {
  for (int k = 0; k < W; ++k) top[k] = -INFINITE;
  windows.each_inside(place, [&](Index, Index at) {
    wide<T> v[W];
    load_wide(x + at * c, v);
    for (int k = 0; k < W; ++k) top[k] = do_maximum(top[k], v[k]);
  });
  if (!counts) return;
  for (int k = 0; k < W; ++k) counts[k] = 0;
  windows.each_inside(place, [&](Index, Index at) {
    wide<T> v[W];
    load_wide(x + at * c, v);
    for (int k = 0; k < W; ++k) counts[k] += v[k] == top[k] ? 1 : 0;
  });
}

template <class Index, class T, int W, class V>
__device__ inline void max_pool(const T* x, T* y, Index n, Index c, V windows) {
  const Index i = (Index(blockIdx.x) * blockDim.x + threadIdx.x) * W, places = windows.places();
  if (i >= n * places * c) return;
  const Index row = i / c;
  wide<T> top[W];
  greatest<Index, T, W>(x + row / places * windows.image() * c + i % c, windows, row % places, c, top, nullptr);
  store_wide(y + i, top);
}

// What each window hands to each of its greatest elements, `shares`, and these, `tops`.
template <class Index, class T, int W, class V>
__device__ inline void max_pool_shares(const T* g, const T* x, T* tops, wide<T>* shares, Index n, Index c, V windows) {
  const Index i = (Index(blockIdx.x) * blockDim.x + threadIdx.x) * W, places = windows.places();
  if (i >= n * places * c) return;
  const Index row = i / c;
  wide<T> top[W], counts[W], share[W];
  greatest<Index, T, W>(x + row / places * windows.image() * c + i % c, windows, row % places, c, top, counts);
  load_wide(g + i, share);
  for (int k = 0; k < W; ++k) share[k] /= counts[k];
  store_wide(shares + i, share);
  store_wide(tops + i, top);
}

// Each place of the image adds up what the windows hand to it; a window with nan has no greatest element, and gives nan to all.
template <class Index, class T, int W, class V>
__device__ inline void max_pool_grad(const T* x, const T* tops, const wide<T>* shares, T* dx, Index n, Index c, V windows) {
  const Index i = (Index(blockIdx.x) * blockDim.x + threadIdx.x) * W, image = windows.image();
  if (i >= n * image * c) return;
  const Index row = i / c, first = row / image * windows.places();
  wide<T> mine[W], sum[W] = {};
  load_wide(x + i, mine);
  windows.each_window(row % image, [&](Index, Index place) {
    const Index at = (first + place) * c + i % c;
    wide<T> top[W], share[W];
    load_wide(tops + at, top);
    load_wide(shares + at, share);
    for (int k = 0; k < W; ++k) sum[k] += share[k] * (mine[k] == top[k] ? 1 : 0);
  });
  store_wide(dx + i, sum);
}

// The same where windows do not meet, so that a place has one at most, and nothing is kept of it.
template <class Index, class T, int W, class V>
__device__ inline void max_pool_grad_apart(const T* g, const T* x, T* dx, Index n, Index c, V windows) {
  const Index i = (Index(blockIdx.x) * blockDim.x + threadIdx.x) * W, image = windows.image();
  if (i >= n * image * c) return;
  const Index row = i / c, sample = row / image;
  wide<T> mine[W], sum[W] = {};
  load_wide(x + i, mine);
  windows.each_window(row % image, [&](Index, Index place) {
    wide<T> top[W], counts[W], share[W];
    greatest<Index, T, W>(x + sample * image * c + i % c, windows, place, c, top, counts);
    load_wide(g + (sample * windows.places() + place) * c + i % c, share);
    for (int k = 0; k < W; ++k) sum[k] += share[k] / counts[k] * (mine[k] == top[k] ? 1 : 0);
  });
  store_wide(dx + i, sum);
}

template <class Index, class T, int W, class V>
__device__ inline void avg_pool(const T* x, T* y, Index n, Index c, V windows, bool count_padding) {
  const Index i = (Index(blockIdx.x) * blockDim.x + threadIdx.x) * W, places = windows.places();
  if (i >= n * places * c) return;
  const Index row = i / c;
  wide<T> sum[W] = {};
  windows.each_inside(row % places, [&](Index, Index at) {
    wide<T> v[W];
    load_wide(x + (row / places * windows.image() + at) * c + i % c, v);
    for (int k = 0; k < W; ++k) sum[k] += v[k];
  });
  const wide<T> count = wide<T>(count_padding ? windows.elements() : windows.count_inside(row % places));
  for (int k = 0; k < W; ++k) sum[k] /= count;
  store_wide(y + i, sum);
}

template <class Index, class T, int W, class V>
__device__ inline void avg_pool_grad(const T* g, T* dx, Index n, Index c, V windows, bool count_padding) {
  const Index i = (Index(blockIdx.x) * blockDim.x + threadIdx.x) * W, image = windows.image();
  if (i >= n * image * c) return;
  const Index row = i / c;
  wide<T> sum[W] = {};
  windows.each_window(row % image, [&](Index, Index place) {
    wide<T> v[W];
    load_wide(g + (row / image * windows.places() + place) * c + i % c, v);
    const wide<T> count = wide<T>(count_padding ? windows.elements() : windows.count_inside(place));
    for (int k = 0; k < W; ++k) sum[k] += v[k] / count;
  });
  store_wide(dx + i, sum);
}
