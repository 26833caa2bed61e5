// Running sums over lanes.
#pragma once

#include "prelude.cuh"

// The sum of `x` of the threads before this one, and `total`, that of all, among those with one threadIdx.y. Blocks have 32
// threads along x, or one row of more, as for over_lanes.
template <class A>
__device__ inline A sum_before(A x, A* total) {
  const int lane = int(threadIdx.x % 32);
  A sum = x;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    A other = __shfl_sync(0xffffffffu, sum, lane < step ? lane : lane - step);
    if (lane >= step) sum += other;
  }
  // The first lane's sum before is 0, which sum - x would not be after infinity.
  A before = __shfl_sync(0xffffffffu, sum, lane ? lane - 1 : 0);
  before = lane ? before : A(0);
  *total = __shfl_sync(0xffffffffu, sum, 31);
  if (blockDim.x == 32) return before;
  __shared__ A parts[32];
  __syncthreads();  // the parts of a sum before have been read
  if (lane == 31) parts[threadIdx.x / 32] = sum;
  __syncthreads();
  A warps = 0, all = 0;
  for (int i = 0; i < int(blockDim.x / 32); ++i) {
    if (i == int(threadIdx.x / 32)) warps = all;
    all += parts[i];
  }
  *total = all;
  return warps + before;
}
