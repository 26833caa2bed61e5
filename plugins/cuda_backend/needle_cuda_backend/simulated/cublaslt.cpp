// The part of libcublasLt that Needle calls, on host memory: it multiplies by exactly the descriptors that it is given, and
// refuses what the library refuses, with the same status. Build: g++ -std=c++17 -O3 -march=native -shared -fPIC.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

namespace {

enum Status { kSuccess = 0, kNotInitialized = 1, kInvalidValue = 7, kNotSupported = 15 };
enum Type { kFloat = 0, kDouble = 1, kHalf = 2, kBFloat = 14 };                   // cudaDataType
enum Compute { kCompute32 = 68, kComputeDouble = 70, kComputeTensorFloat = 77 };  // cublasComputeType_t
enum Epilogue : uint32_t { kPlain = 1, kBias = 4 };
constexpr std::pair<Status, const char*> kNames[] = {{kSuccess, "CUBLAS_STATUS_SUCCESS"},
                                                     {kNotInitialized, "CUBLAS_STATUS_NOT_INITIALIZED"},
                                                     {kInvalidValue, "CUBLAS_STATUS_INVALID_VALUE"},
                                                     {kNotSupported, "CUBLAS_STATUS_NOT_SUPPORTED"}};
constexpr int64_t kWorkspaceAlignment = 256;

// -- descriptors: what the library keeps behind its opaque pointers ----------------------------------------------------------

struct Layout {
  int32_t type;
  int32_t row_major = 0;
  int64_t rows, columns, ld;
  int32_t batch = 1;
  int64_t stride = 0;
};

struct Steps {  // between neighbours, in elements
  int64_t row, column;

  Steps(const Layout& l, bool transposed) : row(l.row_major != transposed ? l.ld : 1), column(row == 1 ? l.ld : 1) {}
};

struct Operation {
  int32_t compute, scale;
  int32_t pointer_mode = 0;
  int32_t transposed_a = 0, transposed_b = 0;
  uint32_t epilogue = kPlain;
  const void* bias = nullptr;
  int64_t bias_stride = 0;
  int32_t bias_type = -1;
};

struct Preference {
  uint64_t workspace = 0;
  uint32_t reduction_schemes = 7;
  uint32_t alignments[4] = {256, 256, 256, 256};
};

struct Algorithm {  // 64 bytes, opaque to the caller
  uint64_t problem, workspace, number;
  Preference asked;
  uint64_t unused;
};

struct Heuristic {
  Algorithm algorithm;
  size_t workspace;
  int32_t state;
  float waves;
  int32_t reserved[4];
};
static_assert(sizeof(Algorithm) == 64 && sizeof(Heuristic) == 96, "as in cublasLt.h");

struct Call {  // D = alpha op(A) op(B) + beta C, where the matrices of a batch are each a stride apart
  const Operation* operation;
  const Layout *a, *b, *c, *d;

