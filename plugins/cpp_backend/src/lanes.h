// Vector registers, and reductions of a row by one thread. In which order a row is added up depends on its length alone.
#pragma once

#include <algorithm>
#include <limits>
#include <type_traits>
#include <utility>

#include "types.h"

namespace needle {

#ifdef __AVX512F__
constexpr int kVectorBytes = 64;
#else
constexpr int kVectorBytes = 32;
#endif

template <class T>
constexpr int64_t kLanes = kVectorBytes / static_cast<int64_t>(sizeof(T));

template <class T>
struct Vector {
  using type [[gnu::vector_size(kVectorBytes), gnu::aligned(sizeof(T)), gnu::may_alias]] = T;
};

// The type of one element of a vector, or of a number itself.
template <class V>
struct ElementOf {
  using type = V;
};
template <class V>
  requires requires(V v) { v[0]; }
struct ElementOf<V> {
  using type = std::remove_cvref_t<decltype(std::declval<V>()[0])>;
};
template <class V>
using Element = typename ElementOf<V>::type;

// What lies at x: a vector or one element.
template <class V, class T>
V read(const T* x) {
  return *reinterpret_cast<const V*>(x);
}

// The first `count` elements at x, filled up with zeros; and as many of v at y.
template <class T>
typename Vector<T>::type read_some(const T* x, int64_t count) {
  using V = typename Vector<T>::type;
  if (count == kLanes<T>) return read<V>(x);
  V v{};
  std::memcpy(&v, x, count * sizeof(T));
  return v;
}
template <class V, class T>
void write_some(T* y, V v, int64_t count) {
  if (count == kLanes<T>)
    *reinterpret_cast<V*>(y) = v;
  else
    std::memcpy(y, &v, count * sizeof(T));
}

// Whether functions of vectors take the place of loops over functions of numbers: where an instruction does more than those.
#ifdef __AVX512F__
template <class T>
constexpr bool kByVectors = std::is_same_v<T, float>;
#else
template <class T>
constexpr bool kByVectors = false;
#endif

// All lanes of v joined by f, halves first.
template <class V, size_t... I, class F>
auto joined(V v, F f, std::index_sequence<I...>) {
  auto half = f(__builtin_shufflevector(v, v, I...), __builtin_shufflevector(v, v, (I + sizeof...(I))...));
  if constexpr (sizeof...(I) == 1) {
    return half[0];
  } else {
    return joined(half, f, std::make_index_sequence<sizeof...(I) / 2>());
  }
}

// f(i, v) for i < n, joined: of a vector of elements from i on if v is one, else of element i.
template <class T, class F, class Join>
T over_row(int64_t n, T identity, F f, Join join) {
  using V = typename Vector<T>::type;
  constexpr int64_t kStep = kLanes<T>;
  constexpr int kUnrolled = 4;
  V all[kUnrolled];
  for (V& each : all) each = V{} + identity;
  int64_t i = 0;
  for (; i + kUnrolled * kStep <= n; i += kUnrolled * kStep) {
    for (int u = 0; u < kUnrolled; ++u) all[u] = join(all[u], f(i + u * kStep, V{}));
  }
  for (; i + kStep <= n; i += kStep) all[0] = join(all[0], f(i, V{}));
  T rest = identity;
  for (; i < n; ++i) rest = join(rest, f(i, T{}));
  V whole = join(join(all[0], all[1]), join(all[2], all[3]));
  return join(joined(whole, join, std::make_index_sequence<kStep / 2>()), rest);
}

template <class T, class F>
T sum_over(int64_t n, F f) {
  return over_row<T>(n, T(0), f, [](auto a, auto b) { return a + b; });
}

template <class T>
T sum_of(const T* x, int64_t n) {
  return sum_over<T>(n, [=](int64_t i, auto v) { return read<decltype(v)>(x + i); });
}

// The greatest of x, -infinity if there is none; nan is passed over.
template <class T>
T greatest_of(const T* x, int64_t n) {
  auto larger = [](auto a, auto b) { return b > a ? b : a; };
  return over_row<T>(
      n, -std::numeric_limits<T>::infinity(), [=](int64_t i, auto v) { return read<decltype(v)>(x + i); }, larger);
}

}  // namespace needle
