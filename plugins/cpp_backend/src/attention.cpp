#include "attention.h"

#include <algorithm>
#include <vector>

#include "functions.h"
#include "small_product.h"
#include "threads.h"

namespace needle {
namespace {

constexpr int64_t kBlock = 2 * kTileRows;  // queries, or keys, whose products are made together

template <class T>
class AttentionKernel : public Kernel {
 public:
  // `blocks` of queries make a task each, with `each` elements of memory.
  AttentionKernel(const Attention& form, int64_t blocks, int64_t each) : f_(form), blocks_(blocks) {
    matrices_ = static_cast<int64_t>(f_.q.offsets.size());
    tasks_ = matrices_ * blocks_;
    chunks_ = parts(tasks_, (f_.t / blocks_ + 1) * f_.s * (f_.d + f_.e) / 4);
    width_ = padded(f_.s);
    panel_ = panel_size<T>(std::max({f_.t, f_.s, f_.d, f_.e}));
    each_ = aligned((each + panel_) * static_cast<int64_t>(sizeof(T))) / static_cast<int64_t>(sizeof(T));
  }

  int64_t scratch_bytes() const override { return chunks_ * each_ * static_cast<int64_t>(sizeof(T)); }

 protected:
  // Calls f(task, memory) for all tasks.
  template <class F>
  void each_task(void* scratch, F f) const {
    parallel(chunks_, [&](int64_t chunk) {
      T* memory = static_cast<T*>(scratch) + chunk * each_;
      for (int64_t task = tasks_ * chunk / chunks_; task < tasks_ * (chunk + 1) / chunks_; ++task) f(task, memory);
    });
  }

  // Elements of a row of n that is filled up to whole vectors.
  static int64_t padded(int64_t n) { return (n + kLanes<T> - 1) / kLanes<T> * kLanes<T>; }

  // What products may leave out: queries give weights of 0 to the keys ahead of them, unless these are all to be multiplied.
  struct Reach {
    int64_t t, s;
    bool all;

    // How many keys query i may look at. They are the first.
    int64_t seen(int64_t i) const { return all ? s : std::clamp<int64_t>(i + 1 + s - t, 0, s); }

    // The first query that may look at key j.
    int64_t first_seeing(int64_t j) const { return all ? 0 : std::clamp<int64_t>(j + t - s, 0, t); }
  };

  Reach reach(bool all) const { return {f_.t, f_.s, all || !f_.causal}; }

  // Whether 0 times each element is 0, so that what has a weight of 0 may be left out.
  static bool is_finite(Matrix<const T> x, int64_t rows, int64_t columns) {
    typename Vector<T>::type zeros{};
    T rest = 0;
    for (int64_t i = 0; i < rows; ++i) {
      const T* row = x.data + i * x.row;
      int64_t j = 0;
      for (; x.column == 1 && j + kLanes<T> <= columns; j += kLanes<T>) zeros += read<typename Vector<T>::type>(row + j) * 0;
      for (; j < columns; ++j) rest += row[j * x.column] * 0;
    }
    for (int lane = 0; lane < kLanes<T>; ++lane) rest += zeros[lane];
    return rest == 0;
  }

  static Matrix<const T> of(const Matrices& matrices, const void* data, int64_t m) {
    return {static_cast<const T*>(data) + matrices.offsets[m], matrices.row, matrices.column};
  }

  // What multiply() calls to write its result, times a factor.
  static auto into(const Matrices& matrices, void* data, int64_t m, int64_t first, T factor) {
    T* y = static_cast<T*>(data) + matrices.offsets[m] + first * matrices.row;
    return [=, row = matrices.row, column = matrices.column](int64_t i, int64_t j, int64_t count, const T* sums) {
      if (column == 1) {
        for (int64_t c = 0; c < count; ++c) y[i * row + j + c] = sums[c] * factor;
      } else {
        for (int64_t c = 0; c < count; ++c) y[i * row + (j + c) * column] = sums[c] * factor;
      }
    };
  }

