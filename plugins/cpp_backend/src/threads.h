// Threads: OpenMP's, which oneDNN uses too, so that they stay warm from one kernel to the next.
#pragma once

#include <omp.h>

#include <cstdint>
#include <exception>

namespace needle {

void set_num_threads(int n);
int num_threads();

// Calls f(i) for i in 0 ... n - 1, in any order, side by side if there are several. An exception of one is raised at the end.
template <class F>
void parallel(int64_t n, F f) {
  int team = num_threads();
  if (n < 2 || team < 2 || omp_in_parallel()) {
    for (int64_t i = 0; i < n; ++i) f(i);
    return;
  }
  std::exception_ptr failure;
#pragma omp parallel for schedule(dynamic, 1) num_threads(team < n ? team : static_cast<int>(n))
  for (int64_t i = 0; i < n; ++i) {
    try {
      f(i);
    } catch (...) {
#pragma omp critical
      failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);
}

// Into how many parts to cut `n` units of `cost` element operations each: 1 where threads do not pay, the same for any number
// of threads, so that sums come out the same.
inline int64_t parts(int64_t n, int64_t cost) {
  constexpr int64_t kWorthwhile = 32768, kMost = 16;
  int64_t wanted = n * (cost < 1 ? 1 : cost) / kWorthwhile;
  int64_t most = n < kMost ? n : kMost;
  return wanted < 2 ? 1 : wanted < most ? wanted : most;
}

// Cuts 0 ... n - 1 into parts and calls f(first, last) for each.
template <class F>
void parallel_ranges(int64_t n, int64_t cost, F f) {
  if (!n) return;
  int64_t count = parts(n, cost);
  parallel(count, [&](int64_t i) { f(n * i / count, n * (i + 1) / count); });
}

}  // namespace needle
