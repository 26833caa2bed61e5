// CUDA C as C++ of the host: the sources of the kernels are compiled as they are.
//
// Threads of a block are fibers, blocks run one after another. A barrier that only some threads of a block reach, or a shuffle
// that only some lanes of a warp reach, ends the program with a message. This proves arithmetic and barriers, not the absence
// of races.
#pragma once

#include <math.h>

#include <utility>

struct Dim {
  unsigned x, y, z;
};

extern "C" {
extern thread_local Dim threadIdx, blockIdx, blockDim, gridDim;
void simulator_barrier();
unsigned long long simulator_exchange(unsigned long long bits, int lane);
void simulator_run(void (*thread)(const void*), const void* closure, const long long* launch, bool has_barriers);
float simulator_float_of_half(unsigned short bits);
unsigned short simulator_half_of_float(float x);
}

#define __global__
#define __device__
#define __shared__ static thread_local
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __syncthreads simulator_barrier
#define float_of_half simulator_float_of_half
#define half_of_float simulator_half_of_float

template <class To, class From>
inline To bits_of(From x) {
  static_assert(sizeof(To) == sizeof(From));
  return __builtin_bit_cast(To, x);
}
inline float __uint_as_float(unsigned x) { return bits_of<float>(x); }
inline float __int_as_float(int x) { return bits_of<float>(x); }
inline unsigned __float_as_uint(float x) { return bits_of<unsigned>(x); }

template <class T>
inline T __shfl_sync(unsigned, T x, int lane) {
  unsigned long long bits = 0;
  __builtin_memcpy(&bits, &x, sizeof x);
  bits = simulator_exchange(bits, lane);
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T x, int step) {
  return __shfl_sync(mask, x, int(threadIdx.x % 32) ^ step);
}
template <class T>
inline T atomicAdd(T* y, T x) {
  T old = *y;
  *y += x;
  return old;
}
inline int atomicCAS(int* y, int expected, int x) {
  int old = *y;
  if (old == expected) *y = x;
  return old;
}

// -- launches: a kernel's arguments come as 64 bits each ----------------------------------------------------------------------

template <auto kernel>
struct Entry;

template <class... A, void (*kernel)(A...)>
struct Entry<kernel> {
  template <unsigned long... I>
  static void spread(const long long* x, std::index_sequence<I...>) {
    kernel((A)x[I]...);
  }
  static void thread(const void* arguments) {
    spread(static_cast<const long long*>(arguments), std::index_sequence_for<A...>());
  }
};

#define HOST_ENTRY(name, has_barriers)                                              \
  extern "C" void run_##name(const long long* launch, const long long* arguments) { \
    simulator_run(Entry<&name>::thread, arguments, launch, has_barriers);           \
  }
