// Products of small matrices by one thread: a register tile of the result at a time, nothing copied that lies well already.
//
// For matrices that fit into the second cache; oneDNN takes as long to begin as such a product lasts.
#pragma once

#include <algorithm>

#include "lanes.h"

namespace needle {

constexpr int kTileRows = kVectorBytes == 64 ? 8 : 4, kTileVectors = 3;  // sums in 24 of 32 registers, or in 12 of 16

template <class T>
constexpr int kTileColumns = kTileVectors * static_cast<int>(kLanes<T>);

// A matrix whose element (i, j) is data[i * row + j * column].
template <class T>
struct Matrix {
  T* data;
  int64_t row, column;

  Matrix from(int64_t i, int64_t j) const { return {data + i * row + j * column, row, column}; }
};

// Sums for kRows rows of a with kVectors vectors of columns of b, whose rows are `step` apart.
template <int kRows, int kVectors, class T>
void product_tile(Matrix<const T> a, const T* b, int64_t step, int64_t k, T* sums) {
  using V = typename Vector<T>::type;
  V sum[kRows][kVectors] = {};
  for (int64_t p = 0; p < k; ++p) {
    V right[kVectors];
    for (int j = 0; j < kVectors; ++j) right[j] = read<V>(b + p * step + j * kLanes<T>);
    for (int i = 0; i < kRows; ++i) {
      T left = a.data[i * a.row + p * a.column];
      for (int j = 0; j < kVectors; ++j) sum[i][j] += left * right[j];
    }
  }
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kVectors; ++j) *reinterpret_cast<V*>(sums + i * kTileColumns<T> + j * kLanes<T>) = sum[i][j];
  }
}

// The same for any number of rows up to kTileRows.
template <int kVectors, class T>
void product_rows(Matrix<const T> a, const T* b, int64_t step, int64_t k, int64_t rows, T* sums) {
  if (rows == kTileRows) return product_tile<kTileRows, kVectors>(a, b, step, k, sums);
  int64_t r = 0;
  for (; r + 2 <= rows; r += 2) product_tile<2, kVectors>(a.from(r, 0), b, step, k, sums + r * kTileColumns<T>);
  if (r < rows) product_tile<1, kVectors>(a.from(r, 0), b, step, k, sums + r * kTileColumns<T>);
}

// How many elements multiply() needs for a panel of b.
template <class T>
int64_t panel_size(int64_t k) {
  return k * kTileColumns<T>;
}

// Calls finish(i, j, count, sums) with the elements (i, j ... j + count - 1) of a b, for all i < m and j < n. `panel` has
// panel_size<T>(k) elements.
template <class T, class F>
void multiply(Matrix<const T> a, Matrix<const T> b, int64_t m, int64_t k, int64_t n, T* panel, F finish) {
  constexpr int kColumns = kTileColumns<T>;
  for (int64_t j = 0; j < n; j += kColumns) {
    int64_t count = std::min<int64_t>(kColumns, n - j), step = b.row;
    int64_t vectors = (count + kLanes<T> - 1) / kLanes<T>;
    const T* right = b.data + j * b.column;
    if (b.column != 1 || count % kLanes<T>) {  // it is copied, with zeros where it ends
      for (int64_t p = 0; p < k; ++p) {
        T* row = panel + p * kColumns;
        for (int64_t c = 0; c < count; ++c) row[c] = right[p * b.row + c * b.column];
        std::fill(row + count, row + kColumns, T(0));
      }
      right = panel, step = kColumns;
    }
    for (int64_t i = 0; i < m; i += kTileRows) {
      T sums[kTileRows * kColumns];
      int64_t height = std::min<int64_t>(kTileRows, m - i);
      auto rows = a.from(i, 0);
      if (vectors == 3)
        product_rows<3>(rows, right, step, k, height, sums);
      else if (vectors == 2)
        product_rows<2>(rows, right, step, k, height, sums);
      else
        product_rows<1>(rows, right, step, k, height, sums);
      for (int64_t r = 0; r < height; ++r) finish(i + r, j, count, sums + r * kColumns);
    }
  }
}

}  // namespace needle
