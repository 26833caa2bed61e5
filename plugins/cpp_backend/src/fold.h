// Reductions of tiles.
#pragma once

#include <string>

#include "types.h"

namespace needle {

// Room for what a row has given so far, of any dtype.
struct alignas(64) RowState {
  char bytes[1024];
};

// How one reduction folds elements of a tile dtype. The order of additions depends on places in the row alone, not on the
// pieces in which it comes. Along a row float32 is summed up in float64, 4096 elements at a time.
struct Fold {
  // A row that has given nothing takes up n elements, which are at `place` and after it.
  void (*begin)(RowState& state);
  void (*row)(RowState& state, int64_t place, const void* x, int64_t n);
  // A row takes up what another one has given.
  void (*join)(RowState& state, const RowState& other);
  // The value of a row, divided by `divisor`, as an element of the tile dtype.
  void (*finish)(void* y, RowState& state, double divisor);

  // n elements of the tile dtype that have taken up nothing; accumulator[i] takes up x[i], x[i + n], ... of `count` rows, in
  // this order; and each divided by `divisor`.
  void (*clear)(void* accumulator, int64_t n);
  void (*rows)(void* accumulator, const void* x, int64_t n, int64_t count);
  void (*divide)(void* y, int64_t n, double divisor);
};

// `reduction` is sum, mean, prod, max or min.
const Fold& fold_of(const std::string& reduction, DType tile);

}  // namespace needle
