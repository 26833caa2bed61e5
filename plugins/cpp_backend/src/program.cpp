#include "program.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <numeric>

#include "elementwise.h"
#include "fold.h"
#include "space.h"
#include "threads.h"

namespace needle {
namespace {

constexpr int64_t kTileBytes = 32768;  // of all registers together; the first cache has 48 KB
constexpr int64_t kLeastTile = 128, kMostTile = 2048, kLongestPeriod = 1024;  // elements
constexpr int kMostRegisters = 256, kMostStores = 64;

// Memory of this thread that lasts, for tiles.
char* tile_memory(int64_t bytes) {
  struct Block {
    char* memory = nullptr;
    int64_t bytes = 0;
    ~Block() { std::free(memory); }
  };
  thread_local Block block;
  if (block.bytes < bytes) {
    std::free(block.memory);
    block.memory = static_cast<char*>(std::aligned_alloc(64, aligned(bytes)));
    if (!block.memory) throw std::bad_alloc();
    block.bytes = bytes;
  }
  return block.memory;
}

struct Step {
  Apply apply;
  Apply round;  // for half precision, else null
  int result;
  int operands[3];
  int count;
};

class Program : public Kernel {
 public:
  explicit Program(Expression expression) : e_(std::move(expression)) {
    if (e_.loads.size() + e_.numbers.size() + e_.instructions.size() > kMostRegisters || e_.stores.size() > kMostStores) {
      throw std::invalid_argument("a program has at most 256 registers and 64 stores");
    }
    collapse();
    choose_loads();
    choose_steps();
    choose_stores();
    choose_sizes();
  }

  int64_t scratch_bytes() const override { return partial_bytes_; }

  void run(const void* const* inputs, void* const* outputs, void* scratch) const override {
    if (!size_) return finish_empty(outputs);
    parallel(chunks_, [&](int64_t chunk) { run_chunk(chunk, inputs, outputs, static_cast<char*>(scratch)); });
    join_chunks(outputs, static_cast<char*>(scratch));
  }

 private:
  friend class Programs;

  // -- preparation ----------------------------------------------------------------------------------------------------------

  // Joins axes, once it is known how many elements each reduction gives, and of how many.
  void collapse() {
    int64_t axes = static_cast<int64_t>(e_.shape.size());
    std::vector<bool> border(axes + 1);
    std::vector<Sizes*> steps;
    for (Load& x : e_.loads) steps.push_back(&x.steps);
    for (Store& y : e_.stores) {
      int64_t cut = y.axes > 0 ? y.axes : axes + y.axes, outer = 1, inner = 1;
      for (int64_t axis = 0; axis < axes; ++axis) (axis < cut ? outer : inner) *= e_.shape[axis];
      extent_.push_back(inner);
      count_.push_back(y.axes > 0 ? inner : outer);
      if (y.reduction.empty())
        steps.push_back(&y.steps);
      else
        border[cut] = true;
    }
    space_ = collapsed(e_.shape, steps, border);
    size_ = space_.size;
  }

  // Read where it lies; the same in every tile, and filled once; copied for each tile; made by a step.
  enum class Kind { Direct, Constant, Gathered, Computed };

  void choose_loads() {
    for (const Load& x : e_.loads) {
      int64_t repeats = space_.period(x.steps);
      bool constant = repeats && repeats <= kLongestPeriod && repeats < size_;
      bool direct = !is_half(x.dtype) && repeats == size_;
      kind_.push_back(constant ? Kind::Constant : direct ? Kind::Direct : Kind::Gathered);
      dtype_.push_back(x.dtype);
      if (constant) period_ = std::max(period_, repeats);
    }
    for (auto& [value, dtype] : e_.numbers) {
      kind_.push_back(Kind::Constant);
      dtype_.push_back(dtype);
    }
  }

