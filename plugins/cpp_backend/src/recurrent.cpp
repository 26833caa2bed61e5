#include "recurrent.h"

#include "functions.h"
#include "small_product.h"
#include "threads.h"

namespace needle {
namespace {

template <class T>
class Recurrence : public Kernel {
 public:
  Recurrence(int64_t t, int64_t n, int64_t d, bool reverse) : t_(t), n_(n), d_(d), reverse_(reverse) {}

  int64_t scratch_bytes() const override { return kMostThreads * own_bytes(); }

 protected:
  static constexpr int kMostThreads = 16;

  // Calls f(first, last, own) in several threads, each with units first ... last - 1 and memory of its own.
  template <class F>
  void in_team(void* scratch, F f) const {
    constexpr int64_t kWorthwhile = 16384;  // multiplications of a step for each thread
    int64_t blocks = (d_ + kBlock - 1) / kBlock, most = n_ * d_ * 4 * d_ / kWorthwhile;
    int64_t team = std::max<int64_t>(1, std::min<int64_t>({num_threads(), kMostThreads, blocks, most}));
    auto work = [&](int64_t i, int64_t of) {
      f(std::min(d_, blocks * i / of * kBlock), std::min(d_, blocks * (i + 1) / of * kBlock),
        reinterpret_cast<T*>(static_cast<char*>(scratch) + i * own_bytes()));
    };
    if (team == 1 || omp_in_parallel()) return work(0, 1);
#pragma omp parallel num_threads(static_cast<int>(team))
    work(omp_get_thread_num(), omp_get_num_threads());
  }

  int64_t step(int64_t s, bool backward) const { return reverse_ != backward ? t_ - 1 - s : s; }
  int64_t own_bytes() const { return aligned((4 * n_ * d_ + panel_size<T>(4 * d_)) * sizeof(T)); }
  T* panel(T* own) const { return own + 4 * n_ * d_; }

  static constexpr int64_t kBlock = kVectorBytes / sizeof(T);
  int64_t t_, n_, d_;
  bool reverse_;
};

void wait_for_team() {
  if (omp_in_parallel()) {
#pragma omp barrier
  }
}

template <class T>
class Lstm : public Recurrence<T> {
 public:
  using Recurrence<T>::Recurrence;

  void run(const void* const* in, void* const* out, void* scratch) const override {
    int64_t n = this->n_, d = this->d_;
    auto *a = static_cast<const T*>(in[0]), *w = static_cast<const T*>(in[3]);
    this->in_team(scratch, [&](int64_t first, int64_t last, T* gates) {
      auto *h = static_cast<const T*>(in[1]), *c = static_cast<const T*>(in[2]);
      int64_t width = last - first;
      for (int64_t s = 0; s < this->t_; ++s) {
        int64_t at = this->step(s, false);
        const T* a_s = a + at * n * 4 * d;
        auto *y = static_cast<T*>(out[0]) + at * n * d, *c_s = static_cast<T*>(out[1]) + at * n * d;
        for (int64_t gate = 0; gate < 4 && width; ++gate) {
          int64_t from = gate * d + first;
          multiply<T>({h, d, 1}, {w + from, 4 * d, 1}, n, d, width, this->panel(gates),
                      [&](int64_t i, int64_t j, int64_t count, const T* sums) {
                        for (int64_t q = 0; q < count; ++q) {
                          gates[(i * 4 + gate) * width + j + q] = sums[q] + a_s[i * 4 * d + from + j + q];
                        }
                      });
        }
        for (int64_t i = 0; i < n; ++i) {
          const T* g = gates + i * 4 * width;
          int64_t row = i * d + first;
#pragma GCC ivdep
          for (int64_t j = 0; j < width; ++j) {
            T now = sigmoid_of(g[width + j]) * c[row + j] + sigmoid_of(g[j]) * tanh_of(g[2 * width + j]);
            c_s[row + j] = now;
            y[row + j] = sigmoid_of(g[3 * width + j]) * tanh_of(now);
          }
        }
        h = y, c = c_s;
        wait_for_team();
      }
    });
  }
};

template <class T>
class LstmGrad : public Recurrence<T> {
 public:
  using Recurrence<T>::Recurrence;

