#include "widened.h"

#include "elementwise.h"
#include "threads.h"

namespace needle {
namespace {

class Widened : public Kernel {
 public:
  Widened(std::shared_ptr<const Kernel> kernel, std::vector<Spec> inputs, std::vector<Spec> outputs)
      : kernel_(std::move(kernel)), inputs_(std::move(inputs)), outputs_(std::move(outputs)) {
    own_ = aligned(kernel_->scratch_bytes());
    for (const auto* specs : {&inputs_, &outputs_}) {
      for (const Spec& spec : *specs) own_ += is_half(spec.dtype) ? aligned(product(spec.shape) * 4) : 0;
    }
  }

  int64_t scratch_bytes() const override { return own_; }

  void run(const void* const* in, void* const* out, void* scratch) const override {
    char* free = static_cast<char*>(scratch) + aligned(kernel_->scratch_bytes());
    std::vector<const void*> inputs(in, in + inputs_.size());
    std::vector<void*> outputs(out, out + outputs_.size());
    auto take = [&](int64_t n) {
      char* taken = free;
      free += aligned(n * 4);
      return taken;
    };
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (!is_half(inputs_[i].dtype)) continue;
      int64_t n = product(inputs_[i].shape);
      char* wide = take(n);
      auto* narrow = static_cast<const char*>(in[i]);
      DType dtype = inputs_[i].dtype;
      parallel_ranges(n, 1, [&](int64_t a, int64_t b) { load(dtype, wide + a * 4, narrow + a * 2, 1, b - a); });
      inputs[i] = wide;
    }
    for (size_t i = 0; i < outputs.size(); ++i) {
      if (is_half(outputs_[i].dtype)) outputs[i] = take(product(outputs_[i].shape));
    }
    kernel_->run(inputs.data(), outputs.data(), scratch);
    for (size_t i = 0; i < outputs.size(); ++i) {
      if (!is_half(outputs_[i].dtype)) continue;
      auto* wide = static_cast<const char*>(outputs[i]);
      auto* narrow = static_cast<char*>(out[i]);
      DType dtype = outputs_[i].dtype;
      parallel_ranges(product(outputs_[i].shape), 1,
                      [&](int64_t a, int64_t b) { store(dtype, narrow + a * 2, wide + a * 4, 1, b - a); });
    }
  }

 private:
  std::shared_ptr<const Kernel> kernel_;
  std::vector<Spec> inputs_, outputs_;
  int64_t own_;
};

}  // namespace

std::unique_ptr<Kernel> make_widened(std::shared_ptr<const Kernel> kernel, std::vector<Spec> inputs,
                                     std::vector<Spec> outputs) {
  return std::make_unique<Widened>(std::move(kernel), std::move(inputs), std::move(outputs));
}

}  // namespace needle
