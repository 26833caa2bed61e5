#include "threads.h"

#include <pthread.h>

namespace needle {
namespace {

int threads = 0;

// The threads of a forked process are gone, and OpenMP would wait for them for ever. Alone it works.
void after_fork() {
  threads = 1;
  omp_set_num_threads(1);
}

const int registered = pthread_atfork(nullptr, nullptr, after_fork);

}  // namespace

void set_num_threads(int n) {
  threads = n;
  omp_set_num_threads(n);
}

int num_threads() {
  if (!threads) threads = omp_get_max_threads();
  return threads;
}

}  // namespace needle
