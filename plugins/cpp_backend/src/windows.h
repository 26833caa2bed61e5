// Windows over images: what convolution and pooling have in common.
#pragma once

#include "types.h"

namespace needle {

// How windows of `size` elements, `dilation` apart, move over an image in its padding, `stride` at a time.
struct Sliding {
  Sizes size, stride, before, after, dilation;
};

// For each place of the window the elements of it that are inside the image, and which elements of the image they are, both
// counted in row-major order.
struct Windows {
  struct Element {
    int64_t window, image;
  };
  std::vector<int64_t> first;  // of each place, and the end
  std::vector<Element> elements;
  int64_t image = 1, places = 1, window = 1;  // how many elements, or places
};

// Where the window is in an image of the given sizes, with `places` along each axis.
Windows windows_of(const Sizes& image, const Sizes& places, const Sliding& sliding);

}  // namespace needle
