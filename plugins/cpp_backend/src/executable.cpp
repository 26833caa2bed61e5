#include "executable.h"

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>

namespace needle {
namespace {

constexpr size_t kFew = 256;  // operands of a task; for more, memory is taken at every run

char* allocate(int64_t bytes) {
  constexpr int64_t kHugePage = int64_t{1} << 21;
  bool huge = bytes >= 2 * kHugePage;
  int64_t unit = huge ? kHugePage : 64;
  auto* memory = static_cast<char*>(std::aligned_alloc(unit, (bytes + unit - 1) / unit * unit));
  if (!memory) throw std::bad_alloc();
  if (huge) madvise(memory, bytes, MADV_HUGEPAGE);
  return memory;
}

// Runs a task with scratch memory.
void run_task(const Task& task, char* const* bases, char* scratch) {
  void* few[kFew];
  std::vector<void*> many;
  void** operands = few;
  size_t inputs = task.inputs.size(), outputs = task.outputs.size();
  if (inputs + outputs > kFew) {
    many.resize(inputs + outputs);
    operands = many.data();
  }
  for (size_t i = 0; i < inputs; ++i) operands[i] = bases[task.inputs[i].base] + task.inputs[i].offset;
  for (size_t i = 0; i < outputs; ++i) operands[inputs + i] = bases[task.outputs[i].base] + task.outputs[i].offset;
  task.kernel->run(operands, operands + inputs, scratch);
}

int64_t most_scratch(const std::vector<Task>& tasks) {
  int64_t most = 0;
  for (const Task& task : tasks) most = std::max(most, task.kernel->scratch_bytes());
  return most;
}

class Sequence : public Kernel {
 public:
  Sequence(std::vector<Task> tasks, int inputs, int outputs, int64_t bytes)
      : tasks_(std::move(tasks)), inputs_(inputs), outputs_(outputs), own_(aligned(bytes)) {}

  int64_t scratch_bytes() const override { return own_ + most_scratch(tasks_); }

  void run(const void* const* inputs, void* const* outputs, void* scratch) const override {
    std::vector<char*> bases{static_cast<char*>(scratch)};
    for (int i = 0; i < inputs_; ++i) bases.push_back(static_cast<char*>(const_cast<void*>(inputs[i])));
    for (int i = 0; i < outputs_; ++i) bases.push_back(static_cast<char*>(outputs[i]));
    for (const Task& task : tasks_) run_task(task, bases.data(), bases[0] + own_);
  }

 private:
  std::vector<Task> tasks_;
  int inputs_, outputs_;
  int64_t own_;
};

}  // namespace

std::unique_ptr<Kernel> make_sequence(std::vector<Task> tasks, int inputs, int outputs, int64_t bytes) {
  return std::make_unique<Sequence>(std::move(tasks), inputs, outputs, bytes);
}

Executable::Executable(std::vector<Task> tasks, int64_t arena) : tasks_(std::move(tasks)), scratch_(aligned(arena)) {
  if (__builtin_add_overflow(scratch_, std::max<int64_t>(most_scratch(tasks_), 64), &bytes_)) throw std::bad_alloc();
}

Executable::~Executable() {
  for (char* arena : idle_) std::free(arena);
}

template <class F>
void Executable::with_arena(void** bases, F f) const {
  char* arena = nullptr;
  {
    std::lock_guard<std::mutex> guard(lock_);
    if (!idle_.empty()) {
      arena = idle_.back();
      idle_.pop_back();
    }
  }
  if (!arena) arena = allocate(bytes_);
  bases[0] = arena;
  int task = 0;
  std::exception_ptr failure;
  try {
    for (; task < static_cast<int>(tasks_.size()); ++task) f(task);
  } catch (...) {
    failure = std::current_exception();
  }
  {
    std::lock_guard<std::mutex> guard(lock_);
    idle_.push_back(arena);
  }
  if (failure) throw TaskError{task, failure};
}

void Executable::run(void** bases) const {
  auto* memory = reinterpret_cast<char**>(bases);
  with_arena(bases, [&](int i) { run_task(tasks_[i], memory, memory[0] + scratch_); });
}

void Executable::run_timed(void** bases, double* seconds) const {
  using Clock = std::chrono::steady_clock;
  auto* memory = reinterpret_cast<char**>(bases);
  with_arena(bases, [&](int i) {
    auto start = Clock::now();
    run_task(tasks_[i], memory, memory[0] + scratch_);
    seconds[i] += std::chrono::duration<double>(Clock::now() - start).count();
  });
}

}  // namespace needle
