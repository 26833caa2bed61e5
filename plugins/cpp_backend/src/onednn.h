// What kernels by oneDNN share.
#pragma once

#include <dnnl.hpp>

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

}  // namespace needle
