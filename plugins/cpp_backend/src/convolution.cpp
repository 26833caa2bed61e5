#include "convolution.h"

#include <algorithm>
#include <cstring>

#include "onednn.h"
#include "threads.h"

namespace needle {
namespace {

using Form = dnnl::memory::desc;

enum class Pass { Forward, ByInput, ByWeight };

// -- by oneDNN --------------------------------------------------------------------------------------------------------------

// Images as oneDNN counts axes, channels before the spatial ones, in the memory order that they have here.
Form image_form(int64_t n, int64_t c, const Sizes& s) {
  Sizes dims{n, c}, strides{product(s) * c, 1};
  int64_t step = product(s) * c;
  for (int64_t size : s) {
    step /= std::max<int64_t>(size, 1);
    dims.push_back(size), strides.push_back(step);
  }
  return Form(dims, dnnl::memory::data_type::f32, strides);
}

Sizes weight_dims(const Convolution& f) {
  Sizes dims;
  if (f.groups > 1) dims.push_back(f.groups);
  dims.push_back(f.o / f.groups), dims.push_back(f.c / f.groups);
  dims.insert(dims.end(), f.sliding.size.begin(), f.sliding.size.end());
  return dims;
}

Form weight_form(const Convolution& f) {
  int64_t each = f.c / f.groups, one = product(f.sliding.size) * each, step = one;
  Sizes strides;
  if (f.groups > 1) strides.push_back(f.o / f.groups * one);
  strides.push_back(one), strides.push_back(1);
  for (int64_t size : f.sliding.size) strides.push_back(step /= size);
  return Form(weight_dims(f), dnnl::memory::data_type::f32, strides);
}

// The same convolution without the elements at the ends of the window that never meet the image but only what pads it; first[a]
// is then the first element that is left of axis a. Where images are smaller than windows, these are most of all.
Convolution trimmed(const Convolution& f, Sizes& first) {
  Convolution found = f;
  first.assign(f.s.size(), 0);
  for (size_t a = 0; a < f.s.size(); ++a) {
    int64_t size = f.sliding.size[a], dilation = f.sliding.dilation[a], low = size, high = -1;
    for (int64_t k = 0; k < size; ++k) {
      int64_t at = k * dilation - f.sliding.before[a], stride = f.sliding.stride[a];
      int64_t place = at < 0 ? (stride - 1 - at) / stride : 0;  // the first that has this element not before the image
      if (place < f.t[a] && at + place * stride < f.s[a]) low = std::min(low, k), high = k;
    }
    int64_t before = f.sliding.before[a] - low * dilation, after = f.sliding.after[a] - (size - 1 - high) * dilation;
    if (high < 0 || before < 0 || after < 0) continue;
    first[a] = low;
    found.sliding.size[a] = high - low + 1, found.sliding.before[a] = before, found.sliding.after[a] = after;
  }
  return found;
}

class FastConvolution : public Kernel {
 public:
  FastConvolution(const Convolution& whole, Pass pass) : pass_(pass) {
    using dnnl::algorithm;
    auto any = dnnl::memory::format_tag::any;
    Sizes first;
    Convolution f = trimmed(whole, first);
    x_ = image_form(f.n, f.c, f.s), y_ = image_form(f.n, f.o, f.t), weight_ = weight_form(whole);
    Sizes dims = weight_dims(f), offsets(dims.size() - first.size(), 0);
    if (dims != weight_dims(whole)) {
      if (pass == Pass::ByWeight) zeros_ = static_cast<int64_t>(weight_.get_size());
      offsets.insert(offsets.end(), first.begin(), first.end());
      weight_ = weight_.submemory_desc(dims, offsets);
    }
    Form free(weight_dims(f), dnnl::memory::data_type::f32, any);
    Sizes dilation = f.sliding.dilation;
    for (int64_t& d : dilation) --d;
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    dnnl::convolution_forward::primitive_desc forward(engine(), dnnl::prop_kind::forward_training,
                                                      algorithm::convolution_direct, x_, free, y_, f.sliding.stride, dilation,
                                                      f.sliding.before, f.sliding.after, attributes);
    if (pass == Pass::Forward) {
      chosen_ = forward.weights_desc(), scratchpad_ = forward.scratchpad_desc();
      primitive_ = dnnl::convolution_forward(forward);
    } else if (pass == Pass::ByInput) {
      dnnl::convolution_backward_data::primitive_desc back(engine(), algorithm::convolution_direct, x_, free, y_,
                                                           f.sliding.stride, dilation, f.sliding.before, f.sliding.after,
                                                           forward, attributes);
      chosen_ = back.weights_desc(), scratchpad_ = back.scratchpad_desc();
      primitive_ = dnnl::convolution_backward_data(back);
    } else {
      dnnl::convolution_backward_weights::primitive_desc back(engine(), algorithm::convolution_direct, x_, free, y_,
                                                              f.sliding.stride, dilation, f.sliding.before, f.sliding.after,
                                                              forward, attributes);
      chosen_ = back.diff_weights_desc(), scratchpad_ = back.scratchpad_desc();
      primitive_ = dnnl::convolution_backward_weights(back);
    }
    if (chosen_ != weight_) {
      const Form &from = pass == Pass::ByWeight ? chosen_ : weight_, &to = pass == Pass::ByWeight ? weight_ : chosen_;
      reorder_ = dnnl::reorder(dnnl::reorder::primitive_desc(engine(), from, engine(), to));
      own_ = aligned(static_cast<int64_t>(chosen_.get_size()));
    }
  }

