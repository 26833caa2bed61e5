// Convolution by its definition, with a thread for each element of the result: for what no library takes.
#pragma once

#include "windows.cuh"

// y (n, *t, o) of x (n, *s, c) and weight (o, *k, each), where each = c / groups.
template <class Index, class T, class V>
__device__ inline void direct_conv(const T* x, const T* weight, T* y, Index n, Index c, Index o, Index groups, V windows) {
  const Index i = Index(blockIdx.x) * blockDim.x + threadIdx.x, places = windows.places(), each = c / groups;
  if (i >= n * places * o) return;
  const Index row = i / o, channel = i % o;
  const T* from = x + row / places * windows.image() * c + channel / (o / groups) * each;
  const T* kernel = weight + channel * windows.elements() * each;
  wide<T> sum = 0;
  windows.each_inside(row % places, [&](Index element, Index at) {
    const T *u = from + at * c, *v = kernel + element * each;
    for (Index j = 0; j < each; ++j) sum += load(u + j) * load(v + j);
  });
  store(y + i, sum);
}

// x (n, *s, c) of y (n, *t, o): what each of its elements took part in.
template <class Index, class T, class V>
__device__ inline void direct_conv_transpose(const T* y, const T* weight, T* x, Index n, Index c, Index o, Index groups,
                                             V windows) {
  const Index i = Index(blockIdx.x) * blockDim.x + threadIdx.x, image = windows.image(), each = c / groups, made = o / groups;
  if (i >= n * image * c) return;
  const Index row = i / c, group = i % c / each, step = windows.elements() * each;
  const T* from = y + row / image * windows.places() * o + group * made;
  const T* kernel = weight + group * made * step + i % each;
  wide<T> sum = 0;
  windows.each_window(row % image, [&](Index element, Index place) {
    const T *u = from + place * o, *v = kernel + element * each;
    for (Index j = 0; j < made; ++j) sum += load(u + j) * load(v + j * step);
  });
  store(x + i, sum);
}

// What a chunk of all places adds to the gradient for weight: `parts` (chunks, o, *k, each).
template <class Index, class T, class V>
__device__ inline void direct_conv_weight_grad(const T* g, const T* x, wide<T>* parts, Index n, Index chunk, Index c, Index o,
                                               Index groups, V windows) {
  const Index i = Index(blockIdx.x) * blockDim.x + threadIdx.x, elements = windows.elements(), each = c / groups;
  const Index count = o * elements * each;
  if (i >= count) return;
  const Index channel = i / each / elements, from = channel / (o / groups) * each + i % each, places = windows.places();
  const Index first = Index(blockIdx.y) * chunk, last = n * places, stop = first + chunk < last ? first + chunk : last;
  wide<T> sum = 0;
  for (Index row = first; row < stop; ++row) {
    const Index at = windows.place_of(row % places, i / each % elements);
    if (at >= 0) sum += load(g + row * o + channel) * load(x + (row / places * windows.image() + at) * c + from);
  }
  parts[Index(blockIdx.y) * count + i] = sum;
}
