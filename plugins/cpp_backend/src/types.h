// Dtypes, half precision, and the interface of kernels.
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

namespace needle {

enum class DType : uint8_t { Bool, UInt8, Int32, Int64, Float16, BFloat16, Float32, Float64 };

using Sizes = std::vector<int64_t>;

inline int64_t itemsize(DType dtype) {
  static constexpr int64_t kBytes[] = {1, 1, 4, 8, 2, 2, 4, 8};
  return kBytes[static_cast<int>(dtype)];
}

inline bool is_half(DType dtype) { return dtype == DType::Float16 || dtype == DType::BFloat16; }

inline int64_t product(const Sizes& shape) {
  int64_t n = 1;
  for (int64_t size : shape) n *= size;
  return n;
}

struct Float16 {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

template <class To, class From>
To bit_cast(From from) {
  return __builtin_bit_cast(To, from);
}

inline float to_float(BFloat16 x) { return bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }

// Round to nearest, ties to even; nan stays nan.
inline BFloat16 to_bfloat16(float x) {
  uint32_t u = bit_cast<uint32_t>(x);
  uint32_t rounded = (u + 0x7FFF + ((u >> 16) & 1)) >> 16;
  return {static_cast<uint16_t>(x != x ? (u >> 16) | 0x40 : rounded)};
}

inline float to_float(Float16 x) { return static_cast<float>(bit_cast<_Float16>(x.bits)); }
inline Float16 to_float16(float x) { return {bit_cast<uint16_t>(static_cast<_Float16>(x))}; }

// What a kernel computes with: half precision in float32.
template <class T>
struct Wide {
  using type = T;
  static T load(T x) { return x; }
  static T store(T x) { return x; }
};
template <>
struct Wide<Float16> {
  using type = float;
  static float load(Float16 x) { return to_float(x); }
  static Float16 store(float x) { return to_float16(x); }
};
template <>
struct Wide<BFloat16> {
  using type = float;
  static float load(BFloat16 x) { return to_float(x); }
  static BFloat16 store(float x) { return to_bfloat16(x); }
};

// Calls f with a value of the C++ type of a floating dtype.
template <class F>
void with_floating(DType dtype, F f) {
  switch (dtype) {
    case DType::Float16:
      return f(Float16{});
    case DType::BFloat16:
      return f(BFloat16{});
    case DType::Float32:
      return f(float{});
    case DType::Float64:
      return f(double{});
    default:
      throw std::invalid_argument("not a floating dtype");
  }
}

// The same for an integer dtype.
template <class F>
void with_integer(DType dtype, F f) {
  switch (dtype) {
    case DType::UInt8:
      return f(uint8_t{});
    case DType::Int32:
      return f(int32_t{});
    case DType::Int64:
      return f(int64_t{});
    default:
      throw std::invalid_argument("not an integer dtype");
  }
}

// The same for any dtype.
template <class F>
void with_any(DType dtype, F f) {
  if (dtype == DType::Bool) return f(bool{});
  if (dtype >= DType::Float16) return with_floating(dtype, f);
  return with_integer(dtype, f);
}

// A computation for given shapes and dtypes, made once and run often, from several threads.
// All arrays lie row after row; outputs may be uninitialised. What it refuses it reports with an exception before it
// has written state: std::out_of_range for an index, std::domain_error for a number.
class Kernel {
 public:
  virtual ~Kernel() = default;

  // `scratch` has scratch_bytes() bytes, aligned to 64.
  virtual void run(const void* const* inputs, void* const* outputs, void* scratch) const = 0;

  virtual int64_t scratch_bytes() const { return 0; }
};

// Bytes up to the next cache line.
inline int64_t aligned(int64_t bytes) { return (bytes + 63) / 64 * 64; }

}  // namespace needle
