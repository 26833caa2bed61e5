#include "elementwise.h"

#include <algorithm>
#include <map>
#include <type_traits>
#include <utility>

#include "functions.h"

namespace needle {
namespace {

using Name = std::pair<std::string, std::pair<DType, DType>>;

std::map<Name, Apply>& table() {
  static std::map<Name, Apply> functions;
  return functions;
}

template <class T>
constexpr DType kDType = std::is_same_v<T, bool>      ? DType::Bool
                         : std::is_same_v<T, uint8_t> ? DType::UInt8
                         : std::is_same_v<T, int32_t> ? DType::Int32
                         : std::is_same_v<T, int64_t> ? DType::Int64
                         : std::is_same_v<T, float>   ? DType::Float32
                                                      : DType::Float64;

// A function of numbers that is one of vectors too.
template <class F>
struct Vectored : F {};
template <class F>
constexpr bool kIsVectored = false;
template <class F>
constexpr bool kIsVectored<Vectored<F>> = true;

// F, a function object without state, on every element.
template <class F, class Y, class A>
void unary(void* y, const void* const* x, int64_t n, int64_t) {
  auto* out = static_cast<Y*>(y);
  auto* a = static_cast<const A*>(x[0]);
  if constexpr (kIsVectored<F> && kByVectors<A>) {
    for (int64_t i = 0; i < n; i += kLanes<A>) {
      int64_t count = std::min(kLanes<A>, n - i);
      write_some(out + i, F{}(read_some(a + i, count)), count);
    }
  } else {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) out[i] = static_cast<Y>(F{}(a[i]));
  }
}

template <class F, class Y, class A>
void binary(void* y, const void* const* x, int64_t n, int64_t) {
  auto* out = static_cast<Y*>(y);
  auto* a = static_cast<const A*>(x[0]);
  auto* b = static_cast<const A*>(x[1]);
  if constexpr (kIsVectored<F> && kByVectors<A>) {
    for (int64_t i = 0; i < n; i += kLanes<A>) {
      int64_t count = std::min(kLanes<A>, n - i);
      write_some(out + i, F{}(read_some(a + i, count), read_some(b + i, count)), count);
    }
  } else {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) out[i] = static_cast<Y>(F{}(a[i], b[i]));
  }
}

template <class T>
void where(void* y, const void* const* x, int64_t n, int64_t) {
  auto* out = static_cast<T*>(y);
  auto* condition = static_cast<const uint8_t*>(x[0]);
  auto* a = static_cast<const T*>(x[1]);
  auto* b = static_cast<const T*>(x[2]);
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) out[i] = condition[i] ? a[i] : b[i];
}

// Word i of the Philox4x32-10 stream of the state (seed, position), of which x[0] and x[1] have copies.
// Source: Salmon et al. 2011, doi:10.1145/2063384.2063405
void random_bits(void* y, const void* const* x, int64_t n, int64_t first) {
  auto* out = static_cast<int64_t*>(y);
  const uint64_t seed = *static_cast<const uint64_t*>(x[0]), position = *static_cast<const uint64_t*>(x[1]);
  constexpr int kSide = 16;  // blocks of four words, side by side in vectors
  for (int64_t block = first / 4; block * 4 < first + n; block += kSide) {
    uint32_t word[4][kSide];
    for (int j = 0; j < kSide; ++j) {
      uint64_t counter = static_cast<uint64_t>(block) + j;
      uint32_t w0 = static_cast<uint32_t>(counter), w1 = static_cast<uint32_t>(counter >> 32);
      uint32_t w2 = static_cast<uint32_t>(position), w3 = static_cast<uint32_t>(position >> 32);
      uint32_t low = static_cast<uint32_t>(seed), high = static_cast<uint32_t>(seed >> 32);
      for (int round = 0; round < 10; ++round) {
        uint64_t p = uint64_t{0xD2511F53} * w0, q = uint64_t{0xCD9E8D57} * w2;
        w0 = static_cast<uint32_t>(q >> 32) ^ w1 ^ low;
        w1 = static_cast<uint32_t>(q);
        w2 = static_cast<uint32_t>(p >> 32) ^ w3 ^ high;
        w3 = static_cast<uint32_t>(p);
        low += 0x9E3779B9;
        high += 0xBB67AE85;
      }
      word[0][j] = w0, word[1][j] = w1, word[2][j] = w2, word[3][j] = w3;
    }
    int64_t begin = std::max(block * 4, first), end = std::min((block + kSide) * 4, first + n);
    for (int64_t i = begin; i < end; ++i) out[i - first] = word[i % 4][i / 4 - block];
  }
}

