// A whole plan as one call: kernels one after the other over one arena.
#pragma once

#include <memory>
#include <mutex>

#include "types.h"

namespace needle {

// Where an array lies: `offset` bytes from the beginning of a base, which is the arena (0), an input, an output or a constant.
struct Place {
  int base;
  int64_t offset;
};

struct Task {
  std::shared_ptr<const Kernel> kernel;
  std::vector<Place> inputs, outputs;
};

// A kernel's exception, and which task's it was.
struct TaskError {
  int task;
  std::exception_ptr cause;
};

// Tasks as one kernel: base 0 is its scratch memory, of which it takes `bytes` beside what the tasks need, then its inputs,
// then its outputs.
std::unique_ptr<Kernel> make_sequence(std::vector<Task> tasks, int inputs, int outputs, int64_t bytes);

class Executable {
 public:
  // `arena` bytes are needed beside the scratch memory of the tasks.
  Executable(std::vector<Task> tasks, int64_t arena);
  ~Executable();

  // bases[0] is the arena's and set here. Safe to call from several threads. Throws TaskError.
  void run(void** bases) const;

  // The same, and adds the seconds that each task took.
  void run_timed(void** bases, double* seconds) const;

 private:
  struct Arena;
  template <class F>
  void with_arena(void** bases, F f) const;

  std::vector<Task> tasks_;
  int64_t scratch_;  // where it begins in the arena
  int64_t bytes_;
  mutable std::mutex lock_;
  mutable std::vector<char*> idle_;  // arenas that no call uses
};

}  // namespace needle