  void choose_steps() {
    last_read_.assign(kind_.size() + e_.instructions.size(), -1);
    int first = static_cast<int>(kind_.size());
    for (size_t i = 0; i < e_.instructions.size(); ++i) {
      const Instruction& x = e_.instructions[i];
      Step step{};
      step.result = first + static_cast<int>(i);
      step.count = static_cast<int>(x.operands.size());
      if (step.count > 3) throw std::invalid_argument(x.name + " has three operands at most");
      for (int k = 0; k < step.count; ++k) {
        step.operands[k] = x.operands[k];
        last_read_[x.operands[k]] = static_cast<int>(i);
      }
      step.apply = elementwise(x.name, step.count ? dtype_.at(x.operands.back()) : x.dtype, x.dtype);
      step.round = is_half(x.dtype) ? rounding(x.dtype) : nullptr;
      steps_.push_back(step);
      kind_.push_back(Kind::Computed);
      dtype_.push_back(x.dtype);
    }
  }

  void choose_stores() {
    direct_.assign(kind_.size(), -1);
    for (size_t k = 0; k < e_.stores.size(); ++k) {
      const Store& y = e_.stores[k];
      last_read_[y.reg] = static_cast<int>(steps_.size());
      bool made = kind_[y.reg] == Kind::Computed || kind_[y.reg] == Kind::Gathered;
      bool plain = made && y.reduction.empty() && !is_half(y.dtype) && space_.period(y.steps) == size_;
      if (plain && direct_[y.reg] < 0) direct_[y.reg] = static_cast<int>(k);
      is_direct_.push_back(plain && direct_[y.reg] == static_cast<int>(k));
      folds_.push_back(y.reduction.empty() ? nullptr : &fold_of(y.reduction, in_tile(dtype_[y.reg])));
      row_.push_back(rows_);
      rows_ += is_row(k);
    }
  }

  // Which slot of the tile memory each register has, how long a tile is, and how the work is cut.
  void choose_sizes() {
    slot_.assign(kind_.size(), -1);
    std::vector<int> free;
    int slots = 0;
    auto take = [&]() {
      if (free.empty()) return slots++;
      int slot = free.back();
      free.pop_back();
      return slot;
    };
    for (size_t r = 0; r < kind_.size() - steps_.size(); ++r) {
      if (kind_[r] != Kind::Direct) slot_[r] = take();
    }
    for (size_t i = 0; i < steps_.size(); ++i) {
      slot_[steps_[i].result] = take();
      for (size_t r = 0; r < kind_.size(); ++r) {
        bool mine = slot_[r] >= 0 && kind_[r] != Kind::Constant && last_read_[r] == static_cast<int>(i);
        if (mine) free.push_back(slot_[r]);
      }
    }
    int64_t widest = 1;
    for (DType dtype : dtype_) widest = std::max(widest, itemsize(in_tile(dtype)));
    tile_ = std::clamp(kTileBytes / (widest * std::max(slots, 1)) / 64 * 64, kLeastTile, kMostTile);
    int64_t step = std::lcm(period_, int64_t{16});  // tiles begin where cache lines do, if that is not too long
    if (step > kMostTile) step = period_;
    tile_ = std::min(std::max(tile_ / step, int64_t{1}) * step, std::max(size_, int64_t{1}));
    slot_bytes_ = aligned(tile_ * widest);
    slots_ = slots;
    cut();
    partial_.assign(e_.stores.size(), 0);
    for (size_t k = 0; k < e_.stores.size(); ++k) {
      if (!folds_[k]) continue;
      partial_[k] = partial_bytes_;
      if (is_whole(k) || !is_row(k)) partial_bytes_ += chunks_ * partial_size(k);
    }
  }

  // Cuts the elements into chunks. Where there is a reduction its shape alone says how, so that the order of additions does not
  // depend on what else the program computes.
  void cut() {
    constexpr int64_t kSegment = 4096;
    bool reduces = false, whole = false;
    unit_ = 1;
    for (size_t k = 0; k < e_.stores.size(); ++k) {
      if (!folds_[k]) continue;
      reduces = true;
      if (is_whole(k))
        whole = true;
      else
        unit_ = std::max(unit_, extent_[k]);  // a multiple of the others: all are products of the last axes
    }
    if (whole && unit_ < kSegment) unit_ = (kSegment + unit_ - 1) / unit_ * unit_;  // no row is cut
    int64_t cost = 8;
    if (!reduces) {
      unit_ = kLeastTile;
      cost = static_cast<int64_t>(e_.loads.size() + e_.stores.size());
      for (const Instruction& x : e_.instructions) cost += weight(x.name);
    }
    units_ = unit_ ? (size_ + unit_ - 1) / unit_ : 0;
    unit_cost_ = unit_ * cost / 2;
    chunks_ = size_ ? parts(units_, unit_cost_) : 0;
  }