  int64_t scratch_bytes() const override { return own_ + static_cast<int64_t>(scratchpad_.get_size()); }

  void run(const void* const* in, void* const* out, void* scratch) const override {
    auto pad = memory_of(scratchpad_, static_cast<char*>(scratch) + own_);
    const void* weights = pass_ == Pass::ByWeight ? out[0] : in[1];
    auto given = memory_of(weight_, weights), used = own_ ? memory_of(chosen_, scratch) : given;
    auto& s = stream();
    if (own_ && pass_ != Pass::ByWeight) reorder_.execute(s, {{DNNL_ARG_FROM, given}, {DNNL_ARG_TO, used}});
    if (pass_ == Pass::Forward) {
      primitive_.execute(s, {{DNNL_ARG_SRC, memory_of(x_, in[0])},
                             {DNNL_ARG_WEIGHTS, used},
                             {DNNL_ARG_DST, memory_of(y_, out[0])},
                             {DNNL_ARG_SCRATCHPAD, pad}});
    } else if (pass_ == Pass::ByInput) {
      primitive_.execute(s, {{DNNL_ARG_DIFF_DST, memory_of(y_, in[0])},
                             {DNNL_ARG_WEIGHTS, used},
                             {DNNL_ARG_DIFF_SRC, memory_of(x_, out[0])},
                             {DNNL_ARG_SCRATCHPAD, pad}});
    } else {
      std::memset(out[0], 0, zeros_);
      primitive_.execute(s, {{DNNL_ARG_DIFF_DST, memory_of(y_, in[0])},
                             {DNNL_ARG_SRC, memory_of(x_, in[1])},
                             {DNNL_ARG_DIFF_WEIGHTS, used},
                             {DNNL_ARG_SCRATCHPAD, pad}});
      if (own_) reorder_.execute(s, {{DNNL_ARG_FROM, used}, {DNNL_ARG_TO, given}});
    }
    s.wait();
  }

 private:
  Pass pass_;
  Form x_, y_, weight_, chosen_, scratchpad_;
  dnnl::primitive primitive_;
  dnnl::reorder reorder_;
  int64_t own_ = 0, zeros_ = 0;  // bytes of weights in oneDNN's layout; and of gradients of weights that never meet the image
};

// -- by loops ---------------------------------------------------------------------------------------------------------------

template <class T>
class PlainConvolution : public Kernel {
 public:
  PlainConvolution(const Convolution& f, Pass pass) : f_(f), pass_(pass), w_(windows_of(f.s, f.t, f.sliding)) {}