  bool transposed_a() const { return operation->transposed_a != 0; }
  bool transposed_b() const { return operation->transposed_b != 0; }
  int64_t inner() const { return transposed_a() ? a->rows : a->columns; }
};

// A number that differs where the descriptors do, so that an algorithm serves only the problem that it was chosen for.
uint64_t fingerprint(const Call& call) {
  const Operation& o = *call.operation;
  uint64_t hash = 1469598103934665603u;
  auto add = [&](int64_t value) { hash = (hash ^ static_cast<uint64_t>(value)) * 1099511628211u; };
  for (int32_t value : {o.compute, o.scale, o.transposed_a, o.transposed_b, int32_t(o.epilogue)}) add(value);
  for (const Layout* l : {call.a, call.b, call.c, call.d}) {
    for (int64_t value : {int64_t{l->type}, int64_t{l->row_major}, l->rows, l->columns, l->ld, int64_t{l->batch}, l->stride}) {
      add(value);
    }
  }
  return hash;
}

// The types that cublasLtMatmul lists as supported, of those that the simulation knows.
bool supported(const Operation& o, const Layout& a, const Layout& b, const Layout& d) {
  if (a.type != b.type || o.pointer_mode != 0 || (o.epilogue != kPlain && o.epilogue != kBias)) return false;
  if (o.bias_type != -1 && o.bias_type != d.type) return false;
  if (o.compute == kComputeDouble) return o.scale == kDouble && a.type == kDouble && d.type == kDouble;
  if (o.scale != kFloat || a.type == kDouble) return false;
  if (o.compute == kComputeTensorFloat) return a.type == kFloat && d.type == kFloat;
  return o.compute == kCompute32 && (d.type == a.type || d.type == kFloat);
}

Status check(const Call& call) {
  if (!call.operation || !call.a || !call.b || !call.c || !call.d) return kInvalidValue;
  const Operation& o = *call.operation;
  for (const Layout* l : {call.a, call.b, call.c, call.d}) {
    if (l->rows < 1 || l->columns < 1 || l->ld < (l->row_major ? l->columns : l->rows)) return kInvalidValue;
    if (l->batch < 1 || l->batch != call.d->batch) return kInvalidValue;
  }
  const Layout &a = *call.a, &b = *call.b, &c = *call.c, &d = *call.d;
  int64_t rows = call.transposed_a() ? a.columns : a.rows, columns = call.transposed_b() ? b.rows : b.columns;
  int64_t inner = call.transposed_b() ? b.columns : b.rows;
  if (rows != d.rows || columns != d.columns || inner != call.inner()) return kInvalidValue;
  if (c.rows != d.rows || c.columns != d.columns || c.type != d.type || c.row_major != d.row_major) return kInvalidValue;
  if (d.batch > 1 && d.stride < (d.row_major ? d.rows : d.columns) * d.ld) return kInvalidValue;  // outputs may not overlap
  if (o.epilogue & kBias && !o.bias) return kInvalidValue;
  return supported(o, a, b, d) ? kSuccess : kNotSupported;
}

// -- numbers ----------------------------------------------------------------------------------------------------------------

enum class Half : uint16_t {};
enum class BFloat : uint16_t {};

template <class To, class From>
To cast_bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

double widen(double x) { return x; }
float widen(float x) { return x; }
float widen(BFloat x) { return cast_bits<float>(static_cast<uint32_t>(x) << 16); }
float widen(Half x) {
  auto half = static_cast<uint32_t>(x);
  // As a float with the exponent that much too small, which the factor repairs, for subnormals too.
  float magnitude = cast_bits<float>((half & 0x7fffu) << 13) * 0x1p112f;
  uint32_t bits = cast_bits<uint32_t>(magnitude) | ((half & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u);
  return cast_bits<float>(bits | (half & 0x8000u) << 16);
}

// Rounded to the nearest, ties to even, with `dropped` bits of the fraction gone.
uint32_t rounded(uint32_t bits, int dropped) { return bits + (1u << (dropped - 1)) - 1 + (bits >> dropped & 1); }

float tensor_float(float x) { return x - x == 0 ? cast_bits<float>(rounded(cast_bits<uint32_t>(x), 13) & ~0x1fffu) : x; }
double tensor_float(double x) { return x; }

void narrow(double x, double* to) { *to = x; }
void narrow(float x, float* to) { *to = x; }
void narrow(float x, BFloat* to) {
  uint32_t bits = cast_bits<uint32_t>(x);
  *to = static_cast<BFloat>((x != x ? bits | 0x400000u : rounded(bits, 16)) >> 16);
}
void narrow(float x, Half* to) {
  uint32_t bits = cast_bits<uint32_t>(x), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude >= 0x47800000u) {  // 65536 and beyond, infinity and NaN
    bits = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  } else if (magnitude < 0x38800000u) {  // subnormal: the sum leaves the fraction rounded in the low bits
    bits = cast_bits<uint32_t>(cast_bits<float>(magnitude) + 0.5f) - cast_bits<uint32_t>(0.5f);
  } else {
    bits = (rounded(magnitude, 13) >> 13) - (112u << 10);
  }
  *to = static_cast<Half>(bits | sign);
}

// -- the product: packed panels, a tile of sums in registers -----------------------------------------------------------------

constexpr int kColumns = 6, kBlockK = 256, kBlockColumns = 80 * kColumns;

template <class Sum>
struct Tile {
  static constexpr int kRows = 64 / sizeof(Sum), kBlockRows = 16 * kRows;
  typedef Sum Vector __attribute__((vector_size(64), aligned(8)));