  // Element operations that one of `name` is worth.
  static int64_t weight(const std::string& name) {
    static const std::map<std::string, int64_t> heavy = {{"exp", 4},        {"log", 4},
                                                         {"tanh", 8},       {"erf", 8},
                                                         {"sigmoid", 6},    {"gelu", 10},
                                                         {"gelu_tanh", 8},  {"sin", 30},
                                                         {"cos", 30},       {"pow", 40},
                                                         {"softplus", 12},  {"silu", 6},
                                                         {"gelu_grad", 14}, {"gelu_tanh_grad", 12},
                                                         {"atan2", 30},     {"random_bits", 8},
                                                         {"remainder", 20}, {"floor_divide", 20}};
    auto found = heavy.find(name);
    return found == heavy.end() ? 1 : found->second;
  }

  // -- a run ----------------------------------------------------------------------------------------------------------------

  // Whether a result must not be written before the tile is done: it lies over an input that is still to be read.
  bool must_wait(size_t k, const void* const* inputs, void* const* outputs) const {
    if (!is_direct_[k]) return false;
    const Store& y = e_.stores[k];
    auto* out = static_cast<const char*>(outputs[y.output]);
    int made = y.reg - static_cast<int>(e_.loads.size() + e_.numbers.size());
    for (size_t r = 0; r < e_.loads.size(); ++r) {
      auto* x = static_cast<const char*>(inputs[e_.loads[r].input]);
      bool apart = x + size_ * itemsize(e_.loads[r].dtype) <= out || out + size_ * itemsize(y.dtype) <= x;
      if (kind_[r] == Kind::Direct && !apart && last_read_[r] > made) return true;
    }
    return false;
  }

  void run_chunk(int64_t chunk, const void* const* inputs, void* const* outputs, char* scratch) const {
    int64_t begin = units_ * chunk / chunks_ * unit_, end = std::min(size_, units_ * (chunk + 1) / chunks_ * unit_);
    bool staged[kMostStores];
    for (size_t k = 0; k < e_.stores.size(); ++k) staged[k] = must_wait(k, inputs, outputs);
    char* tiles = tile_memory(slots_ * slot_bytes_);
    size_t registers = kind_.size();
    char *base[kMostRegisters], *at[kMostRegisters];
    int64_t stride[kMostRegisters];
    for (size_t r = 0; r < registers; ++r) {
      base[r] = slot_[r] < 0 ? nullptr : tiles + slot_[r] * slot_bytes_;
      stride[r] = 0;
      if (kind_[r] == Kind::Direct) {
        const Load& x = e_.loads[r];
        stride[r] = itemsize(x.dtype);
        base[r] = static_cast<char*>(const_cast<void*>(inputs[x.input])) + x.offset * stride[r];
      } else if (direct_[r] >= 0 && !staged[direct_[r]]) {
        const Store& y = e_.stores[direct_[r]];
        stride[r] = itemsize(y.dtype);
        base[r] = static_cast<char*>(outputs[y.output]) + y.offset * stride[r];
      }
    }
    fill_constants(inputs, base, begin, std::min(tile_, end - begin));
    RowState rows[kMostStores];
    for (size_t k = 0; k < e_.stores.size(); ++k) {
      if (!folds_[k]) continue;
      if (is_row(k)) {
        folds_[k]->begin(rows[row_[k]]);
      } else {
        char* partial = partial_of(k, chunk, scratch);
        folds_[k]->clear(partial, extent_[k]);
        folds_[k]->clear(partial + partial_size(k) / 2, extent_[k]);
      }
    }
    for (int64_t i = begin; i < end; i += tile_) {
      int64_t n = std::min(tile_, end - i);
      for (size_t r = 0; r < registers; ++r) at[r] = base[r] + i * stride[r];
      fetch_next(at, stride, std::min(tile_, end - i - n));
      for (size_t r = 0; r < e_.loads.size(); ++r) {
        if (kind_[r] == Kind::Gathered) gather(e_.loads[r], at[r], inputs, i, n);
      }
      for (const Step& step : steps_) {
        const void* x[3];
        for (int k = 0; k < step.count; ++k) x[k] = at[step.operands[k]];
        step.apply(at[step.result], x, n, i);
        if (step.round) step.round(at[step.result], x, n, i);
      }
      for (size_t k = 0; k < e_.stores.size(); ++k) {
        const Store& y = e_.stores[k];
        if (!folds_[k]) {
          if (!is_direct_[k] || staged[k]) scatter(y, at[y.reg], outputs, i, n);
        } else if (is_row(k)) {
          fold_rows(k, at[y.reg], i, n, rows[row_[k]], outputs);
        } else {
          fold_columns(k, at[y.reg], i, n, partial_of(k, chunk, scratch));
        }
      }
    }
    for (size_t k = 0; k < e_.stores.size(); ++k) {
      if (folds_[k] && !is_row(k)) add_recent(k, partial_of(k, chunk, scratch));
      if (is_whole(k)) std::memcpy(partial_of(k, chunk, scratch), &rows[row_[k]], sizeof(RowState));
    }
  }

