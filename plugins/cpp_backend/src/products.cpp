#include "products.h"

#include <algorithm>

#include "onednn.h"
#include "small_product.h"
#include "threads.h"

namespace needle {
namespace {

using Form = dnnl::memory::desc;

struct Shapes {
  Sizes batch, a, b;  // a and b with as many axes as the result
  int64_t m, k, n;
};

Shapes shapes_of(const Sizes& a, const Sizes& b, bool transpose_a, bool transpose_b) {
  Shapes s;
  size_t axes = std::max(a.size(), b.size());
  s.a.assign(axes - a.size(), 1);
  s.a.insert(s.a.end(), a.begin(), a.end());
  s.b.assign(axes - b.size(), 1);
  s.b.insert(s.b.end(), b.begin(), b.end());
  if (transpose_a) std::swap(s.a[axes - 1], s.a[axes - 2]);
  if (transpose_b) std::swap(s.b[axes - 1], s.b[axes - 2]);
  s.m = s.a[axes - 2], s.k = s.a[axes - 1], s.n = s.b[axes - 1];
  for (size_t i = 0; i + 2 < axes; ++i) s.batch.push_back(s.a[i] == 1 ? s.b[i] : s.a[i]);
  return s;
}

// Whether our own loops are faster than oneDNN, which takes 2 us to begin: for few multiplications, and where the right matrix
// can be read as it lies and the left one is given transposed, as in gradients of weights, 3 to 15 %. With AVX-512 they are
// also for more multiplications, if no side is narrow.
bool suits_loops(const Shapes& s, bool transpose_a, bool transpose_b) {
  constexpr int64_t kFew = 100000, kSome = 2000000, kMost = 1024, kNarrow = 32;
  int64_t work = s.m * s.k * s.n;
  if (work <= kFew) return true;
  if (transpose_b || !s.batch.empty() || s.k > kMost || s.n > kMost) return false;
  if (kVectorBytes < 64) return transpose_a && s.n % kLanes<float> == 0;
  if (transpose_a) return s.n >= kNarrow || s.m * s.k <= kNarrow * kMost;
  return work <= kSome && std::min({s.m, s.k, s.n}) >= kNarrow;
}

// Where the matrices of an operand begin, for each of the batch, in elements.
std::vector<int64_t> offsets(const Sizes& batch, const Sizes& operand) {
  std::vector<int64_t> found{0};
  int64_t each = operand[batch.size()] * operand[batch.size() + 1];
  std::vector<int64_t> steps(batch.size());
  for (size_t i = batch.size(); i-- > 0; each *= operand[i]) steps[i] = operand[i] == 1 ? 0 : each;
  for (size_t i = 0; i < batch.size(); ++i) {
    std::vector<int64_t> more;
    for (int64_t base : found) {
      for (int64_t j = 0; j < batch[i]; ++j) more.push_back(base + j * steps[i]);
    }
    found = std::move(more);
  }
  return found;
}

template <class T>
Matrix<const T> matrix(const void* data, int64_t offset, int64_t rows, int64_t columns, bool transposed) {
  auto* x = static_cast<const T*>(data) + offset;
  return transposed ? Matrix<const T>{x, 1, rows} : Matrix<const T>{x, columns, 1};
}

// By our own loops, a piece of one matrix's rows in each part.
template <class T>
class TiledProduct : public Kernel {
 public:
  TiledProduct(Shapes s, bool transpose_a, bool transpose_b, bool bias)
      : s_(std::move(s)), transpose_a_(transpose_a), transpose_b_(transpose_b), bias_(bias) {
    a_ = offsets(s_.batch, s_.a), b_ = offsets(s_.batch, s_.b);
    int64_t matrices = static_cast<int64_t>(a_.size()), work = s_.m * s_.k * s_.n / 8;
    pieces_ = matrices >= 16 ? 1 : std::min((s_.m + kTileRows - 1) / kTileRows, parts(16, work * matrices / 16));
    pieces_ = std::max<int64_t>(pieces_, 1);
    panel_ = aligned(panel_size<T>(s_.k) * sizeof(T));
    chunks_ = parts(matrices * pieces_, work / pieces_);
  }

  int64_t scratch_bytes() const override { return chunks_ * panel_; }