void iota(void* y, const void* const*, int64_t n, int64_t first) {
  for (int64_t i = 0; i < n; ++i) static_cast<int64_t*>(y)[i] = first + i;
}

template <class... T>
struct Types {};
constexpr Types<bool, uint8_t, int32_t, int64_t, float, double> kAny;
constexpr Types<uint8_t, int32_t, int64_t, float, double> kNumbers;
constexpr Types<float, double> kFloating;

template <class F, class... T>
void enter_unary(const char* name, Types<T...>, F) {
  ((table()[{name, {kDType<T>, kDType<T>}}] = unary<F, T, T>), ...);
}
template <class F, class... T>
void enter_binary(const char* name, Types<T...>, F) {
  ((table()[{name, {kDType<T>, kDType<T>}}] = binary<F, T, T>), ...);
}
template <class F, class... T>
void enter_test(const char* name, Types<T...>, F) {
  ((table()[{name, {kDType<T>, DType::Bool}}] = unary<F, bool, T>), ...);
}
template <class F, class... T>
void enter_comparison(const char* name, Types<T...>, F) {
  ((table()[{name, {kDType<T>, DType::Bool}}] = binary<F, bool, T>), ...);
}

template <class T>
constexpr bool kIsFloating = std::is_floating_point_v<T>;

template <class V>
V clipped(V x, double limit) {
  V high = V{} + static_cast<Element<V>>(limit);
  return x < -high ? -high : x > high ? high : x;
}

template <class T>
T remainder_of(T a, T b) {  // with the sign of b
  if constexpr (kIsFloating<T>) {
    T rest = std::fmod(a, b);
    if (rest == 0) return std::copysign(rest, b);
    return (rest < 0) != (b < 0) ? rest + b : rest;
  } else {
    if (b == 0 || b == T(-1)) return 0;  // the least number has no opposite
    T rest = T(a % b);
    return rest != 0 && (rest < 0) != (b < 0) ? T(rest + b) : rest;
  }
}

template <class T>
T floor_divide_of(T a, T b) {
  if constexpr (kIsFloating<T>) {
    if (b == 0) return a / b;
    T rest = std::fmod(a, b), quotient = (a - rest) / b;
    quotient = rest != 0 && (rest < 0) != (b < 0) ? quotient - 1 : quotient;
    T low = std::floor(quotient);
    return quotient == 0 ? std::copysign(T(0), a / b) : quotient - low > T(0.5) ? low + 1 : low;
  } else {
    if (b == 0) return 0;
    if (b == T(-1)) return T(-a);
    T quotient = T(a / b);
    return a % b != 0 && (a < 0) != (b < 0) ? T(quotient - 1) : quotient;
  }
}

template <class T>
T pow_of(T a, T b) {
  if constexpr (kIsFloating<T>) {
    return std::pow(a, b);
  } else {
    if (b < 0) throw std::domain_error("integers have no negative powers");
    T y = 1;
    for (; b; b = T(b >> 1), a = T(a * a)) y = b & 1 ? T(y * a) : y;
    return y;
  }
}

constexpr double kGelu = 0.79788456080286536, kCubic = 0.044715;

// (1 + tanh u) / 2 is sigmoid(2 u).
template <class V>
V gelu_gate(V x) {
  using T = Element<V>;
  return sigmoid_of(T(2 * kGelu) * (x + T(kCubic) * x * x * x));
}

template <class From, class To>
To converted(From x) {
  if constexpr (std::is_same_v<To, bool>) return x != From(0);
  if constexpr (kIsFloating<From> && !kIsFloating<To>) {  // outside of its range an integer gets some value, as in NumPy
    From z = clipped(x, 9.2e18);
    return To(static_cast<int64_t>(z == z ? z : From(0)));
  }
  return static_cast<To>(x);
}

template <class From, class... To>
void enter_conversions(Types<To...>) {
  ((table()[{"astype", {kDType<From>, kDType<To>}}] = unary<decltype([](From x) { return converted<From, To>(x); }), To, From>),
   ...);
}