  void run(const void* const* in, void* const* out, void* scratch) const override {
    int64_t n = this->n_, d = this->d_;
    auto *gy = static_cast<const T*>(in[0]), *gc = static_cast<const T*>(in[1]), *cs = static_cast<const T*>(in[2]);
    auto *a = static_cast<const T*>(in[4]), *b = static_cast<const T*>(in[5]), *w = static_cast<const T*>(in[6]);
    auto *da = static_cast<T*>(out[0]), *dh = static_cast<T*>(out[1]), *dc = static_cast<T*>(out[2]);
    this->in_team(scratch, [&](int64_t first, int64_t last, T* own) {
      int64_t width = last - first;
      for (int64_t i = 0; i < n; ++i) {
        std::fill_n(dh + i * d + first, width, T(0));
        std::fill_n(dc + i * d + first, width, T(0));
      }
      for (int64_t s = 0; s < this->t_; ++s) {
        int64_t at = this->step(s, true), before = this->reverse_ ? at + 1 : at - 1;
        const T* c_before = s + 1 < this->t_ ? cs + before * n * d : static_cast<const T*>(in[3]);
        T* da_s = da + at * n * 4 * d;
        for (int64_t i = 0; i < n; ++i) {
          int64_t row = i * d + first, all = (at * n + i) * d + first, gate = (at * n + i) * 4 * d + first;
          const T *u = a + gate, *v = b + gate;
          T* to = da_s + i * 4 * d + first;
#pragma GCC ivdep
          for (int64_t j = 0; j < width; ++j) {
            T in_gate = sigmoid_of(u[j] + v[j]), forget = sigmoid_of(u[d + j] + v[d + j]);
            T cell = tanh_of(u[2 * d + j] + v[2 * d + j]), out_gate = sigmoid_of(u[3 * d + j] + v[3 * d + j]);
            T now = tanh_of(cs[all + j]), by_h = dh[row + j] + gy[all + j];
            T by_c = dc[row + j] + gc[all + j] + by_h * (out_gate * (1 - now * now));
            to[j] = by_c * (cell * in_gate * (1 - in_gate));
            to[d + j] = by_c * (c_before[row + j] * forget * (1 - forget));
            to[2 * d + j] = by_c * (in_gate * (1 - cell * cell));
            to[3 * d + j] = by_h * (now * out_gate * (1 - out_gate));
            dc[row + j] = by_c * forget;
          }
        }
        wait_for_team();
        if (!width) continue;
        multiply<T>({da_s, 4 * d, 1}, {w + first, d, 1}, n, 4 * d, width, this->panel(own),
                    [&](int64_t i, int64_t j, int64_t count, const T* sums) {
                      for (int64_t q = 0; q < count; ++q) dh[i * d + first + j + q] = sums[q];
                    });
      }
    });
  }
};

template <class T>
class Gru : public Recurrence<T> {
 public:
  using Recurrence<T>::Recurrence;

  void run(const void* const* in, void* const* out, void* scratch) const override {
    int64_t n = this->n_, d = this->d_;
    auto *a = static_cast<const T*>(in[0]), *w = static_cast<const T*>(in[2]), *bias = static_cast<const T*>(in[3]);
    this->in_team(scratch, [&](int64_t first, int64_t last, T* gates) {
      auto* h = static_cast<const T*>(in[1]);
      int64_t width = last - first;
      for (int64_t s = 0; s < this->t_; ++s) {
        int64_t at = this->step(s, false);
        auto* y = static_cast<T*>(out[0]) + at * n * d;
        for (int64_t gate = 0; gate < 3 && width; ++gate) {
          int64_t from = gate * d + first;
          multiply<T>({h, d, 1}, {w + from, 3 * d, 1}, n, d, width, this->panel(gates),
                      [&](int64_t i, int64_t j, int64_t count, const T* sums) {
                        for (int64_t q = 0; q < count; ++q)
                          gates[(i * 3 + gate) * width + j + q] = sums[q] + bias[from + j + q];
                      });
        }
        for (int64_t i = 0; i < n; ++i) {
          const T *b = gates + i * 3 * width, *u = a + (at * n + i) * 3 * d + first;
          int64_t row = i * d + first;
#pragma GCC ivdep
          for (int64_t j = 0; j < width; ++j) {
            T reset = sigmoid_of(u[j] + b[j]), keep = sigmoid_of(u[d + j] + b[width + j]);
            T fresh = tanh_of(u[2 * d + j] + reset * b[2 * width + j]);
            y[row + j] = fresh + keep * (h[row + j] - fresh);
          }
        }
        h = y;
        wait_for_team();
      }
    });
  }
};

template <class T>
class GruGrad : public Recurrence<T> {
 public:
  using Recurrence<T>::Recurrence;

