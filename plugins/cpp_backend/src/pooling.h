// Pooling over windows of images (n, *s, c).
#pragma once

#include <memory>

#include "windows.h"

namespace needle {

// y (n, *t, c): the greatest element of each window; nan if one is nan.
std::unique_ptr<Kernel> make_max_pool(DType dtype, int64_t n, const Sizes& s, const Sizes& t, int64_t c,
                                      const Sliding& sliding);

// From g (n, *t, c) and x: each window's gradient goes to its greatest elements in equal shares.
std::unique_ptr<Kernel> make_max_pool_grad(DType dtype, int64_t n, const Sizes& s, const Sizes& t, int64_t c,
                                           const Sliding& sliding);

// The mean of each window, of all its elements or of those in the image.
std::unique_ptr<Kernel> make_avg_pool(DType dtype, int64_t n, const Sizes& s, const Sizes& t, int64_t c, const Sliding& sliding,
                                      bool count_padding);

// From g (n, *t, c).
std::unique_ptr<Kernel> make_avg_pool_grad(DType dtype, int64_t n, const Sizes& s, const Sizes& t, int64_t c,
                                           const Sliding& sliding, bool count_padding);

}  // namespace needle
