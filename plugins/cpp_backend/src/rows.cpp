#include "rows.h"

#include <algorithm>

#include "functions.h"
#include "lanes.h"
#include "threads.h"

namespace needle {
namespace {

constexpr int64_t kPiece = 1024;  // elements of a row that stay in the first cache

// y = exp(x - top), and their sum
template <class T>
T exp_and_sum(const T* x, T top, T* y, int64_t n) {
  T total = 0;
  for (int64_t i = 0; i < n; i += kPiece) {
    int64_t count = std::min(kPiece, n - i);
    exp_from(x + i, top, y + i, count);
    total += sum_of(y + i, count);
  }
  return total;
}

// The same sum alone
template <class T>
T sum_of_exp(const T* x, T top, int64_t n) {
  T y[kPiece], total = 0;
  for (int64_t i = 0; i < n; i += kPiece) total += exp_and_sum(x + i, top, y, std::min(kPiece, n - i));
  return total;
}

constexpr int64_t kExp = 12;  // element operations that a softmax is worth for each element

template <class T>
class Softmax : public Kernel {
 public:
  Softmax(int64_t rows, int64_t n, bool logarithm) : rows_(rows), n_(n), logarithm_(logarithm) {}

  void run(const void* const* in, void* const* out, void*) const override {
    parallel_ranges(rows_, n_ * kExp, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        auto* x = static_cast<const T*>(in[0]) + row * n_;
        auto* y = static_cast<T*>(out[0]) + row * n_;
        T top = greatest_of(x, n_);
        if (logarithm_) {
          T low = std::log(sum_of_exp(x, top, n_));
          for (int64_t i = 0; i < n_; ++i) y[i] = (x[i] - top) - low;
        } else {
          T scale = 1 / exp_and_sum(x, top, y, n_);
          for (int64_t i = 0; i < n_; ++i) y[i] *= scale;
        }
      }
    });
  }

 private:
  int64_t rows_, n_;
  bool logarithm_;
};

template <class T>
class SoftmaxGrad : public Kernel {
 public:
  SoftmaxGrad(int64_t rows, int64_t n) : rows_(rows), n_(n) {}

  void run(const void* const* in, void* const* out, void*) const override {
    parallel_ranges(rows_, n_ * 2, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        auto *g = static_cast<const T*>(in[0]) + row * n_, *y = static_cast<const T*>(in[1]) + row * n_;
        auto* dx = static_cast<T*>(out[0]) + row * n_;
        T total = sum_over<T>(n_, [=](int64_t i, auto v) { return read<decltype(v)>(g + i) * read<decltype(v)>(y + i); });
        for (int64_t i = 0; i < n_; ++i) dx[i] = y[i] * (g[i] - total);
      }
    });
  }

 private:
  int64_t rows_, n_;
};

// -- cross entropy ----------------------------------------------------------------------------------------------------------

// The class that a label names.
int64_t class_of(DType dtype, const void* labels, int64_t row, int64_t n) {
  int64_t label = 0;
  with_integer(dtype, [&](auto t) { label = static_cast<int64_t>(static_cast<const decltype(t)*>(labels)[row]); });
  if (label < -n || label >= n) {
    throw std::out_of_range("label " + std::to_string(label) + " is out of bounds for " + std::to_string(n) + " classes");
  }
  return label < 0 ? label + n : label;
}

// The loss of a row with the score x of its label, given the sum of exp(x - top).
template <class T>
T loss_of(T x, T top, T total) {
  return std::log(total) - (x - top);
}

// The losses of all rows as one number.
template <class T>
T reduced(const T* losses, int64_t rows, const std::string& reduction) {
  double total = 0;
  for (int64_t row = 0; row < rows; ++row) total += losses[row];
  return static_cast<T>(reduction == "mean" ? total / static_cast<double>(rows) : total);
}

template <class T>
class CrossEntropy : public Kernel {
 public:
  CrossEntropy(DType label, int64_t rows, int64_t n, const std::string& reduction)
      : label_(label), rows_(rows), n_(n), reduction_(reduction) {}

