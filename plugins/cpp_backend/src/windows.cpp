#include "windows.h"

namespace needle {

Windows windows_of(const Sizes& image, const Sizes& places, const Sliding& sliding) {
  Windows found;
  found.image = product(image), found.places = product(places), found.window = product(sliding.size);
  size_t axes = image.size();
  found.first.reserve(found.places + 1);  // fails before much time is spent
  found.first.push_back(0);
  for (int64_t place = 0; place < found.places; ++place) {
    for (int64_t element = 0; element < found.window; ++element) {
      int64_t p = place, e = element, at = 0, step = 1;
      bool inside = true;
      for (size_t axis = axes; axis-- > 0;) {
        int64_t i =
            p % places[axis] * sliding.stride[axis] + e % sliding.size[axis] * sliding.dilation[axis] - sliding.before[axis];
        inside = inside && i >= 0 && i < image[axis];
        at += i * step;
        step *= image[axis];
        p /= places[axis];
        e /= sliding.size[axis];
      }
      if (inside) found.elements.push_back({element, at});
    }
    found.first.push_back(static_cast<int64_t>(found.elements.size()));
  }
  return found;
}

}  // namespace needle