  // x (s, width) as (width, s), rows filled up with zeros.
  void transpose(Matrix<const T> x, int64_t width, T* y) const {
    for (int64_t p = 0; p < width; ++p) {
      for (int64_t j = 0; j < f_.s; ++j) y[p * width_ + j] = x.data[j * x.row + p * x.column];
      std::fill(y + p * width_ + f_.s, y + (p + 1) * width_, T(0));
    }
  }

  // The product of rows first ... last - 1 of x (t, width) with `turned` (width, s) into y, whose first row is that of `first`.
  // What lies ahead of all queries of a block is left out.
  void multiply_seen(Reach reach, Matrix<const T> x, const T* turned, int64_t first, int64_t last, int64_t width, T factor,
                     T* y, T* panel) const {
    for (int64_t i = first; i < last; i += kBlock) {
      int64_t count = std::min(kBlock, last - i);
      T* rows = y + (i - first) * width_;
      multiply<T>(x.from(i, 0), {turned, width_, 1}, count, width, padded(reach.seen(i + count - 1)), panel,
                  [&](int64_t r, int64_t j, int64_t n, const T* sums) {
                    for (int64_t c = 0; c < n; ++c) rows[r * width_ + j + c] = sums[c] * factor;
                  });
    }
  }

  // The product of rows first ... last - 1 of p (t, s), which begins with row `first`, with x (s, n).
  template <class F>
  void gather_seen(Reach reach, const T* p, Matrix<const T> x, int64_t first, int64_t last, int64_t n, T* panel,
                   F finish) const {
    for (int64_t i = first; i < last; i += kBlock) {
      int64_t count = std::min(kBlock, last - i), at = i - first;
      multiply<T>({p + at * width_, width_, 1}, x, count, reach.seen(i + count - 1), n, panel,
                  [&](int64_t r, int64_t j, int64_t m, const T* sums) { finish(at + r, j, m, sums); });
    }
  }

  // The product of p (t, s), transposed, with x (t, n).
  template <class F>
  void scatter_seen(Reach reach, const T* p, Matrix<const T> x, int64_t n, T* panel, F finish) const {
    for (int64_t j = 0; j < f_.s; j += kBlock) {
      int64_t count = std::min(kBlock, f_.s - j), i = reach.first_seeing(j);
      multiply<T>({p + i * width_ + j, 1, width_}, x.from(i, 0), count, f_.t - i, n, panel,
                  [&](int64_t r, int64_t c, int64_t m, const T* sums) { finish(j + r, c, m, sums); });
    }
  }

  // Weights of the queries first ... last - 1 of matrix m, row after row; `keys` are those of the matrix, transposed.
  // Whether all are numbers.
  bool weigh(int64_t m, int64_t first, int64_t last, const void* q, const void* mask, const T* keys, T* p, T* panel) const {
    auto reach = this->reach(false);
    bool are_numbers = true;
    multiply_seen(reach, of(f_.q, q, m), keys, first, last, f_.d, static_cast<T>(f_.scale), p, panel);
    for (int64_t i = first; i < last; ++i) {
      T* row = p + (i - first) * width_;
      int64_t n = reach.seen(i), whole = padded(n);
      if (!f_.mask.offsets.empty()) put_mask(m, i, n, mask, row);
      std::fill(row + n, row + whole, -kInfinity<T>);
      T top = greatest_of(row, whole);
      bool blind = (f_.causal || !f_.mask.offsets.empty()) && top == -kInfinity<T>;  // a query that may look at no key
      top = blind ? T(0) : top;
      exp_from(row, top, row, whole);
      T total = sum_of(row, whole), factor = blind && total == 0 ? T(0) : 1 / total;
      for (int64_t j = 0; j < whole; ++j) row[j] *= factor;
      std::fill(row + whole, row + width_, 0 * factor);
      are_numbers &= factor == factor;
    }
    return are_numbers;
  }

  void put_mask(int64_t m, int64_t i, int64_t n, const void* mask, T* row) const {
    int64_t at = f_.mask.offsets[m] + i * f_.mask.row, step = f_.mask.column;
    if (f_.mask_dtype == DType::Bool) {
      auto* may = static_cast<const bool*>(mask) + at;
      for (int64_t j = 0; j < n; ++j) row[j] = may[j * step] ? row[j] : -kInfinity<T>;
    } else {
      auto* more = static_cast<const T*>(mask) + at;
      for (int64_t j = 0; j < n; ++j) row[j] += more[j * step];
    }
  }