  int64_t scratch_bytes() const override { return aligned(rows_ * sizeof(T)); }

  void run(const void* const* in, void* const* out, void* scratch) const override {
    auto* losses = static_cast<T*>(reduction_ == "none" ? out[0] : scratch);
    parallel_ranges(rows_, n_ * kExp, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        auto* x = static_cast<const T*>(in[0]) + row * n_;
        T top = greatest_of(x, n_);
        losses[row] = loss_of(x[class_of(label_, in[1], row, n_)], top, sum_of_exp(x, top, n_));
      }
    });
    if (reduction_ != "none") *static_cast<T*>(out[0]) = reduced(losses, rows_, reduction_);
  }

 private:
  DType label_;
  int64_t rows_, n_;
  std::string reduction_;
};

template <class T>
class CrossEntropyGrad : public Kernel {
 public:
  CrossEntropyGrad(DType label, int64_t rows, int64_t n, const std::string& reduction, bool with_loss)
      : label_(label), rows_(rows), n_(n), reduction_(reduction), with_loss_(with_loss) {}

  int64_t scratch_bytes() const override { return with_loss_ ? aligned(rows_ * sizeof(T)) : 0; }

  void run(const void* const* in, void* const* out, void* scratch) const override {
    auto* g = static_cast<const T*>(in[0]);
    auto* losses = static_cast<T*>(with_loss_ && reduction_ == "none" ? out[1] : scratch);
    T factor = reduction_ == "mean" ? g[0] / static_cast<T>(rows_) : reduction_ == "sum" ? g[0] : T(1);
    parallel_ranges(rows_, n_ * kExp, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        auto* x = static_cast<const T*>(in[1]) + row * n_;
        auto* dx = static_cast<T*>(out[0]) + row * n_;
        int64_t at = class_of(label_, in[2], row, n_);
        T by_row = reduction_ == "none" ? g[row] : factor;
        T named = x[at], top = greatest_of(x, n_), total = exp_and_sum(x, top, dx, n_);  // dx may lie where x does
        if (with_loss_) losses[row] = loss_of(named, top, total);
        T scale = 1 / total, picked = (dx[at] * scale - 1) * by_row;
        for (int64_t i = 0; i < n_; ++i) dx[i] = dx[i] * scale * by_row;
        dx[at] = picked;
      }
    });
    if (with_loss_ && reduction_ != "none") *static_cast<T*>(out[1]) = reduced(losses, rows_, reduction_);
  }

 private:
  DType label_;
  int64_t rows_, n_;
  std::string reduction_;
  bool with_loss_;
};

// -- layer norm -------------------------------------------------------------------------------------------------------------

// Mean and 1 / deviation of a row.
template <class T>
std::pair<T, T> moments(const T* x, int64_t n, T eps) {
  T mean = sum_of(x, n) / static_cast<T>(n);
  T squares = sum_over<T>(n, [=](int64_t i, auto v) {
    auto d = read<decltype(v)>(x + i) - mean;
    return d * d;
  });
  return {mean, 1 / std::sqrt(squares / static_cast<T>(n) + eps)};
}

template <class T>
class LayerNorm : public Kernel {
 public:
  LayerNorm(int64_t rows, int64_t n, double eps) : rows_(rows), n_(n), eps_(static_cast<T>(eps)) {}

  void run(const void* const* in, void* const* out, void*) const override {
    auto *weight = static_cast<const T*>(in[1]), *bias = static_cast<const T*>(in[2]);
    parallel_ranges(rows_, n_ * 4, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        auto* x = static_cast<const T*>(in[0]) + row * n_;
        auto* y = static_cast<T*>(out[0]) + row * n_;
        auto [mean, scale] = moments(x, n_, eps_);
        for (int64_t i = 0; i < n_; ++i) y[i] = (x[i] - mean) * scale * weight[i] + bias[i];
      }
    });
  }

 private:
  int64_t rows_, n_;
  T eps_;
};

template <class T>
class LayerNormGrad : public Kernel {
 public:
  LayerNormGrad(int64_t rows, int64_t n, double eps)
      : rows_(rows), n_(n), eps_(static_cast<T>(eps)), chunks_(parts(rows, n * 8)) {}

