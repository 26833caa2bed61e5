#include "fold.h"

#include <algorithm>
#include <limits>
#include <type_traits>

namespace needle {
namespace {

struct Sum {
  template <class T>
  static T identity() {
    return 0;
  }
  template <class T>
  static T of(T a, T b) {
    return static_cast<T>(a + b);
  }
};
struct Product {
  template <class T>
  static T identity() {
    return 1;
  }
  template <class T>
  static T of(T a, T b) {
    return static_cast<T>(a * b);
  }
};
struct Max {
  template <class T>
  static T identity() {
    return std::is_floating_point_v<T> ? -std::numeric_limits<T>::infinity() : std::numeric_limits<T>::lowest();
  }
  template <class T>
  static T of(T a, T b) {
    return a > b || a != a ? a : b;
  }
};
struct Min {
  template <class T>
  static T identity() {
    return std::is_floating_point_v<T> ? std::numeric_limits<T>::infinity() : std::numeric_limits<T>::max();
  }
  template <class T>
  static T of(T a, T b) {
    return a < b || a != a ? a : b;
  }
};

constexpr int64_t kLanes = 64, kSegment = 4096;

// Element i of a segment is in lane i % kLanes; at its end all go into the total.
template <class T, class A>
struct Row {
  T lane[kLanes];
  A total;
};
static_assert(sizeof(Row<double, double>) <= sizeof(RowState));

template <class T, class A>
Row<T, A>& row_of(RowState& state) {
  return *reinterpret_cast<Row<T, A>*>(state.bytes);
}

template <class F, class T>
void clear(void* accumulator, int64_t n) {
  std::fill_n(static_cast<T*>(accumulator), n, F::template identity<T>());
}

template <class F, class T, class A>
void begin(RowState& state) {
  auto& row = row_of<T, A>(state);
  clear<F, T>(row.lane, kLanes);
  row.total = F::template identity<A>();
}

template <class F, class T, class A>
void gather_lanes(Row<T, A>& row) {
  for (int64_t half = kLanes / 2; half >= 8; half /= 2) {
    for (int64_t j = 0; j < half; ++j) row.lane[j] = F::of(row.lane[j], row.lane[j + half]);
  }
  for (int64_t j = 0; j < 8; ++j) row.total = F::template of<A>(row.total, row.lane[j]);
  clear<F, T>(row.lane, kLanes);
}

template <class F, class T, class A>
void take_up(RowState& state, int64_t place, const void* elements, int64_t n) {
  auto& row = row_of<T, A>(state);
  auto* x = static_cast<const T*>(elements);
  for (int64_t i = 0; i < n;) {
    int64_t lane = (place + i) % kLanes, end = std::min(n, i + kSegment - (place + i) % kSegment);
    for (; lane && lane < kLanes && i < end; ++lane, ++i) row.lane[lane] = F::of(row.lane[lane], x[i]);
    T lanes[kLanes];
    std::copy_n(row.lane, kLanes, lanes);
    for (; i + kLanes <= end; i += kLanes) {
      for (int64_t j = 0; j < kLanes; ++j) lanes[j] = F::of(lanes[j], x[i + j]);
    }
    std::copy_n(lanes, kLanes, row.lane);
    for (int64_t j = 0; i < end; ++j, ++i) row.lane[j] = F::of(row.lane[j], x[i]);
    if ((place + i) % kSegment == 0) gather_lanes<F>(row);
  }
}

template <class F, class T, class A>
void join(RowState& state, const RowState& other) {
  auto &row = row_of<T, A>(state), &rest = row_of<T, A>(const_cast<RowState&>(other));
  gather_lanes<F>(row);
  gather_lanes<F>(rest);
  row.total = F::of(row.total, rest.total);
}

template <class F, class T, class A>
void finish(void* y, RowState& state, double divisor) {
  auto& row = row_of<T, A>(state);
  gather_lanes<F>(row);
  *static_cast<T*>(y) = static_cast<T>(divisor == 1 ? row.total : static_cast<A>(row.total / divisor));
}

// kWidth columns, which stay in registers while all rows go by.
template <class F, class T, int kWidth>
void some_columns(T* total, const T* x, int64_t n, int64_t count) {
  T held[kWidth];
  for (int c = 0; c < kWidth; ++c) held[c] = total[c];
  for (int64_t r = 0; r < count; ++r, x += n) {
    for (int c = 0; c < kWidth; ++c) held[c] = F::of(held[c], x[c]);
  }
  for (int c = 0; c < kWidth; ++c) total[c] = held[c];
}

template <class F, class T>
void rows(void* accumulator, const void* elements, int64_t n, int64_t count) {
  auto* total = static_cast<T*>(accumulator);
  auto* x = static_cast<const T*>(elements);
  int64_t i = 0;
  if (count > 1) {
    for (; i + 64 <= n; i += 64) some_columns<F, T, 64>(total + i, x + i, n, count);
    for (; i + 16 <= n; i += 16) some_columns<F, T, 16>(total + i, x + i, n, count);
  }
  for (int64_t r = 0; r < count; ++r) {
#pragma GCC ivdep
    for (int64_t j = i; j < n; ++j) total[j] = F::of(total[j], x[r * n + j]);
  }
}

template <class T>
void divide(void* y, int64_t n, double divisor) {
  for (int64_t i = 0; i < n; ++i) static_cast<T*>(y)[i] = static_cast<T>(static_cast<T*>(y)[i] / divisor);
}

template <class F, class T>
const Fold& fold() {
  constexpr bool kSumsUp = std::is_same_v<F, Sum> || std::is_same_v<F, Product>;
  using A = std::conditional_t<kSumsUp && std::is_same_v<T, float>, double, T>;
  static const Fold found{begin<F, T, A>, take_up<F, T, A>, join<F, T, A>, finish<F, T, A>, clear<F, T>, rows<F, T>, divide<T>};
  return found;
}

template <class F>
const Fold& fold_for(DType tile) {
  switch (tile) {
    case DType::Bool:
      return fold<F, bool>();
    case DType::UInt8:
      return fold<F, uint8_t>();
    case DType::Int32:
      return fold<F, int32_t>();
    case DType::Int64:
      return fold<F, int64_t>();
    case DType::Float32:
      return fold<F, float>();
    default:
      return fold<F, double>();
  }
}

}  // namespace

const Fold& fold_of(const std::string& reduction, DType tile) {
  if (reduction == "sum" || reduction == "mean") return fold_for<Sum>(tile);
  if (reduction == "prod") return fold_for<Product>(tile);
  if (reduction == "max") return fold_for<Max>(tile);
  if (reduction == "min") return fold_for<Min>(tile);
  throw std::invalid_argument("no reduction is called " + reduction);
}

}  // namespace needle
