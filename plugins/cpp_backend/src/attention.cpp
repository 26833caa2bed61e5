#include "attention.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "functions.h"
#include "small_product.h"
#include "threads.h"

namespace needle {
namespace {

template <class T>
class AttentionKernel : public Kernel {
 public:
  AttentionKernel(const Attention& form, int64_t blocks) : f_(form), blocks_(blocks) {
    matrices_ = static_cast<int64_t>(f_.q.offsets.size());
    tasks_ = matrices_ * blocks_;
    chunks_ = parts(tasks_, (f_.t / blocks_ + 1) * f_.s * (f_.d + f_.e) / 4);
    panel_ = panel_size<T>(std::max({f_.t, f_.s, f_.d, f_.e}));
    keys_.resize(f_.causal ? f_.s : 0);
    std::iota(keys_.begin(), keys_.end(), 0);
  }

 protected:
  // Weights of the queries first ... last - 1 of matrix m, row after row.
  void weigh(int64_t m, int64_t first, int64_t last, const void* const* operands, T* p, T* panel) const {
    auto q = of(f_.q, operands[0], m), k = of(f_.k, operands[1], m);
    T scale = static_cast<T>(f_.scale);
    int64_t s = f_.s;
    multiply<T>(q.from(first, 0), {k.data, k.column, k.row}, last - first, f_.d, s, panel,
                [&](int64_t i, int64_t j, int64_t count, const T* sums) {
                  for (int64_t c = 0; c < count; ++c) p[i * s + j + c] = sums[c] * scale;
                });
    for (int64_t i = first; i < last; ++i) {
      T* row = p + (i - first) * s;
      if (!f_.mask.offsets.empty()) put_mask(m, i, operands[3], row);
      if (f_.causal) {
        auto last_key = static_cast<int32_t>(i + s - f_.t);
        const int32_t* key = keys_.data();  // the compiler would make two short loops of a comparison with j
#pragma omp simd
        for (int64_t j = 0; j < s; ++j) row[j] = key[j] > last_key ? -kInfinity<T> : row[j];
      }
      T top = -kInfinity<T>, total = 0;
#pragma omp simd reduction(max : top)
      for (int64_t j = 0; j < s; ++j) top = row[j] > top ? row[j] : top;
      bool blind = (f_.causal || !f_.mask.offsets.empty()) && top == -kInfinity<T>;  // a query that may look at no key
      top = blind ? T(0) : top;
#pragma omp simd reduction(+ : total)
      for (int64_t j = 0; j < s; ++j) {
        T e = exp_of(row[j] - top);
        row[j] = e;
        total += e;
      }
      T factor = blind && total == 0 ? T(0) : 1 / total;
      for (int64_t j = 0; j < s; ++j) row[j] *= factor;
    }
  }

  void put_mask(int64_t m, int64_t i, const void* mask, T* row) const {
    int64_t at = f_.mask.offsets[m] + i * f_.mask.row, step = f_.mask.column;
    if (f_.mask_dtype == DType::Bool) {
      auto* may = static_cast<const bool*>(mask) + at;
      for (int64_t j = 0; j < f_.s; ++j) row[j] = may[j * step] ? row[j] : -kInfinity<T>;
    } else {
      auto* more = static_cast<const T*>(mask) + at;
      for (int64_t j = 0; j < f_.s; ++j) row[j] += more[j * step];
    }
  }

  static Matrix<const T> of(const Matrices& matrices, const void* data, int64_t m) {
    return {static_cast<const T*>(data) + matrices.offsets[m], matrices.row, matrices.column};
  }

  // y (rows, columns), row after row, as what multiply() calls.
  static auto into(T* y, int64_t columns, T factor = 1) {
    return [=](int64_t i, int64_t j, int64_t count, const T* sums) {
      for (int64_t c = 0; c < count; ++c) y[i * columns + j + c] = sums[c] * factor;
    };
  }

  Attention f_;
  int64_t blocks_, matrices_, tasks_, chunks_, panel_;  // blocks of queries, each a task
  std::vector<int32_t> keys_;                           // 0, 1, ... s - 1
};

template <class T>
class AttentionForward : public AttentionKernel<T> {
 public:
  static constexpr int64_t kQueries = 64;

  explicit AttentionForward(const Attention& f)
      : AttentionKernel<T>(f, std::max<int64_t>(1, (f.t + kQueries - 1) / kQueries)) {}

