// Windows that slide over images: what pooling and convolution have in common. Channels come last.
#pragma once

#include "prelude.cuh"

// Along each of so many axes: an image of s elements, t places of a window of k elements, which are `apart`; a window begins
// `step` elements after the one before, the first one `before` the image.
template <class Index, int AXES>
struct Windows {
  Index s[AXES], t[AXES], k[AXES], step[AXES], before[AXES], apart[AXES];

  __device__ inline Index image() const { return product(s); }
  __device__ inline Index places() const { return product(t); }
  __device__ inline Index elements() const { return product(k); }

  // Calls f(element of the window, place in the image) for each element of the window at `place` that is inside.
  template <class F>
  __device__ inline void each_inside(Index place, F f) const {
    Index start[AXES];
    begin(place, start);
    const Index count = elements();
    for (Index element = 0; element < count; ++element) {
      const Index at = from(start, element);
      if (at >= 0) f(element, at);
    }
  }

  // The place in the image of an element of the window at `place`; less than 0 if it is not inside.
  __device__ inline Index place_of(Index place, Index element) const {
    Index start[AXES];
    begin(place, start);
    return from(start, element);
  }

  // Calls f(element of the window, place of the window) for each window that has `at` of the image.
  template <class F>
  __device__ inline void each_window(Index at, F f) const {
    Index i[AXES], first[AXES], counts[AXES], count = 1;
#pragma unroll
    for (int a = AXES - 1; a >= 0; --a) {
      i[a] = at % s[a] + before[a];
      at /= s[a];
      const Index beyond = i[a] - (k[a] - 1) * apart[a];  // the first window that reaches it begins here or later
      first[a] = beyond > 0 ? (beyond + step[a] - 1) / step[a] : 0;
      const Index last = i[a] / step[a] < t[a] ? i[a] / step[a] : t[a] - 1;
      counts[a] = last < first[a] ? 0 : last - first[a] + 1;
      count *= counts[a];
    }
    for (Index window = 0; window < count; ++window) {
      Index rest = window, element = 0, place = 0, pitch = 1, wide = 1;
      bool inside = true;
#pragma unroll
      for (int a = AXES - 1; a >= 0; --a) {
        const Index p = first[a] + rest % counts[a], distance = i[a] - p * step[a];
        inside = inside && distance % apart[a] == 0;
        element += distance / apart[a] * pitch;
        place += p * wide;
        pitch *= k[a], wide *= t[a];
        rest /= counts[a];
      }
      if (inside) f(element, place);
    }
  }

  // How many elements of the window at `place` are inside.
  __device__ inline Index count_inside(Index place) const {
    Index count = 1;
#pragma unroll
    for (int a = AXES - 1; a >= 0; --a) {
      const Index start = place % t[a] * step[a] - before[a];
      place /= t[a];
      const Index outside = start < 0 ? (-start + apart[a] - 1) / apart[a] : 0;
      const Index reach = start < s[a] ? (s[a] - start + apart[a] - 1) / apart[a] : 0;
      const Index stop = reach < k[a] ? reach : k[a];
      count *= stop < outside ? 0 : stop - outside;
    }
    return count;
  }

 private:
  __device__ inline void begin(Index place, Index (&start)[AXES]) const {
#pragma unroll
    for (int a = AXES - 1; a >= 0; --a) {
      start[a] = place % t[a] * step[a] - before[a];
      place /= t[a];
    }
  }

  __device__ inline Index from(const Index (&start)[AXES], Index element) const {
    Index at = 0, pitch = 1;
    bool inside = true;
#pragma unroll
    for (int a = AXES - 1; a >= 0; --a) {
      const Index i = start[a] + element % k[a] * apart[a];
      inside = inside && i >= 0 && i < s[a];
      at += i * pitch;
      pitch *= s[a];
      element /= k[a];
    }
    return inside ? at : -1;
  }

  static __device__ inline Index product(const Index (&sizes)[AXES]) {
    Index n = 1;
#pragma unroll
    for (int a = 0; a < AXES; ++a) n *= sizes[a];
    return n;
  }
};