  Attention f_;
  int64_t blocks_, matrices_, tasks_, chunks_, width_, panel_, each_;  // rows of scores are width_ elements apart
};

template <class T>
class AttentionForward : public AttentionKernel<T> {
 public:
  static constexpr int64_t kQueries = 64;

  explicit AttentionForward(const Attention& f)
      : AttentionKernel<T>(f, std::max<int64_t>(1, (f.t + kQueries - 1) / kQueries),
                           AttentionKernel<T>::padded(f.s) * (kQueries + f.d)) {}

  void run(const void* const* in, void* const* out, void* scratch) const override {
    auto& f = this->f_;
    const void* mask = f.mask.offsets.empty() ? nullptr : in[3];
    this->each_task(scratch, [&](int64_t task, T* p) {
      int64_t m = task / this->blocks_, first = task % this->blocks_ * kQueries, last = std::min(f.t, first + kQueries);
      T *keys = p + kQueries * this->width_, *panel = keys + f.d * this->width_;
      this->transpose(this->of(f.k, in[1], m), f.d, keys);
      bool are_numbers = this->weigh(m, first, last, in[0], mask, keys, p, panel);
      auto v = this->of(f.v, in[2], m);
      auto reach = this->reach(!(are_numbers && this->is_finite(v, f.s, f.e)));
      this->gather_seen(reach, p, v, first, last, f.e, panel, this->into(f.y, out[0], m, first, 1));
    });
  }
};

template <class T>
class AttentionGrad : public AttentionKernel<T> {
 public:
  explicit AttentionGrad(const Attention& f)
      : AttentionKernel<T>(f, 1, AttentionKernel<T>::padded(f.s) * (2 * f.t + std::max(f.d, f.e))) {}

  void run(const void* const* in, void* const* out, void* scratch) const override {
    auto& f = this->f_;
    int64_t t = f.t, s = f.s, width = this->width_;
    T scale = static_cast<T>(f.scale);
    bool masked = !f.mask.offsets.empty(), by_mask = masked && f.mask_dtype != DType::Bool;
    this->each_task(scratch, [&](int64_t m, T* p) {
      T *by_scores = p + t * width, *turned = by_scores + t * width, *panel = turned + std::max(f.d, f.e) * width;
      auto g = this->of(f.y, in[0], m), q = this->of(f.q, in[1], m), k = this->of(f.k, in[2], m), v = this->of(f.v, in[3], m);
      this->transpose(k, f.d, turned);
      bool are_numbers = this->weigh(m, 0, t, in[1], masked ? in[4] : nullptr, turned, p, panel);
      auto reach = this->reach(!(are_numbers && this->is_finite(g, t, f.e) && this->is_finite(q, t, f.d) &&
                                 this->is_finite(k, s, f.d) && this->is_finite(v, s, f.e)));
      this->transpose(v, f.e, turned);
      this->multiply_seen(reach, g, turned, 0, t, f.e, 1, by_scores, panel);
      for (int64_t i = 0; i < t; ++i) {
        T *row = by_scores + i * width, *weights = p + i * width;
        int64_t n = this->padded(reach.seen(i));  // behind the keys that it sees weights are 0
        T total = sum_over<T>(n, [=](int64_t j, auto v) {
          using V = decltype(v);
          return read<V>(row + j) * read<V>(weights + j);
        });
#pragma GCC ivdep
        for (int64_t j = 0; j < n; ++j) row[j] = weights[j] * (row[j] - total);
        std::fill(row + n, row + width, T(0));
      }
      this->gather_seen(reach, by_scores, k, 0, t, f.d, panel, this->into(f.dq, out[0], m, 0, scale));
      this->scatter_seen(reach, by_scores, q, f.d, panel, this->into(f.dk, out[1], m, 0, scale));
      this->scatter_seen(reach, p, g, f.e, panel, this->into(f.dv, out[2], m, 0, 1));
      if (!by_mask) return;
      for (int64_t i = 0; i < t; ++i) std::copy_n(by_scores + i * width, s, static_cast<T*>(out[3]) + (m * t + i) * s);
    });
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
