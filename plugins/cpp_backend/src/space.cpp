#include "space.h"

namespace needle {

int64_t Space::period(const Sizes& steps) const {
  int64_t step = 1;
  size_t axis = shape.size();
  for (; axis > 0 && steps[axis - 1] == step; --axis) step *= shape[axis - 1];
  return std::all_of(steps.begin(), steps.begin() + axis, [](int64_t s) { return s == 0; }) ? step : 0;
}

Space collapsed(const Sizes& shape, const std::vector<Sizes*>& steps, std::vector<bool> border) {
  Space space{{}, product(shape)};
  std::vector<Sizes> kept(steps.size());
  for (size_t axis = 0; axis < shape.size(); ++axis) {
    int64_t size = shape[axis];
    if (size == 1) {
      border[axis + 1] = border[axis + 1] || border[axis];
      continue;
    }
    bool joins = !space.shape.empty() && !border[axis];
    for (size_t k = 0; joins && k < steps.size(); ++k) joins = kept[k].back() == (*steps[k])[axis] * size;
    if (!joins) space.shape.push_back(1);
    space.shape.back() *= size;
    for (size_t k = 0; k < steps.size(); ++k) {
      if (!joins) kept[k].push_back(0);
      kept[k].back() = (*steps[k])[axis];
    }
  }
  for (size_t k = 0; k < steps.size(); ++k) *steps[k] = kept[k];
  if (space.shape.size() > Space::kMostAxes) throw std::invalid_argument("an index space has at most 64 axes");
  return space;
}

}  // namespace needle
