// Half precision for kernels that know float32 alone.
#pragma once

#include <memory>

#include "types.h"

namespace needle {

struct Spec {
  Sizes shape;
  DType dtype;
};

// A kernel for arrays of these specs by one for float32 in place of half precision: inputs are copied, results rounded.
std::unique_ptr<Kernel> make_widened(std::shared_ptr<const Kernel> kernel, std::vector<Spec> inputs, std::vector<Spec> outputs);

}  // namespace needle