  // Asks for the next n elements of what is read where it lies, which come while this tile is computed.
  void fetch_next(char* const* at, const int64_t* stride, int64_t n) const {
    for (size_t r = 0; r < e_.loads.size(); ++r) {
      if (kind_[r] != Kind::Direct) continue;
      const char* next = at[r] + tile_ * stride[r];
      for (int64_t byte = 0; byte < n * stride[r]; byte += 64) __builtin_prefetch(next + byte);
    }
  }

  void fill_constants(const void* const* inputs, char* const* base, int64_t begin, int64_t n) const {
    for (size_t r = 0; r < e_.loads.size(); ++r) {
      const Load& x = e_.loads[r];
      if (kind_[r] != Kind::Constant) continue;
      gather(x, base[r], inputs, begin, n);
    }
    for (size_t k = 0; k < e_.numbers.size(); ++k) {
      auto& [number, dtype] = e_.numbers[k];
      char* tile = base[e_.loads.size() + k];
      with_any(dtype, [&](auto t) {
        using T = decltype(t);
        using W = typename Wide<T>::type;
        W value = std::visit([](auto v) { return static_cast<W>(v); }, number);
        if constexpr (!std::is_same_v<T, W>) value = Wide<T>::load(Wide<T>::store(value));
        std::fill_n(reinterpret_cast<W*>(tile), n, value);
      });
    }
  }

  // Short runs are frequent: a call would take as long as they do.
  static void copy_run(char* to, const char* from, int64_t bytes) {
    for (; bytes >= 64; bytes -= 64, to += 64, from += 64) std::memcpy(to, from, 64);
    std::memcpy(to, from, bytes);
  }

  void gather(const Load& x, char* tile, const void* const* inputs, int64_t i, int64_t n) const {
    auto* array = static_cast<const char*>(inputs[x.input]) + x.offset * itemsize(x.dtype);
    int64_t bytes = itemsize(x.dtype), in_tile_bytes = itemsize(in_tile(x.dtype));
    space_.each_run(x.steps, i, n, [&](int64_t place, int64_t element, int64_t step, int64_t length) {
      if (step == 1 && !is_half(x.dtype)) return copy_run(tile + place * bytes, array + element * bytes, length * bytes);
      load(x.dtype, tile + place * in_tile_bytes, array + element * bytes, step, length);
    });
  }

  void scatter(const Store& y, const char* tile, void* const* outputs, int64_t i, int64_t n) const {
    auto* array = static_cast<char*>(outputs[y.output]) + y.offset * itemsize(y.dtype);
    int64_t bytes = itemsize(y.dtype), in_tile_bytes = itemsize(in_tile(y.dtype));
    space_.each_run(y.steps, i, n, [&](int64_t place, int64_t element, int64_t step, int64_t length) {
      store(y.dtype, array + element * bytes, tile + place * in_tile_bytes, step, length);
    });
  }

