#include "threads.h"

#include <pthread.h>

#include <atomic>

namespace needle {
namespace {

std::atomic<int> threads = 0;

// The threads of OpenMP do not survive a fork, and the child would wait for them for ever. So they end before: the next kernel
// starts new ones, in the parent and in the child.
void before_fork() { omp_pause_resource_all(omp_pause_soft); }

const int registered = pthread_atfork(before_fork, nullptr, nullptr);

}  // namespace

void set_num_threads(int n) { threads = n; }

int num_threads() {
  int n = threads;
  if (!n) threads = n = omp_get_max_threads();
  return n;
}

}  // namespace needle
