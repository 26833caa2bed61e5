// Elementwise ops on tiles: a few hundred elements that lie in the first cache.
//
// In tiles bools are bytes, and half precision is float32 with values of the half.
#pragma once

#include <string>

#include "types.h"

namespace needle {

// y[i] = op(x[0][i], x[1][i], ...) for n elements; y may be one of x. `first` is the place of element 0 in its array.
using Apply = void (*)(void* y, const void* const* x, int64_t n, int64_t first);

// The dtype of a register's elements in a tile.
inline DType in_tile(DType dtype) { return is_half(dtype) ? DType::Float32 : dtype; }

// The function of op `name` on operands of the dtype `from`, the last operand's, that gives `to`. Throws if there is none.
Apply elementwise(const std::string& name, DType from, DType to);

// Rounds a float32 tile to the half dtype, in place: x[0] is y.
Apply rounding(DType half);

// Whether the ops of elementwise() include `name`.
bool has_elementwise(const std::string& name);

// n elements of `dtype`, `step` elements apart, as a tile; and a tile as n elements side by side.
void load(DType dtype, void* tile, const void* array, int64_t step, int64_t n);
void store(DType dtype, void* array, const void* tile, int64_t step, int64_t n);

}  // namespace needle
