// What kernels by oneDNN share.
#pragma once

#include <cstdlib>
#include <dnnl.hpp>
#include <functional>
#include <map>
#include <memory>
#include <mutex>

#include "threads.h"
#include "types.h"

namespace needle {

inline dnnl::engine& engine() {
  static dnnl::engine made(dnnl::engine::kind::cpu, 0);
  return made;
}

inline dnnl::stream& stream() {
  thread_local dnnl::stream made(engine());
  return made;
}

inline dnnl::memory::data_type onednn_type(DType dtype) {
  switch (dtype) {
    case DType::Float16:
      return dnnl::memory::data_type::f16;
    case DType::BFloat16:
      return dnnl::memory::data_type::bf16;
    case DType::Float32:
      return dnnl::memory::data_type::f32;
    default:
      throw std::invalid_argument("oneDNN has no such dtype");
  }
}

inline dnnl::memory memory_of(const dnnl::memory::desc& form, const void* data) {
  return dnnl::memory(form, engine(), const_cast<void*>(data));
}

// A kernel that oneDNN makes for a number of threads: one for each number that it is run with. What OpenMP takes for the
// number, and oneDNN from it, belongs to each thread of Python and is set there.
class ByThreads : public Kernel {
 public:
  using Make = std::function<std::unique_ptr<Kernel>()>;

  explicit ByThreads(Make make) : make_(std::move(make)), bytes_(chosen().scratch_bytes()) {}

  int64_t scratch_bytes() const override { return bytes_; }

  void run(const void* const* in, void* const* out, void* scratch) const override {
    const Kernel& kernel = chosen();
    if (kernel.scratch_bytes() <= bytes_) return kernel.run(in, out, scratch);
    std::unique_ptr<void, decltype(&std::free)> more(std::aligned_alloc(64, aligned(kernel.scratch_bytes())), std::free);
    if (!more) throw std::bad_alloc();
    kernel.run(in, out, more.get());
  }

 private:
  const Kernel& chosen() const {
    int n = num_threads();
    if (omp_get_max_threads() != n) omp_set_num_threads(n);
    std::lock_guard<std::mutex> guard(lock_);
    auto& kernel = made_[n];
    if (!kernel) kernel = make_();
    return *kernel;
  }

  Make make_;
  mutable std::mutex lock_;
  mutable std::map<int, std::unique_ptr<Kernel>> made_;
  int64_t bytes_;
};

}  // namespace needle
