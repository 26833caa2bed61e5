// What all kernels share: dtypes, packs of 16 bytes, elementwise functions, reductions over lanes, Philox.
//
// Half precision is stored in 16 bits and computed in float. Assembly has a twin in C, with which the same source runs on the
// host.
#pragma once

#ifndef __CUDACC_RTC__
#include "host.h"
#endif

using uint8 = unsigned char;
using int32 = int;
using int64 = long long;
using uint32 = unsigned int;
using uint64 = unsigned long long;

struct float16 {
  unsigned short bits;
};
struct bfloat16 {
  unsigned short bits;
};

__device__ inline float as_float(uint32 bits) { return __uint_as_float(bits); }
__device__ inline uint32 as_bits(float x) { return __float_as_uint(x); }

// What a dtype is computed in, and how it is read and written.
template <class T>
struct Wide {
  using type = T;
  static __device__ inline T from(T x) { return x; }
  static __device__ inline T to(T x) { return x; }
};
template <>
struct Wide<bfloat16> {
  using type = float;
  static __device__ inline float from(bfloat16 x) { return as_float(uint32(x.bits) << 16); }
  static __device__ inline bfloat16 to(float x) {  // to nearest, ties to even; nan stays nan
    uint32 u = as_bits(x);
    uint32 rounded = (u + 0x7FFF + ((u >> 16) & 1)) >> 16;
    return {(unsigned short)(x != x ? (u >> 16) | 0x40 : rounded)};
  }
};
template <>
struct Wide<float16> {
  using type = float;
  static __device__ inline float from(float16 x) {
#ifdef __CUDA_ARCH__
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
#else
    return float_of_half(x.bits);
#endif
  }
  static __device__ inline float16 to(float x) {
#ifdef __CUDA_ARCH__
    float16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
#else
    return {half_of_float(x)};
#endif
  }
};

template <class T>
using wide = typename Wide<T>::type;
template <class T>
__device__ inline wide<T> load(const T* x) {
  return Wide<T>::from(*x);
}
template <class T>
__device__ inline void store(T* y, wide<T> x) {
  *y = Wide<T>::to(x);
}
template <class T>
__device__ inline wide<T> rounded(wide<T> x) {
  return Wide<T>::from(Wide<T>::to(x));
}

// N elements that are read and written at once.
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T at[N];
};
template <int N, class T>
__device__ inline Pack<T, N> load_pack(const T* x) {
  return *reinterpret_cast<const Pack<T, N>*>(x);
}
template <class T, int N>
__device__ inline void store_pack(T* y, const Pack<T, N>& x) {
  *reinterpret_cast<Pack<T, N>*>(y) = x;
}

template <class T>
struct Kind {
  static constexpr bool is_floating = false;
};
template <>
struct Kind<float> {
  static constexpr bool is_floating = true;
};
template <>
struct Kind<double> {
  static constexpr bool is_floating = true;
};

#define INFINITE __int_as_float(0x7f800000)

// -- elementwise: do_<op>, of what a dtype is computed in --------------------------------------------------------------------

// clang-format off
template <class T> __device__ inline T do_add(T a, T b) { return T(a + b); }  // of bools: or
template <class T> __device__ inline T do_subtract(T a, T b) { return T(a - b); }
template <class T> __device__ inline T do_multiply(T a, T b) { return T(a * b); }
template <class T> __device__ inline T do_divide(T a, T b) { return a / b; }
template <class T> __device__ inline T do_negative(T x) { return T(-x); }
template <class T> __device__ inline T do_maximum(T a, T b) { return a > b || a != a ? a : b; }
template <class T> __device__ inline T do_minimum(T a, T b) { return a < b || a != a ? a : b; }
template <class T> __device__ inline bool do_equal(T a, T b) { return a == b; }
template <class T> __device__ inline bool do_less(T a, T b) { return a < b; }
template <class T> __device__ inline bool do_logical_not(T x) { return x == T(0); }
template <class T> __device__ inline T do_where(bool condition, T a, T b) { return condition ? a : b; }
template <class T> __device__ inline T do_abs(T x) { return x < T(0) ? T(-x) : x == T(0) ? T(0) : x; }
template <class T> __device__ inline T do_floor(T x) { return x; }
template <class T> __device__ inline T do_round(T x) { return x; }
__device__ inline float do_floor(float x) { return floorf(x); }
__device__ inline double do_floor(double x) { return floor(x); }
__device__ inline float do_round(float x) { return rintf(x); }  // ties to even
__device__ inline double do_round(double x) { return rint(x); }

#define FUNCTION(name, of_float, of_double) \
  __device__ inline float do_##name(float x) { return of_float(x); } \
  __device__ inline double do_##name(double x) { return of_double(x); }
FUNCTION(sqrt, sqrtf, sqrt)
FUNCTION(exp, expf, exp)
FUNCTION(log, logf, log)
FUNCTION(sin, sinf, sin)
FUNCTION(cos, cosf, cos)
FUNCTION(tanh, tanhf, tanh)
FUNCTION(erf, erff, erf)
#undef FUNCTION
__device__ inline float do_atan2(float a, float b) { return atan2f(a, b); }
__device__ inline double do_atan2(double a, double b) { return atan2(a, b); }
__device__ inline float do_mod(float a, float b) { return fmodf(a, b); }
__device__ inline double do_mod(double a, double b) { return fmod(a, b); }
__device__ inline float do_copysign(float a, float b) { return copysignf(a, b); }
__device__ inline double do_copysign(double a, double b) { return copysign(a, b); }
// clang-format on

