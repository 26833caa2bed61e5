// Runs the threads of a block as fibers: each goes on until it comes to a barrier or a shuffle, or ends.
#include <ucontext.h>

#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <vector>

struct Dim {
  unsigned x, y, z;
};

extern "C" {
thread_local Dim threadIdx, blockIdx, blockDim, gridDim;
}

namespace {

constexpr unsigned kWarp = 32;
constexpr int kStack = 1 << 16;

enum class State { Ready, AtBarrier, AtShuffle, Done };

struct Fiber {
  std::unique_ptr<char[]> stack{new char[kStack]};
  std::jmp_buf place{};  // where it goes on
  bool has_begun = false;
  State state = State::Ready;
  unsigned number = 0;
  unsigned turn = 0;                // of shuffles: a lane is at most one ahead of another
  unsigned long long bits[2] = {};  // what it gives to the shuffle of a turn
};

struct Block {
  std::jmp_buf scheduler{};
  std::vector<std::unique_ptr<Fiber>> fibers;
  Fiber* current = nullptr;
  unsigned size = 0, step = 0;
  void (*thread)(const void*) = nullptr;
  const void* closure = nullptr;
};

thread_local Block block;

[[noreturn]] void stop(const char* what) {
  std::fprintf(stderr, "simulated device: %s in block (%u, %u, %u), thread (%u, %u, %u)\n", what, blockIdx.x, blockIdx.y,
               blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
  std::abort();
}

// Back to the scheduler. Contexts only begin fibers: to change between them they would make two calls of the system each time.
void wait(State state) {
  Fiber* self = block.current;
  self->state = state;
  if (!_setjmp(self->place)) _longjmp(block.scheduler, 1);
}

// A fiber runs one thread after another, of one block after another.
void run_threads() {
  for (;;) {
    block.thread(block.closure);
    wait(State::Done);
  }
}

void resume(Fiber& fiber) {
  if (_setjmp(block.scheduler)) return;
  block.current = &fiber;
  if (fiber.has_begun) _longjmp(fiber.place, 1);
  fiber.has_begun = true;
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = fiber.stack.get();
  context.uc_stack.ss_size = kStack;
  context.uc_link = nullptr;
  makecontext(&context, run_threads, 0);
  setcontext(&context);
}

// Let those go on that have all come: the lanes of a warp at a shuffle; else all that are alive, at a barrier.
void release() {
  bool released = false;
  for (unsigned first = 0; first < block.size; first += kWarp) {
    unsigned end = std::min(first + kWarp, block.size), at_shuffle = 0;
    for (unsigned i = first; i < end; ++i) at_shuffle += block.fibers[i]->state == State::AtShuffle;
    if (at_shuffle == 0) continue;
    if (at_shuffle < end - first) stop("a shuffle that not all lanes of a warp reach");
    for (unsigned i = first; i < end; ++i) block.fibers[i]->state = State::Ready;
    released = true;
  }
  for (unsigned i = 0; !released && i < block.size; ++i) {
    if (block.fibers[i]->state == State::AtBarrier) block.fibers[i]->state = State::Ready;
  }
}

Dim index_of(unsigned i) { return {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)}; }

// How far it is from a thread to the one that runs next, each time another: what lacks a barrier gives wrong numbers then.
unsigned next_step() {
  do {
    block.step = (block.step * 5 + 3) % 1024;
  } while (std::gcd(block.step, block.size) != 1);
  return block.step;
}

void run_fibers() {
  while (block.fibers.size() < block.size) {
    block.fibers.push_back(std::make_unique<Fiber>());
    block.fibers.back()->number = static_cast<unsigned>(block.fibers.size()) - 1;
  }
  for (unsigned i = 0; i < block.size; ++i) block.fibers[i]->state = State::Ready, block.fibers[i]->turn = 0;
  for (unsigned alive = block.size, at = 0; alive > 0;) {
    bool ran = false;
    unsigned step = next_step();
    for (unsigned k = 0; k < block.size; ++k) {
      at = (at + step) % block.size;
      Fiber& fiber = *block.fibers[at];
      if (fiber.state != State::Ready) continue;
      ran = true;
      threadIdx = index_of(at);
      resume(fiber);
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
  unsigned turn = self->turn++ % 2;
  self->bits[turn] = bits;
  wait(State::AtShuffle);
  return block.fibers[self->number / kWarp * kWarp + lane]->bits[turn];
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
