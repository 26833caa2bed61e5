#include "pooling.h"

#include <algorithm>
#include <limits>

#include "threads.h"

namespace needle {
namespace {

template <class T>
class Pool : public Kernel {
 public:
  Pool(int64_t n, Windows windows, int64_t c) : n_(n), c_(c), w_(std::move(windows)) {}

 protected:
  int64_t count(int64_t place, bool all) const { return all ? w_.window : w_.first[place + 1] - w_.first[place]; }

  // Calls f(element of the image) for each in the window.
  template <class F>
  void each(int64_t place, F f) const {
    for (int64_t i = w_.first[place]; i < w_.first[place + 1]; ++i) f(w_.elements[i].image);
  }

  void greatest(const T* x, int64_t place, T* y) const {
    std::fill_n(y, c_, -std::numeric_limits<T>::infinity());
    each(place, [&](int64_t element) {
      const T* u = x + element * c_;
#pragma GCC ivdep
      for (int64_t j = 0; j < c_; ++j) y[j] = y[j] > u[j] || y[j] != y[j] ? y[j] : u[j];
    });
  }

  int64_t n_, c_;
  Windows w_;
};

template <class T>
class MaxPool : public Pool<T> {
 public:
  using Pool<T>::Pool;

  void run(const void* const* in, void* const* out, void*) const override {
    auto& w = this->w_;
    int64_t c = this->c_;
    auto* x = static_cast<const T*>(in[0]);
    auto* y = static_cast<T*>(out[0]);
    parallel_ranges(this->n_ * w.places, c * w.window, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) this->greatest(x + i / w.places * w.image * c, i % w.places, y + i * c);
    });
  }
};

template <class T>
class MaxPoolGrad : public Pool<T> {
 public:
  using Pool<T>::Pool;

  void run(const void* const* in, void* const* out, void*) const override {
    auto& w = this->w_;
    int64_t c = this->c_;
    parallel_ranges(this->n_, c * w.places * w.window * 3, [&](int64_t first, int64_t last) {
      std::vector<T> top(c), share(c);
      for (int64_t sample = first; sample < last; ++sample) {
        auto* g = static_cast<const T*>(in[0]) + sample * w.places * c;
        auto* x = static_cast<const T*>(in[1]) + sample * w.image * c;
        auto* y = static_cast<T*>(out[0]) + sample * w.image * c;
        std::fill_n(y, w.image * c, T(0));
        for (int64_t place = 0; place < w.places; ++place) {
          this->greatest(x, place, top.data());
          std::fill(share.begin(), share.end(), T(0));
          this->each(place, [&](int64_t element) {
            for (int64_t j = 0; j < c; ++j) share[j] += x[element * c + j] == top[j] ? T(1) : T(0);
          });
          for (int64_t j = 0; j < c; ++j) share[j] = g[place * c + j] / share[j];
          this->each(place, [&](int64_t element) {
            T* to = y + element * c;
            const T* u = x + element * c;
#pragma GCC ivdep
            for (int64_t j = 0; j < c; ++j) to[j] += share[j] * (u[j] == top[j] ? T(1) : T(0));  // nan where none is
          });
        }
      }
    });
  }
};

template <class T>
class AvgPool : public Pool<T> {
 public:
  AvgPool(int64_t n, Windows windows, int64_t c, bool all) : Pool<T>(n, std::move(windows), c), all_(all) {}

  void run(const void* const* in, void* const* out, void*) const override {
    auto& w = this->w_;
    int64_t c = this->c_;
    parallel_ranges(this->n_ * w.places, c * w.window, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        auto* x = static_cast<const T*>(in[0]) + i / w.places * w.image * c;
        auto* y = static_cast<T*>(out[0]) + i * c;
        std::fill_n(y, c, T(0));
        this->each(i % w.places, [&](int64_t element) {
          for (int64_t j = 0; j < c; ++j) y[j] += x[element * c + j];
        });
        T count = static_cast<T>(this->count(i % w.places, all_));
        for (int64_t j = 0; j < c; ++j) y[j] /= count;
      }
    });
  }

 private:
  bool all_;
};

template <class T>
class AvgPoolGrad : public Pool<T> {
 public:
  AvgPoolGrad(int64_t n, Windows windows, int64_t c, bool all) : Pool<T>(n, std::move(windows), c), all_(all) {}

  void run(const void* const* in, void* const* out, void*) const override {
    auto& w = this->w_;
    int64_t c = this->c_;
    parallel_ranges(this->n_, c * w.places * w.window, [&](int64_t first, int64_t last) {
      for (int64_t sample = first; sample < last; ++sample) {
        auto* g = static_cast<const T*>(in[0]) + sample * w.places * c;
        auto* y = static_cast<T*>(out[0]) + sample * w.image * c;
        std::fill_n(y, w.image * c, T(0));
        for (int64_t place = 0; place < w.places; ++place) {
          T count = static_cast<T>(this->count(place, all_));
          this->each(place, [&](int64_t element) {
            for (int64_t j = 0; j < c; ++j) y[element * c + j] += g[place * c + j] / count;
          });
        }
      }
    });
  }

 private:
  bool all_;
};

template <template <class> class Made, class... A>
std::unique_ptr<Kernel> make(DType dtype, A... a) {
  if (dtype == DType::Float64) return std::make_unique<Made<double>>(std::move(a)...);
  return std::make_unique<Made<float>>(std::move(a)...);
}

}  // namespace

std::unique_ptr<Kernel> make_max_pool(DType dtype, int64_t n, const Sizes& s, const Sizes& t, int64_t c,
                                      const Sliding& sliding) {
  return make<MaxPool>(dtype, n, windows_of(s, t, sliding), c);
}

std::unique_ptr<Kernel> make_max_pool_grad(DType dtype, int64_t n, const Sizes& s, const Sizes& t, int64_t c,
                                           const Sliding& sliding) {
  return make<MaxPoolGrad>(dtype, n, windows_of(s, t, sliding), c);
}

std::unique_ptr<Kernel> make_avg_pool(DType dtype, int64_t n, const Sizes& s, const Sizes& t, int64_t c, const Sliding& sliding,
                                      bool count_padding) {
  return make<AvgPool>(dtype, n, windows_of(s, t, sliding), c, count_padding);
}

std::unique_ptr<Kernel> make_avg_pool_grad(DType dtype, int64_t n, const Sizes& s, const Sizes& t, int64_t c,
                                           const Sliding& sliding, bool count_padding) {
  return make<AvgPoolGrad>(dtype, n, windows_of(s, t, sliding), c, count_padding);
}

}  // namespace needle
