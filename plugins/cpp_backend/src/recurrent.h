// What goes step by step in a recurrent network: t steps, n samples, d units. Products over whole sequences are done before and
// after. One team of threads goes through all steps, each with units of its own, so that its weights stay in its cache.
#pragma once

#include <memory>

#include "types.h"

namespace needle {

// y and c (t, n, d) of a (t, n, 4d), which is x @ w_ih + bias, the first h and c (n, d), and w_hh (d, 4d).
std::unique_ptr<Kernel> make_lstm(DType dtype, int64_t t, int64_t n, int64_t d, bool reverse);

// The gradients da (t, n, 4d), and those of the first h and c, of gy, gc and c (t, n, d), the first c (n, d), a and b (t, n,
// 4d), which is the h before each step @ w_hh, and the transpose of w_hh (4d, d).
std::unique_ptr<Kernel> make_lstm_grad(DType dtype, int64_t t, int64_t n, int64_t d, bool reverse);

// y (t, n, d) of a (t, n, 3d), which is x @ w_ih + b_ih, the first h (n, d), w_hh (d, 3d) and b_hh (3d).
std::unique_ptr<Kernel> make_gru(DType dtype, int64_t t, int64_t n, int64_t d, bool reverse);

// The gradients da and db (t, n, 3d), and that of the first h, of g (t, n, d), the h before each step (t, n, d), a and b (t, n,
// 3d), which is this h @ w_hh + b_hh, and the transpose of w_hh (3d, d).
std::unique_ptr<Kernel> make_gru_grad(DType dtype, int64_t t, int64_t n, int64_t d, bool reverse);

}  // namespace needle
