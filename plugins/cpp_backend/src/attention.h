// Attention: every matrix of the batch by one thread, its scores in the cache. Sizes: t queries, s keys and values, d and e
// wide.
#pragma once

#include <memory>

#include "types.h"

namespace needle {

// Where the matrices of an operand lie: element (i, j) of matrix m is at offsets[m] + i * row + j * column.
struct Matrices {
  std::vector<int64_t> offsets;
  int64_t row, column;
};

struct Attention {
  int64_t t, s, d, e;
  Matrices q, k, v, mask;  // without a mask, no offsets
  DType mask_dtype;        // bool: where a query may look; floating: added to the scores
  bool causal;
  double scale;
};

// y (m, t, e) of q, k, v, and a mask.
std::unique_ptr<Kernel> make_attention(DType dtype, const Attention& form);

// The gradients for q (m, t, d), k (m, s, d), v (m, s, e), and a floating mask (m, t, s), of g (m, t, e), q, k, v, and a mask.
std::unique_ptr<Kernel> make_attention_grad(DType dtype, const Attention& form);

}  // namespace needle
