#include "index.h"

#include <algorithm>
#include <numeric>

#include "threads.h"

namespace needle {
namespace {

struct Extent {
  int64_t outer, size, inner, axis = 0;
};

// The places in 0 ... size - 1 that n indices name.
void read_indices(DType dtype, const void* indices, int64_t n, const Extent& e, int64_t* places) {
  int64_t size = e.size;
  with_integer(dtype, [&](auto t) {
    auto* x = static_cast<const decltype(t)*>(indices);
    for (int64_t i = 0; i < n; ++i) {
      int64_t place = static_cast<int64_t>(x[i]);
      if (place < -size || place >= size) {
        throw std::out_of_range("index " + std::to_string(place) + " is out of bounds for axis " + std::to_string(e.axis) +
                                " with size " + std::to_string(size));
      }
      places[i] = place < 0 ? place + size : place;
    }
  });
}

class Take : public Kernel {
 public:
  Take(DType dtype, DType index, Extent e, int64_t count) : e_(e), count_(count), index_(index), bytes_(itemsize(dtype)) {}

  int64_t scratch_bytes() const override { return aligned(count_ * 8); }

  void run(const void* const* in, void* const* out, void* scratch) const override {
    auto* places = static_cast<int64_t*>(scratch);
    read_indices(index_, in[1], count_, e_, places);
    int64_t row = e_.inner * bytes_;
    auto* x = static_cast<const char*>(in[0]);
    auto* y = static_cast<char*>(out[0]);
    parallel_ranges(e_.outer * count_, e_.inner, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        std::memcpy(y + i * row, x + (i / count_ * e_.size + places[i % count_]) * row, row);
      }
    });
  }

 private:
  Extent e_;
  int64_t count_;
  DType index_;
  int64_t bytes_;
};

template <class T>
class ScatterAdd : public Kernel {
 public:
  ScatterAdd(DType index, Extent e, int64_t count, bool from_zero)
      : e_(e), count_(count), index_(index), from_zero_(from_zero) {}

  int64_t scratch_bytes() const override { return aligned(count_ * 8); }

  void run(const void* const* in, void* const* out, void* scratch) const override {
    int first_input = from_zero_ ? 0 : 1;
    auto* places = static_cast<int64_t*>(scratch);
    read_indices(index_, in[first_input], count_, e_, places);
    auto* updates = static_cast<const T*>(in[first_input + 1]);
    auto* y = static_cast<T*>(out[0]);
    int64_t n = e_.inner;
    // Each part has rows of y of its own, and looks through all updates for what belongs there.
    parallel_ranges(e_.outer * e_.size, n * (1 + count_ / std::max<int64_t>(e_.size, 1)), [&](int64_t first, int64_t last) {
      if (from_zero_) {
        std::fill(y + first * n, y + last * n, T(0));
      } else {
        std::memcpy(y + first * n, static_cast<const T*>(in[0]) + first * n, (last - first) * n * sizeof(T));
      }
      for (int64_t o = first / e_.size; o < e_.outer && o * e_.size < last; ++o) {
        for (int64_t i = 0; i < count_; ++i) {
          int64_t row = o * e_.size + places[i];
          if (row < first || row >= last) continue;
          T* to = y + row * n;
          const T* from = updates + (o * count_ + i) * n;
          for (int64_t j = 0; j < n; ++j) to[j] = static_cast<T>(to[j] + from[j]);
        }
      }
    });
  }

 private:
  Extent e_;
  int64_t count_;
  DType index_;
  bool from_zero_;
};

template <class T>
class Argsort : public Kernel {
 public:
  Argsort(Extent e, bool descending) : e_(e), descending_(descending) {}

  void run(const void* const* in, void* const* out, void*) const override {
    using W = typename Wide<T>::type;
    auto* x = static_cast<const T*>(in[0]);
    auto* y = static_cast<int64_t*>(out[0]);
    parallel_ranges(e_.outer * e_.inner, e_.size * 16, [&](int64_t first, int64_t last) {
      std::vector<W> line(e_.size);
      std::vector<int64_t> order(e_.size);
      for (int64_t i = first; i < last; ++i) {
        int64_t start = i / e_.inner * e_.size * e_.inner + i % e_.inner;
        for (int64_t j = 0; j < e_.size; ++j) line[j] = Wide<T>::load(x[start + j * e_.inner]);
        std::iota(order.begin(), order.end(), int64_t{0});
        auto less = [&](W a, W b) { return a < b || (b != b && a == a); };
        std::stable_sort(order.begin(), order.end(),
                         [&](int64_t a, int64_t b) { return descending_ ? less(line[b], line[a]) : less(line[a], line[b]); });
        for (int64_t j = 0; j < e_.size; ++j) y[start + j * e_.inner] = order[j];
      }
    });
  }

 private:
  Extent e_;
  bool descending_;
};

template <class T>
class Cumsum : public Kernel {
 public:
  explicit Cumsum(Extent e) : e_(e) {}

  void run(const void* const* in, void* const* out, void*) const override {
    using W = typename Wide<T>::type;
    auto* x = static_cast<const T*>(in[0]);
    auto* y = static_cast<T*>(out[0]);
    parallel_ranges(e_.outer * e_.inner, e_.size, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        int64_t start = i / e_.inner * e_.size * e_.inner + i % e_.inner;
        W total = 0;
        for (int64_t j = 0; j < e_.size; ++j) {
          total += Wide<T>::load(x[start + j * e_.inner]);
          y[start + j * e_.inner] = Wide<T>::store(total);
        }
      }
    });
  }

 private:
  Extent e_;
};

}  // namespace

std::unique_ptr<Kernel> make_take(DType dtype, DType index, int64_t axis, int64_t outer, int64_t size, int64_t inner,
                                  int64_t count) {
  return std::make_unique<Take>(dtype, index, Extent{outer, size, inner, axis}, count);
}

std::unique_ptr<Kernel> make_scatter_add(DType dtype, DType index, int64_t axis, int64_t outer, int64_t size, int64_t inner,
                                         int64_t count, bool from_zero) {
  Extent e{outer, size, inner, axis};
  switch (dtype) {
    case DType::Bool:
      return std::make_unique<ScatterAdd<bool>>(index, e, count, from_zero);
    case DType::UInt8:
      return std::make_unique<ScatterAdd<uint8_t>>(index, e, count, from_zero);
    case DType::Int32:
      return std::make_unique<ScatterAdd<int32_t>>(index, e, count, from_zero);
    case DType::Int64:
      return std::make_unique<ScatterAdd<int64_t>>(index, e, count, from_zero);
    case DType::Float32:
      return std::make_unique<ScatterAdd<float>>(index, e, count, from_zero);
    case DType::Float64:
      return std::make_unique<ScatterAdd<double>>(index, e, count, from_zero);
    default:
      throw std::invalid_argument("half precision is added up in float32");
  }
}

std::unique_ptr<Kernel> make_argsort(DType dtype, int64_t outer, int64_t size, int64_t inner, bool descending) {
  std::unique_ptr<Kernel> made;
  with_any(dtype, [&](auto t) { made = std::make_unique<Argsort<decltype(t)>>(Extent{outer, size, inner}, descending); });
  return made;
}

std::unique_ptr<Kernel> make_cumsum(DType dtype, int64_t outer, int64_t size, int64_t inner) {
  std::unique_ptr<Kernel> made;
  Extent e{outer, size, inner};
  if (dtype == DType::Int64) return std::make_unique<Cumsum<int64_t>>(e);
  with_floating(dtype, [&](auto t) { made = std::make_unique<Cumsum<decltype(t)>>(e); });
  return made;
}

}  // namespace needle
