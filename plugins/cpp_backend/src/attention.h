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
  Matrices y;              // the result, and its gradient
  Matrices dq, dk, dv;
  DType mask_dtype;  // bool: where a query may look; floating: added to the scores
  bool causal;
  double scale;
};

// y of q, k, v, and a mask.
std::unique_ptr<Kernel> make_attention(DType dtype, const Attention& form);

// dq, dk, dv, and, row after row, the gradient for a floating mask (m, t, s); of g, which lies as y does, q, k, v, and a mask.
std::unique_ptr<Kernel> make_attention_grad(DType dtype, const Attention& form);

}  // namespace needle