  int64_t scratch_bytes() const override { return chunks_ * 2 * aligned(n_ * sizeof(T)); }

  void run(const void* const* in, void* const* out, void* scratch) const override {
    int64_t each = aligned(n_ * sizeof(T)) / sizeof(T);
    auto* sums = static_cast<T*>(scratch);
    parallel(chunks_, [=, this](int64_t chunk) {
      auto* weight = static_cast<const T*>(in[2]);
      T *by_weight = sums + chunk * 2 * each, *by_bias = by_weight + each;
      std::fill_n(by_weight, 2 * each, T(0));
      for (int64_t row = rows_ * chunk / chunks_; row < rows_ * (chunk + 1) / chunks_; ++row) {
        auto *g = static_cast<const T*>(in[0]) + row * n_, *x = static_cast<const T*>(in[1]) + row * n_;
        add_row(g, x, weight, static_cast<T*>(out[0]) + row * n_, by_weight, by_bias);
      }
    });
    for (int k = 0; k < 2; ++k) {
      auto* y = static_cast<T*>(out[1 + k]);
      std::fill_n(y, n_, T(0));
      for (int64_t chunk = 0; chunk < chunks_; ++chunk) {
        for (int64_t i = 0; i < n_; ++i) y[i] += sums[(chunk * 2 + k) * each + i];
      }
    }
  }

 private:
  // The gradient of one row, and what it adds to those of weight and bias.
  void add_row(const T* g, const T* x, const T* weight, T* dx, T* by_weight, T* by_bias) const {
    int64_t n = n_;
    auto [mean, scale] = moments(x, n, eps_);
    T middle = mean, factor = scale;
    T by_shift = sum_over<T>(n, [=](int64_t i, auto v) { return read<decltype(v)>(g + i) * read<decltype(v)>(weight + i); });
    T by_scale = sum_over<T>(n, [=](int64_t i, auto v) {
      using V = decltype(v);
      return read<V>(g + i) * read<V>(weight + i) * ((read<V>(x + i) - middle) * factor);
    });
    by_shift /= static_cast<T>(n), by_scale /= static_cast<T>(n);
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) {
      by_weight[i] += g[i] * ((x[i] - middle) * factor);
      by_bias[i] += g[i];
    }
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) {
      dx[i] = (g[i] * weight[i] - by_shift - (x[i] - middle) * factor * by_scale) * factor;
    }
  }

  int64_t rows_, n_;
  T eps_;
  int64_t chunks_;
};

template <template <class> class Made, class... A>
std::unique_ptr<Kernel> make(DType dtype, A... a) {
  if (dtype == DType::Float64) return std::make_unique<Made<double>>(a...);
  return std::make_unique<Made<float>>(a...);
}

}  // namespace

std::unique_ptr<Kernel> make_softmax(DType dtype, int64_t rows, int64_t n, bool logarithm) {
  return make<Softmax>(dtype, rows, n, logarithm);
}

std::unique_ptr<Kernel> make_softmax_grad(DType dtype, int64_t rows, int64_t n) { return make<SoftmaxGrad>(dtype, rows, n); }

std::unique_ptr<Kernel> make_cross_entropy(DType dtype, DType label, int64_t rows, int64_t n, const std::string& reduction) {
  return make<CrossEntropy>(dtype, label, rows, n, reduction);
}

std::unique_ptr<Kernel> make_cross_entropy_grad(DType dtype, DType label, int64_t rows, int64_t n, const std::string& reduction,
                                                bool with_loss) {
  return make<CrossEntropyGrad>(dtype, label, rows, n, reduction, with_loss);
}

std::unique_ptr<Kernel> make_layer_norm(DType dtype, int64_t rows, int64_t n, double eps) {
  return make<LayerNorm>(dtype, rows, n, eps);
}

std::unique_ptr<Kernel> make_layer_norm_grad(DType dtype, int64_t rows, int64_t n, double eps) {
  return make<LayerNormGrad>(dtype, rows, n, eps);
}

}  // namespace needle
