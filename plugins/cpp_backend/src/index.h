// Gathering, scattering, sorting and running sums. Arrays are seen as (outer, size, inner), the axis in question in the middle.
#pragma once

#include <memory>

#include "types.h"

namespace needle {

// y (outer, count, inner) = x[:, indices]. Inputs x, indices (count); an index out of bounds is std::out_of_range, whose
// message names `axis`.
std::unique_ptr<Kernel> make_take(DType dtype, DType index, int64_t axis, int64_t outer, int64_t size, int64_t inner,
                                  int64_t count);

// y = x with updates (outer, count, inner) added at indices; what meets in one place is added in its order. Inputs x, indices,
// updates; or indices and updates, and x is zero.
std::unique_ptr<Kernel> make_scatter_add(DType dtype, DType index, int64_t axis, int64_t outer, int64_t size, int64_t inner,
                                         int64_t count, bool from_zero);

// The int64 places that sort x along the axis; stable, and nan counts as the greatest.
std::unique_ptr<Kernel> make_argsort(DType dtype, int64_t outer, int64_t size, int64_t inner, bool descending);

// Running sums along the axis.
std::unique_ptr<Kernel> make_cumsum(DType dtype, int64_t outer, int64_t size, int64_t inner);

}  // namespace needle