// A failure that only the device sees is noted once, with the number of the kernel's place in its program.
struct Failure {
  int* flag;
  int number;
  __device__ inline void note() const { atomicCAS(flag, 0, number); }
};

template <class T>
__device__ inline T do_pow(T a, T b, Failure failure) {
  if (b < T(0)) failure.note();
  T y = 1;
  for (; b > T(0); b = T(b >> 1), a = T(a * a)) y = b & 1 ? T(y * a) : y;
  return y;
}
__device__ inline float do_pow(float a, float b) { return powf(a, b); }
__device__ inline double do_pow(double a, double b) { return pow(a, b); }

template <class T>
__device__ inline T do_remainder(T a, T b) {  // with the sign of b
  if constexpr (Kind<T>::is_floating) {
    T rest = do_mod(a, b);
    if (rest == 0) return do_copysign(rest, b);
    return (rest < 0) != (b < 0) ? rest + b : rest;
  } else {
    if (b == 0 || b == T(-1)) return 0;  // the least number has no opposite
    T rest = T(a % b);
    return rest != 0 && (rest < 0) != (b < 0) ? T(rest + b) : rest;
  }
}

template <class T>
__device__ inline T do_floor_divide(T a, T b) {
  if constexpr (Kind<T>::is_floating) {
    if (b == 0) return a / b;
    T rest = do_mod(a, b), quotient = (a - rest) / b;
    quotient = rest != 0 && (rest < 0) != (b < 0) ? quotient - 1 : quotient;
    T low = do_floor(quotient);
    return quotient == 0 ? do_copysign(T(0), a / b) : quotient - low > T(0.5) ? low + 1 : low;
  } else {
    if (b == 0) return 0;
    if (b == T(-1)) return T(0) - a;
    T quotient = T(a / b);
    return a % b != 0 && (a < 0) != (b < 0) ? T(quotient - 1) : quotient;
  }
}

template <class To, class From>
__device__ inline To converted(From x) {
  if constexpr (Kind<From>::is_floating && !Kind<To>::is_floating) {  // outside of its range an integer gets some value
    From z = x < From(-9.2e18) ? From(-9.2e18) : x > From(9.2e18) ? From(9.2e18) : x;
    return To(int64(z == z ? z : From(0)));
  } else {
    return To(x);
  }
}
template <class To, class From>
__device__ inline To do_astype(From x) {
  if constexpr (To(2) == To(1))
    return x != From(0);  // bool
  else
    return converted<To>(x);
}

// -- random numbers ----------------------------------------------------------------------------------------------------------

// Word i of the Philox4x32-10 stream of (seed, position). Source: Salmon et al. 2011, doi:10.1145/2063384.2063405
__device__ inline int64 do_random_bits(int64 seed, int64 position, int64 i) {
  uint64 counter = uint64(i) / 4;
  uint32 w0 = uint32(counter), w1 = uint32(counter >> 32), w2 = uint32(position), w3 = uint32(uint64(position) >> 32);
  uint32 low = uint32(seed), high = uint32(uint64(seed) >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    uint64 p = uint64(0xD2511F53) * w0, q = uint64(0xCD9E8D57) * w2;
    w0 = uint32(q >> 32) ^ w1 ^ low;
    w1 = uint32(q);
    w2 = uint32(p >> 32) ^ w3 ^ high;
    w3 = uint32(p);
    low += 0x9E3779B9;
    high += 0xBB67AE85;
  }
  switch (i & 3) {
    case 0:
      return w0;
    case 1:
      return w1;
    case 2:
      return w2;
    default:
      return w3;
  }
}

// -- reductions over lanes ---------------------------------------------------------------------------------------------------

// clang-format off
struct Sum { template <class A> static __device__ inline A of(A a, A b) { return a + b; } };
struct Prod { template <class A> static __device__ inline A of(A a, A b) { return a * b; } };
struct Max { template <class A> static __device__ inline A of(A a, A b) { return do_maximum(a, b); } };
struct Min { template <class A> static __device__ inline A of(A a, A b) { return do_minimum(a, b); } };
// clang-format on

// `x` of all threads with one threadIdx.y, in each of them. Blocks have 32 threads along x, or one row of more.
template <class Op, class A>
__device__ inline A over_lanes(A x) {
#pragma unroll
  for (int step = 16; step; step /= 2) x = Op::of(x, __shfl_xor_sync(0xffffffffu, x, step));
  if (blockDim.x == 32) return x;
  __shared__ A parts[32];
  __syncthreads();  // the parts of a reduction before have been read
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();
  x = parts[0];
  for (int i = 1; i < int(blockDim.x / 32); ++i) x = Op::of(x, parts[i]);
  return x;
}

// `x` of the 8 threads with one threadIdx.x in blocks of 32 by 8, in each of them.
template <class Op, class A>
__device__ inline A over_strips(A x) {
  __shared__ A parts[8][33];
  __syncthreads();
  parts[threadIdx.y][threadIdx.x] = x;
  __syncthreads();
  x = parts[0][threadIdx.x];
  for (int i = 1; i < 8; ++i) x = Op::of(x, parts[i][threadIdx.x]);
  return x;
}