  void run(const void* const* in, void* const* out, void*) const override {
    auto *a = static_cast<const T*>(in[0]), *b = static_cast<const T*>(in[1]);
    auto* y = static_cast<T*>(out[0]);
    int64_t each = f_.c / f_.groups;
    if (pass_ == Pass::ByWeight) {  // in parts of the channels that are made
      parallel_ranges(f_.o, f_.n * w_.places * w_.window * each, [&](int64_t first, int64_t last) {
        std::fill(y + first * w_.window * each, y + last * w_.window * each, T(0));
        for (int64_t sample = 0; sample < f_.n; ++sample) go(sample, first, last, b, y, a);
      });
      return;
    }
    const T *x = pass_ == Pass::Forward ? a : y, *g = pass_ == Pass::Forward ? y : a;
    int64_t length = pass_ == Pass::Forward ? w_.places * f_.o : w_.image * f_.c;
    parallel_ranges(f_.n, w_.places * w_.window * f_.o * each, [&](int64_t first, int64_t last) {
      for (int64_t sample = first; sample < last; ++sample) {
        std::fill_n(y + sample * length, length, T(0));
        go(sample, 0, f_.o, x, b, g);
      }
    });
  }

 private:
  // Goes through all products of one sample that a channel of first ... last - 1 takes part in, and adds each where it belongs.
  void go(int64_t sample, int64_t first, int64_t last, const T* x, const T* weight, const T* y) const {
    int64_t each = f_.c / f_.groups;
    for (int64_t place = 0; place < w_.places; ++place) {
      for (int64_t o = first; o < last; ++o) {
        int64_t at = (sample * w_.places + place) * f_.o + o, channel = o / (f_.o / f_.groups) * each;
        T total = 0;
        for (int64_t i = w_.first[place]; i < w_.first[place + 1]; ++i) {
          auto [element, image] = w_.elements[i];
          const T* u = x + (sample * w_.image + image) * f_.c + channel;
          const T* v = weight + (o * w_.window + element) * each;
          if (pass_ == Pass::Forward) {
            for (int64_t j = 0; j < each; ++j) total += u[j] * v[j];
          } else if (pass_ == Pass::ByInput) {
            for (int64_t j = 0; j < each; ++j) const_cast<T*>(u)[j] += y[at] * v[j];
          } else {
            for (int64_t j = 0; j < each; ++j) const_cast<T*>(v)[j] += y[at] * u[j];
          }
        }
        if (pass_ == Pass::Forward) const_cast<T*>(y)[at] = total;
      }
    }
  }

  Convolution f_;
  Pass pass_;
  Windows w_;
};

std::unique_ptr<Kernel> make(DType dtype, const Convolution& f, Pass pass) {
  bool empty = !(f.n && f.c && f.o && product(f.s) && product(f.t));
  if (dtype == DType::Float32 && !empty && f.s.size() <= 3) {
    try {
      return std::make_unique<ByThreads>([=] { return std::make_unique<FastConvolution>(f, pass); });
    } catch (const dnnl::error& cause) {  // it has no kernel for such a form, as for windows that leave the image
      if (cause.status != dnnl_unimplemented && cause.status != dnnl_invalid_arguments) throw;
    }
  }
  if (dtype == DType::Float64) return std::make_unique<PlainConvolution<double>>(f, pass);
  return std::make_unique<PlainConvolution<float>>(f, pass);
}

}  // namespace

std::unique_ptr<Kernel> make_conv(DType dtype, const Convolution& form) { return make(dtype, form, Pass::Forward); }

std::unique_ptr<Kernel> make_conv_transpose(DType dtype, const Convolution& form) { return make(dtype, form, Pass::ByInput); }

std::unique_ptr<Kernel> make_conv_weight_grad(DType dtype, const Convolution& form) {
  return make(dtype, form, Pass::ByWeight);
}

}  // namespace needle