template <class... From>
void enter_all_conversions(Types<From...> types) {
  (enter_conversions<From>(types), ...);
}

template <class... T>
void enter_where(Types<T...>) {
  ((table()[{"where", {kDType<T>, kDType<T>}}] = where<T>), ...);
}

bool enter_all() {
  enter_unary("abs", kNumbers, [](auto x) { return x < 0 ? -x : x == 0 ? decltype(x)(0) : x; });
  enter_unary("negative", kNumbers, [](auto x) { return -x; });
  enter_unary("square", kNumbers, [](auto x) { return x * x; });
  enter_unary("floor", kNumbers, [](auto x) {
    if constexpr (kIsFloating<decltype(x)>) return std::floor(x);
    return x;
  });
  enter_unary("round", kNumbers, [](auto x) {  // ties to even
    if constexpr (kIsFloating<decltype(x)>) return std::nearbyint(x);
    return x;
  });
  enter_unary("sqrt", kFloating, [](auto x) { return std::sqrt(x); });
  enter_unary("rsqrt", kFloating, [](auto x) { return 1 / std::sqrt(x); });
  enter_unary("reciprocal", kFloating, [](auto x) { return 1 / x; });
  enter_unary("exp", kFloating, Vectored{[](auto x) { return exp_of(x); }});
  enter_unary("expm1", kFloating, [](auto x) { return expm1_of(x); });
  enter_unary("log", kFloating, [](auto x) { return log_of(x); });
  enter_unary("log1p", kFloating, [](auto x) { return log1p_of(x); });
  enter_unary("sin", kFloating, [](auto x) { return std::sin(x); });
  enter_unary("cos", kFloating, [](auto x) { return std::cos(x); });
  enter_unary("tanh", kFloating, [](auto x) { return tanh_of(x); });
  enter_unary("erf", kFloating, [](auto x) { return erf_of(x); });
  enter_unary("relu", kFloating, [](auto x) { return x < 0 ? 0 : x; });
  enter_unary("sigmoid", kFloating, Vectored{[](auto x) { return sigmoid_of(x); }});
  enter_unary("silu", kFloating, Vectored{[](auto x) { return x * sigmoid_of(x); }});
  enter_unary("softplus", kFloating, [](auto x) { return (x < 0 ? 0 : x) + log1p_of(exp_of(-std::fabs(x))); });
  enter_unary("gelu", kFloating, [](auto x) {
    using T = decltype(x);
    return T(0.5) * x * (1 + erf_of(x * T(0.70710678118654752)));
  });
  enter_unary("gelu_tanh", kFloating, Vectored{[](auto x) { return x * gelu_gate(x); }});

  enter_binary("add", kAny, [](auto a, auto b) { return a + b; });  // of bools, as 0 and 1: or
  enter_binary("subtract", kNumbers, [](auto a, auto b) { return a - b; });
  enter_binary("multiply", kAny, [](auto a, auto b) { return a * b; });
  enter_binary("divide", kFloating, [](auto a, auto b) { return a / b; });
  enter_binary("floor_divide", kNumbers, [](auto a, auto b) { return floor_divide_of(a, b); });
  enter_binary("shift_right", Types<int32_t, int64_t>{}, [](auto a, auto b) { return a >> b; });
  enter_binary("remainder", kNumbers, [](auto a, auto b) { return remainder_of(a, b); });
  enter_binary("maximum", kAny, [](auto a, auto b) { return a > b || a != a ? a : b; });
  enter_binary("minimum", kAny, [](auto a, auto b) { return a < b || a != a ? a : b; });
  enter_binary("pow", kNumbers, [](auto a, auto b) { return pow_of(a, b); });
  enter_binary("atan2", kFloating, [](auto a, auto b) { return std::atan2(a, b); });
  enter_binary("relu_grad", kFloating, [](auto g, auto y) { return y > 0 ? g : 0; });
  enter_binary("silu_grad", kFloating, Vectored{[](auto g, auto x) {
                 auto s = sigmoid_of(x);
                 return g * (s + clipped(x, 1e4) * s * (1 - s));
               }});
  enter_binary("gelu_grad", kFloating, [](auto g, auto x) {
    using T = decltype(x);
    T z = clipped(x, 40), density = exp_of(T(-0.5) * z * z) * T(0.39894228040143268);
    return g * (T(0.5) * (1 + erf_of(z * T(0.70710678118654752))) + z * density);
  });
  enter_binary("gelu_tanh_grad", kFloating, Vectored{[](auto g, auto x) {
                 using T = Element<decltype(x)>;
                 auto z = clipped(x, 40), s = gelu_gate(z);
                 return g * (s + z * s * (1 - s) * T(2 * kGelu) * (1 + T(3 * kCubic) * z * z));
               }});

  enter_comparison("equal", kAny, [](auto a, auto b) { return a == b; });
  enter_comparison("not_equal", kAny, [](auto a, auto b) { return a != b; });
  enter_comparison("less", kAny, [](auto a, auto b) { return a < b; });
  enter_comparison("less_equal", kAny, [](auto a, auto b) { return a <= b; });
  enter_comparison("greater", kAny, [](auto a, auto b) { return a > b; });
  enter_comparison("greater_equal", kAny, [](auto a, auto b) { return a >= b; });
  enter_comparison("logical_and", kAny, [](auto a, auto b) { return (a != 0) & (b != 0); });
  enter_comparison("logical_or", kAny, [](auto a, auto b) { return (a != 0) | (b != 0); });
  enter_comparison("logical_xor", kAny, [](auto a, auto b) { return (a != 0) != (b != 0); });
  enter_test("logical_not", kAny, [](auto x) { return x == 0; });
  enter_test("isnan", kAny, [](auto x) { return x != x; });
  enter_test("isinf", kAny,
             [](auto x) { return kIsFloating<decltype(x)> && (x == kInfinity<float> || x == -kInfinity<float>); });
  enter_test("isfinite", kAny,
             [](auto x) { return !kIsFloating<decltype(x)> || (x < kInfinity<float> && x > -kInfinity<float>); });

  enter_all_conversions(kAny);
  enter_where(kAny);
  table()[{"iota", {DType::Int64, DType::Int64}}] = iota;
  table()[{"random_bits", {DType::Int64, DType::Int64}}] = random_bits;
  return true;
}

