// Convolutions of images (n, *s, c) with weights (o, *k, c / groups), by oneDNN where it has them, else by loops.
#pragma once

#include <memory>

#include "windows.h"

namespace needle {

// Sizes of a convolution from images with s elements along each axis and c channels to t and o.
struct Convolution {
  int64_t n, c, o, groups;
  Sizes s, t;
  Sliding sliding;
};

// y (n, *t, o) of x and weight.
std::unique_ptr<Kernel> make_conv(DType dtype, const Convolution& form);

// The gradient for x, (n, *s, c), of g (n, *t, o) and weight.
std::unique_ptr<Kernel> make_conv_transpose(DType dtype, const Convolution& form);

// The gradient for weight of g and x.
std::unique_ptr<Kernel> make_conv_weight_grad(DType dtype, const Convolution& form);

}  // namespace needle