  static void multiply(int64_t k, const Sum* a, const Sum* b, Sum* sums) {
    Vector s[kColumns];
    std::memcpy(s, sums, sizeof s);
    for (int64_t p = 0; p < k; ++p) {
      Vector column;
      std::memcpy(&column, a + p * kRows, sizeof column);
      for (int j = 0; j < kColumns; ++j) s[j] += column * b[p * kColumns + j];
    }
    std::memcpy(sums, s, sizeof s);
  }
};

// A matrix of which `width` rows at a time become one panel: (rows / width, k, width), padded with zeros.
template <class Sum, class Stored>
void pack(const Stored* from, int64_t row_step, int64_t k_step, int64_t rows, int64_t k, int width, bool reduced, Sum* to) {
  for (int64_t first = 0; first < rows; first += width, to += width * k) {
    int64_t here = std::min<int64_t>(width, rows - first);
    for (int64_t p = 0; p < k; ++p) {
      const Stored* row = from + first * row_step + p * k_step;
      for (int64_t i = 0; i < here; ++i) to[p * width + i] = widen(row[i * row_step]);
      for (int64_t i = here; i < width; ++i) to[p * width + i] = 0;
    }
  }
  for (Sum* x = to - (rows + width - 1) / width * width * k; reduced && x < to; ++x) *x = tensor_float(*x);
}

// The member of the batch with this number.
template <class Sum, class Stored, class Out>
void multiply(const Call& call, int64_t member, const void* alpha_at, const void* beta_at, void* const* operands) {
  constexpr int kRows = Tile<Sum>::kRows, kBlockRows = Tile<Sum>::kBlockRows;
  const Operation& o = *call.operation;
  const Layout& out = *call.d;
  auto* a = static_cast<const Stored*>(operands[0]) + member * call.a->stride;
  auto* b = static_cast<const Stored*>(operands[1]) + member * call.b->stride;
  auto* c = static_cast<const Out*>(operands[2]) + member * call.c->stride;
  auto* d = static_cast<Out*>(operands[3]) + member * out.stride;
  auto* bias = o.epilogue & kBias ? static_cast<const Out*>(o.bias) + member * o.bias_stride : nullptr;
  Sum alpha = *static_cast<const Sum*>(alpha_at), beta = *static_cast<const Sum*>(beta_at);
  Steps of_a(*call.a, call.transposed_a()), of_b(*call.b, call.transposed_b()), of_c(*call.c, false), of_d(out, false);
  int64_t k = call.inner();
  bool reduced = o.compute == kComputeTensorFloat;
  auto panels = [](int64_t n, int width) { return (n + width - 1) / width; };
  std::vector<Sum> left, right, sums;
  for (int64_t j0 = 0; j0 < out.columns; j0 += kBlockColumns) {
    int64_t columns = std::min<int64_t>(kBlockColumns, out.columns - j0), tiles = panels(columns, kColumns);
    right.resize(tiles * kColumns * k);
    pack(b + j0 * of_b.column, of_b.column, of_b.row, columns, k, kColumns, reduced, right.data());
    for (int64_t i0 = 0; i0 < out.rows; i0 += kBlockRows) {
      int64_t rows = std::min<int64_t>(kBlockRows, out.rows - i0), strips = panels(rows, kRows);
      left.resize(strips * kRows * k);
      pack(a + i0 * of_a.row, of_a.row, of_a.column, rows, k, kRows, reduced, left.data());
      sums.assign(strips * tiles * kRows * kColumns, 0);
      for (int64_t p = 0; p < k; p += kBlockK) {
        for (int64_t i = 0; i < strips; ++i) {
          for (int64_t j = 0; j < tiles; ++j) {
            Tile<Sum>::multiply(std::min<int64_t>(kBlockK, k - p), &left[(i * k + p) * kRows], &right[(j * k + p) * kColumns],
                                &sums[(i * tiles + j) * kRows * kColumns]);
          }
        }
      }
      for (int64_t j = 0; j < columns; ++j) {
        for (int64_t i = 0; i < rows; ++i) {
          int64_t tile = i / kRows * tiles + j / kColumns;
          Sum value = alpha * sums[(tile * kColumns + j % kColumns) * kRows + i % kRows];
          int64_t row = i0 + i, column = j0 + j;
          if (beta != 0) value += beta * widen(c[row * of_c.row + column * of_c.column]);
          if (bias) value += widen(bias[row]);
          narrow(value, d + row * of_d.row + column * of_d.column);
        }
      }
    }
  }
}

// -- attributes: by number, each of one size ---------------------------------------------------------------------------------

struct Attribute {
  int number;
  size_t offset, size;
};

#define ATTRIBUTE(number, type, field) {number, offsetof(type, field), sizeof(type::field)}
const std::vector<Attribute> kOfLayouts = {ATTRIBUTE(1, Layout, row_major), ATTRIBUTE(5, Layout, batch),
                                           ATTRIBUTE(6, Layout, stride)};
const std::vector<Attribute> kOfOperations = {ATTRIBUTE(2, Operation, pointer_mode), ATTRIBUTE(3, Operation, transposed_a),
                                              ATTRIBUTE(4, Operation, transposed_b), ATTRIBUTE(7, Operation, epilogue),
                                              ATTRIBUTE(8, Operation, bias),         ATTRIBUTE(10, Operation, bias_stride),
                                              ATTRIBUTE(26, Operation, bias_type)};
const std::vector<Attribute> kOfPreferences = {
    ATTRIBUTE(1, Preference, workspace),     ATTRIBUTE(3, Preference, reduction_schemes),
    ATTRIBUTE(5, Preference, alignments[0]), ATTRIBUTE(6, Preference, alignments[1]),
    ATTRIBUTE(7, Preference, alignments[2]), ATTRIBUTE(8, Preference, alignments[3])};
#undef ATTRIBUTE

int set(void* descriptor, const std::vector<Attribute>& attributes, int number, const void* value, size_t size) {
  for (const Attribute& a : attributes) {
    if (!descriptor || !value || a.number != number || a.size != size) continue;
    std::memcpy(static_cast<char*>(descriptor) + a.offset, value, size);
    return kSuccess;
  }
  return kInvalidValue;
}

template <class Descriptor>
int create(Descriptor** made, const Descriptor& as) {
  if (made) *made = new Descriptor(as);
  return made ? kSuccess : kInvalidValue;
}

template <class Descriptor>
int destroy(Descriptor* descriptor) {
  delete descriptor;
  return kSuccess;
}

char handle_of_all;
std::string last_call = "{}";

void log_call(const Call& call, const Algorithm* algorithm, size_t workspace) {
  const Operation& o = *call.operation;
  Algorithm none{};
  const Algorithm& chosen = algorithm ? *algorithm : none;
  char text[512];
  auto append = [&](auto... arguments) { last_call.append(text, std::snprintf(text, sizeof text, arguments...)); };
  last_call.clear();
  append(R"({"compute": %d, "scale": %d, "transa": %d, "transb": %d, "epilogue": %u)", o.compute, o.scale, o.transposed_a,
         o.transposed_b, o.epilogue);
  append(R"(, "algorithm": %lu, "schemes": %u, "alignment": %u, "workspace": %zu)", chosen.number,
         chosen.asked.reduction_schemes, chosen.asked.alignments[0], workspace);
  const char* name = "abcd";
  for (const Layout* l : {call.a, call.b, call.c, call.d}) {
    append(R"(, "%c": {"type": %d, "order": %d, "rows": %ld, "columns": %ld)", *name++, l->type, l->row_major, l->rows,
           l->columns);
    append(R"(, "ld": %ld, "batch": %d, "stride": %ld})", l->ld, l->batch, l->stride);
  }
  last_call += "}";
}

}  // namespace

