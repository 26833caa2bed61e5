// Elementary functions without branches, so that loops over them become vector code. In float64 they are those of the C
// library.
//
// Polynomials of float32 are minimax fits of our own, with errors below 1e-8 of the function.
#pragma once

#ifdef __AVX512F__
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC's own, bug 105593
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

#include <cmath>
#include <limits>

#include "lanes.h"

namespace needle {

template <class T>
constexpr T kInfinity = std::numeric_limits<T>::infinity();
template <class T>
constexpr T kNan = std::numeric_limits<T>::quiet_NaN();

// 2^n x, n in [-252, 254], rounded once.
inline float scaled(float x, float n) {
  float half = std::nearbyint(n * 0.5f);
  auto power = [](float k) { return bit_cast<float>((static_cast<int32_t>(k) + 127) << 23); };
  return x * power(half) * power(n - half);
}

// e^r - 1 for |r| <= log(2) / 2
template <class V>
V expm1_near_zero(V r) {
  V q = 1.3950476e-3f * r + 8.368882e-3f;
  q = q * r + 4.1666206e-2f;
  q = q * r + 0.16666518f;
  q = q * r + 0.5f;
  return r + r * r * q;
}

inline float exp_of(float x) {
  float z = x < -104.f ? 0.f : x > 89.f ? 89.f : x;  // nan stays; processors take their time with what underflows
  float n = std::nearbyint(z * 1.44269504f);
  float r = (z - n * 0.693359375f) + n * 2.12194440e-4f;
  n = n == n ? n : 0.f;
  float y = scaled(1.f + expm1_near_zero(r), n);
  return x > 88.722839f ? kInfinity<float> : x < -104.f ? 0.f : y;
}
inline double exp_of(double x) { return std::exp(x); }

#ifdef __AVX512F__
// The same of a vector: an instruction multiplies by powers of two at once, where loops take ten.
inline Vector<float>::type exp_of(Vector<float>::type x) {
  using V = Vector<float>::type;
  V z = _mm512_min_ps(_mm512_set1_ps(89.f), _mm512_max_ps(_mm512_set1_ps(-104.f), x));  // nan stays, being the second
  V n = _mm512_roundscale_ps(z * 1.44269504f, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  V r = (z - n * 0.693359375f) + n * 2.12194440e-4f;
  return _mm512_scalef_ps(1.f + expm1_near_zero(r), n);
}
#endif

// y = exp(x - top)
template <class T>
void exp_from(const T* x, T top, T* y, int64_t n) {
  if constexpr (kByVectors<T>) {
    for (int64_t i = 0; i < n; i += kLanes<T>) {
      int64_t count = std::min(kLanes<T>, n - i);
      write_some(y + i, exp_of(read_some(x + i, count) - top), count);
    }
  } else {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[i] = exp_of(x[i] - top);
  }
}

inline float expm1_of(float x) {
  float z = x < -18.f ? -18.f : x > 89.f ? 89.f : x;
  float n = std::nearbyint(z * 1.44269504f);
  float r = (z - n * 0.693359375f) + n * 2.12194440e-4f;
  n = n == n ? n : 0.f;
  float p = expm1_near_zero(r), s = bit_cast<float>((static_cast<int32_t>(n > 127.f ? 127.f : n) + 127) << 23);
  float y = p * s + (s - 1.f);
  y = n == 0.f ? p : y;
  y = n > 127.f ? scaled(1.f + p, n) : y;
  y = x == 0.f ? x : y;
  return x > 88.722839f ? kInfinity<float> : y;
}
inline double expm1_of(double x) { return std::expm1(x); }

// log(1 + f) for 1 + f in [sqrt(1/2), sqrt(2)]
inline float log1p_near_zero(float f) {
  float q = 0.06915368f;
  q = q * f - 0.11789808f;
  q = q * f + 0.11872976f;
  q = q * f - 0.12384348f;
  q = q * f + 0.14218658f;
  q = q * f - 0.16669251f;
  q = q * f + 0.20002227f;
  q = q * f - 0.24999987f;
  q = q * f + 0.3333331f;
  return f - f * f * 0.5f + f * f * f * q;
}

inline float log_of(float x) {
  bool tiny = x < 1.17549435e-38f;
  float z = tiny ? x * 8388608.f : x;
  int32_t bits = bit_cast<int32_t>(z);
  int32_t exponent = (bits - 0x3F3504F3) >> 23;  // so that the rest is in [sqrt(1/2), sqrt(2))
  float n = static_cast<float>(exponent) - (tiny ? 23.f : 0.f);
  float f = bit_cast<float>(bits - (exponent << 23)) - 1.f;
  float y = n * 0.693359375f + (log1p_near_zero(f) - n * 2.12194440e-4f);
  y = x == kInfinity<float> ? x : y;
  y = x == 0.f ? -kInfinity<float> : y;
  return x >= 0.f ? y : kNan<float>;
}
inline double log_of(double x) { return std::log(x); }

// What 1 + x loses of x is given back to the logarithm.
inline float log1p_of(float x) {
  float u = 1.f + x, lost = x - (u - 1.f);
  float y = log_of(u) + lost / u;
  y = u == kInfinity<float> ? u : y;
  y = u == 0.f ? -kInfinity<float> : y;
  return u == 1.f ? x : y;
}
inline double log1p_of(double x) { return std::log1p(x); }

inline float tanh_of(float x) {
  float s = x * x;
  float q = -0.005717037f;
  q = q * s + 0.020650579f;
  q = q * s - 0.053743497f;
  q = q * s + 0.13331491f;
  q = q * s - 0.33333284f;
  float near = x + x * s * q;
  float a = std::fabs(x), far = 1.f - 2.f / (exp_of(2.f * (a > 20.f ? 20.f : a)) + 1.f);
  return std::copysign(a < 0.625f ? near : a >= 0.625f ? far : x, x);
}
inline double tanh_of(double x) { return std::tanh(x); }

inline float erf_of(float x) {
  float a = std::fabs(x), s = a * a;
  float q = 7.889119e-05f;
  q = q * s - 0.0008020841f;
  q = q * s + 0.005189535f;
  q = q * s - 0.026854444f;
  q = q * s + 0.112836f;
  q = q * s - 0.37612626f;
  q = q * s + 0.12837917f;
  float t = a > 4.f ? 4.f : a;
  float p = 2.168685e-05f;
  p = p * t - 0.00044133636f;
  p = p * t + 0.004204562f;
  p = p * t - 0.025208257f;
  p = p * t + 0.10841858f;
  p = p * t + 0.6332199f;
  p = p * t + 1.1295785f;
  p = p * t - 0.00018804023f;
  float far = 1.f - exp_of(-p);
  return a < 1.f ? x + x * q : a >= 1.f ? std::copysign(far, x) : x;
}
inline double erf_of(double x) { return std::erf(x); }

// Of a number or of a vector.
template <class V>
V sigmoid_of(V x) {
  V e = exp_of(x < 0 ? x : -x);
  return (x < 0 ? e : V{} + 1) / (1 + e);
}

}  // namespace needle