const bool entered = enter_all();

template <class Half>
void round_to(void* y, const void* const*, int64_t n, int64_t) {
  auto* x = static_cast<float*>(y);
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) x[i] = to_float(Wide<Half>::store(x[i]));
}

template <class T>
void load_as(void* tile, const void* array, int64_t step, int64_t n) {
  auto* y = static_cast<typename Wide<T>::type*>(tile);
  auto* x = static_cast<const T*>(array);
  if (step == 1) {
    for (int64_t i = 0; i < n; ++i) y[i] = Wide<T>::load(x[i]);
  } else if (step == 0) {
    auto value = Wide<T>::load(x[0]);
    for (int64_t i = 0; i < n; ++i) y[i] = value;
  } else {
    for (int64_t i = 0; i < n; ++i) y[i] = Wide<T>::load(x[i * step]);
  }
}

template <class T>
void store_as(void* array, const void* tile, int64_t step, int64_t n) {
  auto* y = static_cast<T*>(array);
  auto* x = static_cast<const typename Wide<T>::type*>(tile);
  if (step == 1) {
    for (int64_t i = 0; i < n; ++i) y[i] = Wide<T>::store(x[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) y[i * step] = Wide<T>::store(x[i]);
  }
}

}  // namespace

Apply elementwise(const std::string& name, DType from, DType to) {
  auto found = table().find({name, {in_tile(from), in_tile(to)}});
  if (found == table().end()) throw std::invalid_argument("no elementwise function " + name + " of these dtypes");
  return found->second;
}

bool has_elementwise(const std::string& name) {
  auto found = table().lower_bound({name, {DType::Bool, DType::Bool}});
  return found != table().end() && found->first.first == name;
}

Apply rounding(DType half) { return half == DType::Float16 ? round_to<Float16> : round_to<BFloat16>; }

void load(DType dtype, void* tile, const void* array, int64_t step, int64_t n) {
  with_any(dtype, [&](auto t) { load_as<decltype(t)>(tile, array, step, n); });
}

void store(DType dtype, void* array, const void* tile, int64_t step, int64_t n) {
  with_any(dtype, [&](auto t) { store_as<decltype(t)>(array, tile, step, n); });
}

}  // namespace needle