extern "C" {

// What the last product was asked with, as JSON. Not in the library.
const char* needle_last_call() { return last_call.c_str(); }

int cublasLtCreate(void** handle) {
  if (handle) *handle = &handle_of_all;
  return handle ? kSuccess : kInvalidValue;
}

int cublasLtDestroy(void* handle) { return handle == &handle_of_all ? kSuccess : kNotInitialized; }

const char* cublasLtGetStatusName(int status) {
  for (auto& [number, name] : kNames) {
    if (number == status) return name;
  }
  return "CUBLAS_STATUS_UNKNOWN";
}

int cublasLtMatrixLayoutCreate(Layout** made, int type, uint64_t rows, uint64_t columns, int64_t ld) {
  return create(made, {type, 0, static_cast<int64_t>(rows), static_cast<int64_t>(columns), ld, 1, 0});
}
int cublasLtMatrixLayoutSetAttribute(Layout* layout, int attribute, const void* value, size_t size) {
  return set(layout, kOfLayouts, attribute, value, size);
}
int cublasLtMatrixLayoutDestroy(Layout* layout) { return destroy(layout); }

int cublasLtMatmulDescCreate(Operation** made, int compute, int scale) { return create(made, {compute, scale}); }
int cublasLtMatmulDescSetAttribute(Operation* operation, int attribute, const void* value, size_t size) {
  return set(operation, kOfOperations, attribute, value, size);
}
int cublasLtMatmulDescDestroy(Operation* operation) { return destroy(operation); }

int cublasLtMatmulPreferenceCreate(Preference** made) { return create(made, {}); }
int cublasLtMatmulPreferenceSetAttribute(Preference* preference, int attribute, const void* value, size_t size) {
  return set(preference, kOfPreferences, attribute, value, size);
}
int cublasLtMatmulPreferenceDestroy(Preference* preference) { return destroy(preference); }

int cublasLtMatmulAlgoGetHeuristic(void* handle, const Operation* operation, const Layout* a, const Layout* b, const Layout* c,
                                   const Layout* d, const Preference* preference, int wanted, Heuristic* found, int* count) {
  if (handle != &handle_of_all) return kNotInitialized;
  Call call{operation, a, b, c, d};
  if (!preference || wanted < 1 || !found || !count) return kInvalidValue;
  *count = 0;
  if (Status status = check(call)) return status;
  for (uint64_t workspace : {0u, 4096u, 1u << 20}) {  // three stand for the many: the larger workspaces are not always there
    if (workspace > preference->workspace || *count == wanted) continue;
    Algorithm algorithm{fingerprint(call), workspace, static_cast<uint64_t>(*count), *preference, 0};
    found[(*count)++] = {algorithm, workspace, kSuccess, 1.0f, {}};
  }
  return kSuccess;
}

int cublasLtMatmul(void* handle, const Operation* operation, const void* alpha, const void* a, const Layout* a_layout,
                   const void* b, const Layout* b_layout, const void* beta, const void* c, const Layout* c_layout, void* d,
                   const Layout* d_layout, const Algorithm* algorithm, void* workspace, size_t workspace_size, void*) {
  if (handle != &handle_of_all) return kNotInitialized;
  Call call{operation, a_layout, b_layout, c_layout, d_layout};
  void* operands[] = {const_cast<void*>(a), const_cast<void*>(b), const_cast<void*>(c), d};
  if (!alpha || !beta || !a || !b || !c || !d) return kInvalidValue;
  if (Status status = check(call)) return status;
  if (reinterpret_cast<uintptr_t>(workspace) % kWorkspaceAlignment || (workspace_size && !workspace)) return kInvalidValue;
  if (algorithm) {
    if (algorithm->problem != fingerprint(call) || algorithm->workspace > workspace_size) return kInvalidValue;
    for (int i = 0; i < 4; ++i) {  // the library would let the kernel fault
      if (reinterpret_cast<uintptr_t>(operands[i]) % algorithm->asked.alignments[i]) return kInvalidValue;
    }
    if (workspace) std::memset(workspace, 0xff, algorithm->workspace);  // what is in use there is lost on a GPU too
  }
  log_call(call, algorithm, workspace_size);
  auto run = [&]() {
    bool wide = d_layout->type == kFloat;
    if (a_layout->type == kDouble) return multiply<double, double, double>;
    if (a_layout->type == kFloat) return multiply<float, float, float>;
    if (a_layout->type == kHalf) return wide ? multiply<float, Half, float> : multiply<float, Half, Half>;
    return wide ? multiply<float, BFloat, float> : multiply<float, BFloat, BFloat>;
  }();
  for (int64_t member = 0; member < d_layout->batch; ++member) run(call, member, alpha, beta, operands);
  return kSuccess;
}

}  // extern "C"