  void run(const void* const* in, void* const* out, void* scratch) const override {
    int64_t n = this->n_, d = this->d_;
    auto *g = static_cast<const T*>(in[0]), *before = static_cast<const T*>(in[1]);
    auto *a = static_cast<const T*>(in[2]), *b = static_cast<const T*>(in[3]), *w = static_cast<const T*>(in[4]);
    auto *da = static_cast<T*>(out[0]), *db = static_cast<T*>(out[1]), *dh = static_cast<T*>(out[2]);
    this->in_team(scratch, [&](int64_t first, int64_t last, T* own) {
      int64_t width = last - first;
      for (int64_t i = 0; i < n; ++i) std::fill_n(dh + i * d + first, width, T(0));
      for (int64_t s = 0; s < this->t_; ++s) {
        int64_t at = this->step(s, true);
        for (int64_t i = 0; i < n; ++i) {
          int64_t row = i * d + first, all = (at * n + i) * d + first, gate = (at * n + i) * 3 * d + first;
          const T *u = a + gate, *v = b + gate;
          T *to_a = da + gate, *to_b = db + gate;
#pragma GCC ivdep
          for (int64_t j = 0; j < width; ++j) {
            T reset = sigmoid_of(u[j] + v[j]), keep = sigmoid_of(u[d + j] + v[d + j]);
            T fresh = tanh_of(u[2 * d + j] + reset * v[2 * d + j]);
            T by_h = dh[row + j] + g[all + j], by_fresh = by_h * (1 - keep) * (1 - fresh * fresh);
            T by_reset = by_fresh * v[2 * d + j] * reset * (1 - reset);
            T by_keep = by_h * (before[all + j] - fresh) * keep * (1 - keep);
            to_a[j] = to_b[j] = by_reset;
            to_a[d + j] = to_b[d + j] = by_keep;
            to_a[2 * d + j] = by_fresh;
            to_b[2 * d + j] = by_fresh * reset;
            dh[row + j] = by_h * keep;
          }
        }
        wait_for_team();
        if (!width) continue;
        multiply<T>({db + at * n * 3 * d, 3 * d, 1}, {w + first, d, 1}, n, 3 * d, width, this->panel(own),
                    [&](int64_t i, int64_t j, int64_t count, const T* sums) {
                      for (int64_t q = 0; q < count; ++q) dh[i * d + first + j + q] += sums[q];
                    });
      }
    });
  }
};

template <template <class> class Made>
std::unique_ptr<Kernel> make(DType dtype, int64_t t, int64_t n, int64_t d, bool reverse) {
  if (dtype == DType::Float64) return std::make_unique<Made<double>>(t, n, d, reverse);
  return std::make_unique<Made<float>>(t, n, d, reverse);
}

}  // namespace

std::unique_ptr<Kernel> make_lstm(DType dtype, int64_t t, int64_t n, int64_t d, bool reverse) {
  return make<Lstm>(dtype, t, n, d, reverse);
}

std::unique_ptr<Kernel> make_lstm_grad(DType dtype, int64_t t, int64_t n, int64_t d, bool reverse) {
  return make<LstmGrad>(dtype, t, n, d, reverse);
}

std::unique_ptr<Kernel> make_gru(DType dtype, int64_t t, int64_t n, int64_t d, bool reverse) {
  return make<Gru>(dtype, t, n, d, reverse);
}

std::unique_ptr<Kernel> make_gru_grad(DType dtype, int64_t t, int64_t n, int64_t d, bool reverse) {
  return make<GruGrad>(dtype, t, n, d, reverse);
}

}  // namespace needle