  void run(const void* const* in, void* const* out, void* scratch) const override {
    auto* bias = bias_ ? static_cast<const T*>(in[2]) : nullptr;
    int64_t m = s_.m, k = s_.k, n = s_.n, all = static_cast<int64_t>(a_.size()) * pieces_;
    int64_t height = ((m + pieces_ - 1) / pieces_ + kTileRows - 1) / kTileRows * kTileRows;
    parallel(chunks_, [&](int64_t chunk) {
      auto* panel = reinterpret_cast<T*>(static_cast<char*>(scratch) + chunk * panel_);
      for (int64_t task = all * chunk / chunks_; task < all * (chunk + 1) / chunks_; ++task) {
        int64_t i = task / pieces_, first = task % pieces_ * height, last = std::min(m, first + height);
        if (first >= last) continue;
        auto a = matrix<T>(in[0], a_[i], m, k, transpose_a_), b = matrix<T>(in[1], b_[i], k, n, transpose_b_);
        auto* y = static_cast<T*>(out[0]) + (i * m + first) * n;
        multiply<T>(a.from(first, 0), b, last - first, k, n, panel, [&](int64_t r, int64_t j, int64_t count, const T* sums) {
          for (int64_t c = 0; c < count; ++c) y[r * n + j + c] = bias ? static_cast<T>(sums[c] + bias[j + c]) : sums[c];
        });
      }
    });
  }

 private:
  Shapes s_;
  std::vector<int64_t> a_, b_;
  bool transpose_a_, transpose_b_, bias_;
  int64_t pieces_, panel_, chunks_;
};

class Product : public Kernel {
 public:
  Product(DType dtype, Shapes s, bool transpose_a, bool transpose_b, bool bias) : bias_(bias) {
    auto type = onednn_type(dtype);
    auto form = [&](const Sizes& shape, bool transposed) {
      Sizes strides(shape.size(), 1);
      size_t axes = shape.size();
      strides[axes - 2] = transposed ? 1 : shape[axes - 1];
      strides[axes - 1] = transposed ? shape[axes - 2] : 1;
      int64_t step = shape[axes - 1] * shape[axes - 2];
      for (size_t i = axes - 2; i-- > 0; step *= shape[i]) strides[i] = step;
      return Form(shape, type, strides);
    };
    Sizes y = s.batch;
    y.push_back(s.m), y.push_back(s.n);
    forms_ = {form(s.a, transpose_a), form(s.b, transpose_b), form(y, false)};
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    Sizes row(y.size(), 1);
    row.back() = s.n;
    dnnl::matmul::primitive_desc chosen =
        bias ? dnnl::matmul::primitive_desc(engine(), forms_[0], forms_[1], form(row, false), forms_[2], attributes)
             : dnnl::matmul::primitive_desc(engine(), forms_[0], forms_[1], forms_[2], attributes);
    if (bias) forms_.push_back(form(row, false));
    scratchpad_ = chosen.scratchpad_desc();
    primitive_ = dnnl::matmul(chosen);
  }

  int64_t scratch_bytes() const override { return static_cast<int64_t>(scratchpad_.get_size()); }

  void run(const void* const* in, void* const* out, void* scratch) const override {
    std::unordered_map<int, dnnl::memory> arguments{{DNNL_ARG_SRC, memory_of(forms_[0], in[0])},
                                                    {DNNL_ARG_WEIGHTS, memory_of(forms_[1], in[1])},
                                                    {DNNL_ARG_DST, memory_of(forms_[2], out[0])},
                                                    {DNNL_ARG_SCRATCHPAD, memory_of(scratchpad_, scratch)}};
    if (bias_) arguments.emplace(DNNL_ARG_BIAS, memory_of(forms_[3], in[2]));
    primitive_.execute(stream(), arguments);
    stream().wait();
  }

 private:
  std::vector<Form> forms_;
  Form scratchpad_;
  dnnl::matmul primitive_;
  bool bias_;
};

}  // namespace

std::unique_ptr<Kernel> make_product(DType dtype, const Sizes& a, const Sizes& b, bool transpose_a, bool transpose_b,
                                     bool bias) {
  Shapes s = shapes_of(a, b, transpose_a, transpose_b);
  if (!transpose_a && std::all_of(s.b.begin(), s.b.end() - 2, [](int64_t size) { return size == 1; })) {
    s.m *= product(s.batch);  // a stack of matrices times one matrix is one product
    s.batch.clear();
    s.a = {s.m, s.k}, s.b = {s.k, s.n};
  }
  if (dtype == DType::Float32 && product(s.batch) * s.m * s.k * s.n > 0 && !suits_loops(s, transpose_a, transpose_b)) {
    return std::make_unique<ByThreads>([=] { return std::make_unique<Product>(dtype, s, transpose_a, transpose_b, bias); });
  }
  std::unique_ptr<Kernel> made;
  auto make = [&](auto t) { made = std::make_unique<TiledProduct<decltype(t)>>(std::move(s), transpose_a, transpose_b, bias); };
  if (dtype == DType::Float64)
    make(double{});
  else if (dtype == DType::Float32)
    make(float{});
  else
    with_integer(dtype, make);
  return made;
}

}  // namespace needle
