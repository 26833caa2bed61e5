// Matrix products, by oneDNN; of integers by loops.
#pragma once

#include <memory>

#include "types.h"

namespace needle {

// y = a b, a (*s, m, k), b (*s, k, n), y (*s, m, n): s is broadcast. A matrix that is transposed lies as its transpose, row
// after row. With a bias (n), y = a b + bias.
std::unique_ptr<Kernel> make_product(DType dtype, const Sizes& a, const Sizes& b, bool transpose_a, bool transpose_b,
                                     bool bias);

}  // namespace needle
