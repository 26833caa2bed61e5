// Runs the threads of a block as fibers: each goes on until it comes to a barrier or a shuffle, or ends.
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

struct Dim {
  unsigned x, y, z;
};

extern "C" {
thread_local Dim threadIdx, blockIdx, blockDim, gridDim;
}

namespace {

constexpr int kWarp = 32, kStack = 1 << 16;

enum class State { Ready, AtBarrier, AtShuffle, Done };

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStack]};
  State state = State::Ready;
  Dim index{};
  unsigned long long bits = 0;  // what it gives to a shuffle
};

struct Block {
  ucontext_t scheduler;
  std::vector<std::unique_ptr<Fiber>> fibers;
  Fiber* current = nullptr;
  unsigned size = 0;
  void (*thread)(const void*) = nullptr;
  const void* closure = nullptr;
};

thread_local Block block;

[[noreturn]] void stop(const char* what) {
  std::fprintf(stderr, "simulated device: %s in block (%u, %u, %u), thread (%u, %u, %u)\n", what, blockIdx.x, blockIdx.y,
               blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
  std::abort();
}

void begin() {
  block.thread(block.closure);
  block.current->state = State::Done;
  swapcontext(&block.current->context, &block.scheduler);
}

void wait(State state) {
  block.current->state = state;
  swapcontext(&block.current->context, &block.scheduler);
}

// Let those go on that have all come: a warp's lanes at a shuffle, all that are alive at a barrier.
void release() {
  for (unsigned first = 0; first < block.size; first += kWarp) {
    unsigned end = first + kWarp < block.size ? first + kWarp : block.size, at_shuffle = 0;
    for (unsigned i = first; i < end; ++i) at_shuffle += block.fibers[i]->state == State::AtShuffle;
    if (at_shuffle == 0) continue;
    if (at_shuffle < end - first) stop("a shuffle that not all lanes of a warp reach");
    for (unsigned i = first; i < end; ++i) block.fibers[i]->state = State::Ready;
    return;
  }
  bool waiting = false;
  for (unsigned i = 0; i < block.size; ++i) {
    if (block.fibers[i]->state == State::AtBarrier) block.fibers[i]->state = State::Ready, waiting = true;
  }
  (void)waiting;
}

Dim index_of(unsigned i) { return {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)}; }

void run_fibers() {
  while (block.fibers.size() < block.size) block.fibers.push_back(std::make_unique<Fiber>());
  for (unsigned i = 0; i < block.size; ++i) {
    Fiber& fiber = *block.fibers[i];
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = nullptr;
    fiber.state = State::Ready;
    fiber.index = index_of(i);
    makecontext(&fiber.context, begin, 0);
  }
  for (unsigned alive = block.size; alive > 0;) {
    bool ran = false;
    for (unsigned i = 0; i < block.size; ++i) {
      Fiber& fiber = *block.fibers[i];
      if (fiber.state != State::Ready) continue;
      ran = true;
      block.current = &fiber;
      threadIdx = fiber.index;
      swapcontext(&block.scheduler, &fiber.context);
      alive -= fiber.state == State::Done;
    }
    if (!ran && alive > 0) release();
  }
}

}  // namespace

extern "C" {

void simulator_barrier() { wait(State::AtBarrier); }

unsigned long long simulator_exchange(unsigned long long bits, int lane) {
  Fiber* self = block.current;
  self->bits = bits;
  wait(State::AtShuffle);
  unsigned me = self->index.x + blockDim.x * (self->index.y + blockDim.y * self->index.z);
  unsigned long long result = block.fibers[me / kWarp * kWarp + lane]->bits;
  wait(State::AtShuffle);  // until all have read
  return result;
}

// `launch` is the grid's three sizes, then the block's.
void simulator_run(void (*thread)(const void*), const void* closure, const long long* launch, bool has_barriers) {
  gridDim = {unsigned(launch[0]), unsigned(launch[1]), unsigned(launch[2])};
  blockDim = {unsigned(launch[3]), unsigned(launch[4]), unsigned(launch[5])};
  block.size = blockDim.x * blockDim.y * blockDim.z;
  block.thread = thread;
  block.closure = closure;
  for (unsigned z = 0; z < gridDim.z; ++z) {
    for (unsigned y = 0; y < gridDim.y; ++y) {
      for (unsigned x = 0; x < gridDim.x; ++x) {
        blockIdx = {x, y, z};
        if (has_barriers) {
          run_fibers();
        } else {
          for (unsigned i = 0; i < block.size; ++i) {
            threadIdx = index_of(i);
            thread(closure);
          }
        }
      }
    }
  }
}

float simulator_float_of_half(unsigned short bits) { return static_cast<float>(__builtin_bit_cast(_Float16, bits)); }
unsigned short simulator_half_of_float(float x) { return __builtin_bit_cast(unsigned short, static_cast<_Float16>(x)); }
}
