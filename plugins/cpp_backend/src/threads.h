// Threads: OpenMP's, which oneDNN uses too, so that they stay warm from one kernel to the next.
#pragma once

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>

namespace needle {

void set_num_threads(int n);
int num_threads();

// Calls f(i) for i in 0 ... n - 1, in any order, side by side if there are several. An exception of one is raised at the end.
//
// Each thread begins with a share of its own, the same in every kernel that cuts its work alike, so that what one kernel left
// in the cache of a core is read there by the next. Who is done early helps the others.
template <class F>
void parallel(int64_t n, F f) {
  constexpr int kMostThreads = 64;
  int team = static_cast<int>(std::min<int64_t>({num_threads(), n, kMostThreads}));
  if (team < 2 || omp_in_parallel()) {
    for (int64_t i = 0; i < n; ++i) f(i);
    return;
  }
  struct alignas(64) Share {
    std::atomic<int64_t> next;
    int64_t end;
  } shares[kMostThreads];
  for (int t = 0; t < team; ++t) shares[t].next = n * t / team, shares[t].end = n * (t + 1) / team;
  std::exception_ptr failure;
#pragma omp parallel num_threads(team)
  for (int k = 0, own = omp_get_thread_num(); k < team; ++k) {
    Share& share = shares[(own + k) % team];
    for (int64_t i; (i = share.next.fetch_add(1, std::memory_order_relaxed)) < share.end;) {
      try {
        f(i);
      } catch (...) {
#pragma omp critical
        failure = std::current_exception();
      }
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
