// The index space of a program: the shape over which it runs, with as few axes as its arrays allow.
#pragma once

#include <algorithm>

#include "types.h"

namespace needle {

struct Space {
  static constexpr size_t kMostAxes = 64;  // as many as an array of NumPy has

  Sizes shape;
  int64_t size;

  // After how many elements an array with these steps repeats itself, as a row does that is added to every row; 0 if it does
  // not.
  int64_t period(const Sizes& steps) const;

  // Calls f(place in the tile, element of the array, step, n) for the runs along the last axis that make up n elements from i.
  template <class F>
  void each_run(const Sizes& steps, int64_t i, int64_t n, F f) const;
};

// The space of `shape` with one axis in place of two neighbours wherever none of the `steps`, which are changed with it, tells
// them apart. border[axis] says that the axis must not be joined with the one before. Throws std::invalid_argument for too
// many.
Space collapsed(const Sizes& shape, const std::vector<Sizes*>& steps, std::vector<bool> border);

template <class F>
void Space::each_run(const Sizes& steps, int64_t i, int64_t n, F f) const {
  if (shape.empty()) return f(int64_t{0}, int64_t{0}, int64_t{0}, n);
  int64_t index[kMostAxes], element = 0, rest = i;
  for (size_t axis = shape.size(); axis-- > 0; rest /= shape[axis]) {
    index[axis] = rest % shape[axis];
    element += index[axis] * steps[axis];
  }
  size_t last = shape.size() - 1;
  for (int64_t done = 0; done < n;) {
    int64_t length = std::min(shape[last] - index[last], n - done);
    f(done, element, steps[last], length);
    done += length;
    index[last] += length;
    element += length * steps[last];
    for (size_t axis = last; axis > 0 && index[axis] == shape[axis]; --axis) {
      element += steps[axis - 1] - index[axis] * steps[axis];
      index[axis] = 0;
      ++index[axis - 1];
    }
  }
}

}  // namespace needle
