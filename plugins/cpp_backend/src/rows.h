// Softmax, cross entropy and the normalisations over rows: x (rows, n). One or two passes over a row that is in the cache.
#pragma once

#include <memory>
#include <string>

#include "types.h"

namespace needle {

// y = softmax(x), and log(softmax(x)).
std::unique_ptr<Kernel> make_softmax(DType dtype, int64_t rows, int64_t n, bool logarithm);

// From g and y = softmax(x): y (g - sum g y).
std::unique_ptr<Kernel> make_softmax_grad(DType dtype, int64_t rows, int64_t n);

// The loss of x with labels (rows); `reduction` is mean, sum or none. A label out of bounds is std::out_of_range.
std::unique_ptr<Kernel> make_cross_entropy(DType dtype, DType label, int64_t rows, int64_t n, const std::string& reduction);

// From g, a number or (rows), x and labels; `with_loss` the loss too, as a second result.
std::unique_ptr<Kernel> make_cross_entropy_grad(DType dtype, DType label, int64_t rows, int64_t n, const std::string& reduction,
                                                bool with_loss);

// y of x, weight (n) and bias (n).
std::unique_ptr<Kernel> make_layer_norm(DType dtype, int64_t rows, int64_t n, double eps);

// The gradients for x, weight and bias of g, x and weight.
std::unique_ptr<Kernel> make_layer_norm_grad(DType dtype, int64_t rows, int64_t n, double eps);

}  // namespace needle