  int64_t scratch_bytes() const override { return this->chunks_ * each() * static_cast<int64_t>(sizeof(T)); }

  void run(const void* const* in, void* const* out, void* scratch) const override {
    auto& f = this->f_;
    parallel(this->chunks_, [&](int64_t chunk) {
      T *p = static_cast<T*>(scratch) + chunk * each(), *panel = p + kQueries * f.s;
      for (int64_t task = this->tasks_ * chunk / this->chunks_; task < this->tasks_ * (chunk + 1) / this->chunks_; ++task) {
        int64_t m = task / this->blocks_, first = task % this->blocks_ * kQueries, last = std::min(f.t, first + kQueries);
        this->weigh(m, first, last, in, p, panel);
        T* y = static_cast<T*>(out[0]) + (m * f.t + first) * f.e;
        multiply<T>({p, f.s, 1}, this->of(f.v, in[2], m), last - first, f.s, f.e, panel, this->into(y, f.e));
      }
    });
  }

 private:
  int64_t each() const { return aligned((kQueries * this->f_.s + this->panel_) * sizeof(T)) / static_cast<int64_t>(sizeof(T)); }
};

template <class T>
class AttentionGrad : public AttentionKernel<T> {
 public:
  explicit AttentionGrad(const Attention& f) : AttentionKernel<T>(f, 1) {}

  int64_t scratch_bytes() const override { return this->chunks_ * each() * static_cast<int64_t>(sizeof(T)); }

  void run(const void* const* in, void* const* out, void* scratch) const override {
    auto& f = this->f_;
    int64_t t = f.t, s = f.s;
    T scale = static_cast<T>(f.scale);
    bool by_mask = !f.mask.offsets.empty() && f.mask_dtype != DType::Bool;
    parallel(this->chunks_, [&](int64_t chunk) {
      T *p = static_cast<T*>(scratch) + chunk * each(), *by_scores = p + t * s, *panel = by_scores + t * s;
      for (int64_t m = this->tasks_ * chunk / this->chunks_; m < this->tasks_ * (chunk + 1) / this->chunks_; ++m) {
        auto g = Matrix<const T>{static_cast<const T*>(in[0]) + m * t * f.e, f.e, 1};
        auto q = this->of(f.q, in[1], m), k = this->of(f.k, in[2], m), v = this->of(f.v, in[3], m);
        this->weigh(m, 0, t, in + 1, p, panel);
        multiply<T>(g, {v.data, v.column, v.row}, t, f.e, s, panel, this->into(by_scores, s));
        for (int64_t i = 0; i < t; ++i) {
          T *row = by_scores + i * s, *weights = p + i * s, total = 0;
#pragma omp simd reduction(+ : total)
          for (int64_t j = 0; j < s; ++j) total += row[j] * weights[j];
#pragma GCC ivdep
          for (int64_t j = 0; j < s; ++j) row[j] = weights[j] * (row[j] - total);
        }
        auto at = [&](int i, int64_t size) { return static_cast<T*>(out[i]) + m * size; };
        multiply<T>({by_scores, s, 1}, k, t, s, f.d, panel, this->into(at(0, t * f.d), f.d, scale));
        multiply<T>({by_scores, 1, s}, q, s, t, f.d, panel, this->into(at(1, s * f.d), f.d, scale));
        multiply<T>({p, 1, s}, g, s, t, f.e, panel, this->into(at(2, s * f.e), f.e));
        if (by_mask) std::copy_n(by_scores, t * s, at(3, t * s));
      }
    });
  }

 private:
  int64_t each() const {
    return aligned((2 * this->f_.t * this->f_.s + this->panel_) * sizeof(T)) / static_cast<int64_t>(sizeof(T));
  }
};

}  // namespace

std::unique_ptr<Kernel> make_attention(DType dtype, const Attention& form) {
  if (dtype == DType::Float64) return std::make_unique<AttentionForward<double>>(form);
  return std::make_unique<AttentionForward<float>>(form);
}

std::unique_ptr<Kernel> make_attention_grad(DType dtype, const Attention& form) {
  if (dtype == DType::Float64) return std::make_unique<AttentionGrad<double>>(form);
  return std::make_unique<AttentionGrad<float>>(form);
}

}  // namespace needle