  bool is_row(size_t k) const { return folds_[k] && e_.stores[k].axes < 0; }
  bool is_whole(size_t k) const { return is_row(k) && extent_[k] == size_; }

  int64_t partial_size(size_t k) const {
    int64_t columns = aligned(extent_[k] * itemsize(in_tile(dtype_[e_.stores[k].reg])));
    return is_row(k) ? static_cast<int64_t>(sizeof(RowState)) : 2 * columns;
  }

  char* partial_of(size_t k, int64_t chunk, char* scratch) const { return scratch + partial_[k] + chunk * partial_size(k); }

  void write(const Store& y, void* const* outputs, int64_t element, const void* tile, int64_t n) const {
    store(y.dtype, static_cast<char*>(outputs[y.output]) + element * itemsize(y.dtype), tile, 1, n);
  }

  double divisor(size_t k) const {
    if (e_.stores[k].reduction != "mean") return 1;
    return static_cast<double>(is_row(k) ? extent_[k] : size_ / extent_[k]);
  }

  // Elements i ... i + n - 1 of rows of the length extent_[k]; each row that is done is written.
  void fold_rows(size_t k, const char* tile, int64_t i, int64_t n, RowState& row, void* const* outputs) const {
    const Fold& fold = *folds_[k];
    int64_t length = extent_[k], bytes = itemsize(in_tile(dtype_[e_.stores[k].reg]));
    for (int64_t pos = i; pos < i + n;) {
      int64_t in_row = pos % length, piece = std::min(length - in_row, i + n - pos);
      if (in_row == 0) fold.begin(row);
      fold.row(row, in_row, tile + (pos - i) * bytes, piece);
      pos += piece;
      if (in_row + piece == length && length < size_) {
        double value;
        fold.finish(&value, row, divisor(k));
        write(e_.stores[k], outputs, (pos - 1) / length, &value, 1);
      }
    }
  }

  // The same elements, added to the columns that they are in: some rows together, and these sums to those of the rows before,
  // for many small numbers added one by one to a large one would be lost.
  void fold_columns(size_t k, const char* tile, int64_t i, int64_t n, char* partial) const {
    constexpr int64_t kTogether = 256;
    int64_t length = extent_[k], bytes = itemsize(in_tile(dtype_[e_.stores[k].reg]));
    char* recent = partial + partial_size(k) / 2;
    for (int64_t pos = i; pos < i + n;) {
      int64_t column = pos % length, left = i + n - pos, piece = std::min(length - column, left), count = 1;
      if (!column && left > length) count = std::min(left / length, kTogether - pos / length % kTogether);
      folds_[k]->rows(recent + column * bytes, tile + (pos - i) * bytes, piece, count);
      pos += piece * count;
      if (column + piece == length && pos / length % kTogether == 0) add_recent(k, partial);
    }
  }

  void add_recent(size_t k, char* partial) const {
    char* recent = partial + partial_size(k) / 2;
    folds_[k]->rows(partial, recent, extent_[k], 1);
    folds_[k]->clear(recent, extent_[k]);
  }

  void join_chunks(void* const* outputs, char* scratch) const {
    for (size_t k = 0; k < e_.stores.size(); ++k) {
      if (!folds_[k]) continue;
      const Fold& fold = *folds_[k];
      char* total = partial_of(k, 0, scratch);
      if (is_row(k)) {
        if (extent_[k] != size_) continue;
        auto& row = *reinterpret_cast<RowState*>(total);
        for (int64_t chunk = 1; chunk < chunks_; ++chunk) {
          fold.join(row, *reinterpret_cast<RowState*>(partial_of(k, chunk, scratch)));
        }
        double value;
        fold.finish(&value, row, divisor(k));
        write(e_.stores[k], outputs, 0, &value, 1);
      } else {
        for (int64_t chunk = 1; chunk < chunks_; ++chunk) fold.rows(total, partial_of(k, chunk, scratch), extent_[k], 1);
        if (divisor(k) != 1) fold.divide(total, extent_[k], divisor(k));
        write(e_.stores[k], outputs, 0, total, extent_[k]);
      }
    }
  }

  // Reductions of no elements.
  void finish_empty(void* const* outputs) const {
    for (size_t k = 0; k < e_.stores.size(); ++k) {
      if (!folds_[k]) continue;
      RowState row;
      double value;
      folds_[k]->begin(row);
      folds_[k]->finish(&value, row, e_.stores[k].reduction == "mean" ? 0 : 1);
      for (int64_t i = 0; i < count_[k]; ++i) write(e_.stores[k], outputs, i, &value, 1);
    }
  }

  Expression e_;
  Space space_;
  int64_t size_ = 0;
  std::vector<Kind> kind_;  // of each register
  std::vector<DType> dtype_;
  std::vector<int> slot_, last_read_;  // the place of its tile, and the last step that reads it
  std::vector<int> direct_;            // the store that it is written for, straight to the output
  std::vector<Step> steps_;
  std::vector<bool> is_direct_;  // of each store
  std::vector<const Fold*> folds_;
  std::vector<int> row_;  // which of the rows' states is its own
  int rows_ = 0;
  std::vector<int64_t> extent_;   // the length of the rows that it reduces, or of the row that is left
  std::vector<int64_t> partial_;  // where its chunks' results are in the scratch memory
  std::vector<int64_t> count_;    // how many elements a reduction gives
  int64_t tile_ = 0, slot_bytes_ = 0, slots_ = 0, period_ = 1, unit_ = 1, units_ = 0, unit_cost_ = 0, chunks_ = 0,
          partial_bytes_ = 0;
};

class Programs : public Kernel {
 public:
  Programs(const std::vector<std::shared_ptr<const Kernel>>& programs, const std::vector<int>& inputs,
           const std::vector<int>& outputs) {
    std::vector<int64_t> before;  // the work of all chunks before each
    int64_t work = 0;
    for (size_t i = 0, input = 0, output = 0; i < programs.size(); ++i) {
      auto program = std::dynamic_pointer_cast<const Program>(programs[i]);
      if (!program || std::any_of(program->folds_.begin(), program->folds_.end(), [](auto* fold) { return fold; }))
        throw std::invalid_argument("only programs without a reduction run as one");
      for (int64_t chunk = 0; chunk < program->chunks_; ++chunk) {
        chunks_.push_back({program, chunk, input, output});
        before.push_back(work);
        work += program->units_ * program->unit_cost_ / program->chunks_;
      }
      input += inputs.at(i), output += outputs.at(i);
    }
    int64_t count = parts(work, 1);
    for (size_t i = 0; i < chunks_.size(); ++i) {
      if (before[i] * count >= static_cast<int64_t>(starts_.size()) * work) starts_.push_back(i);
    }
    starts_.push_back(chunks_.size());
  }

  void run(const void* const* inputs, void* const* outputs, void*) const override {
    parallel(static_cast<int64_t>(starts_.size()) - 1, [&](int64_t k) {
      for (size_t i = starts_[k]; i < starts_[k + 1]; ++i) {
        const Chunk& c = chunks_[i];
        c.program->run_chunk(c.number, inputs + c.input, outputs + c.output, nullptr);
      }
    });
  }

 private:
  struct Chunk {
    std::shared_ptr<const Program> program;
    int64_t number;
    size_t input, output;  // the first of the program's
  };
  std::vector<Chunk> chunks_;
  std::vector<size_t> starts_;  // of parts of about the same work
};

}  // namespace

std::unique_ptr<Kernel> make_program(Expression expression) { return std::make_unique<Program>(std::move(expression)); }

std::unique_ptr<Kernel> make_programs(const std::vector<std::shared_ptr<const Kernel>>& programs,
                                      const std::vector<int>& inputs, const std::vector<int>& outputs) {
  return std::make_unique<Programs>(programs, inputs, outputs);
}

}  // namespace needle
