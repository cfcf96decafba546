// The inner loop of every convolution: the product of a few rows and a few vectors of lanes, whose sums stay in
// registers.
#pragma once

#include "common/vector.h"

namespace rlv2v::RLV2V_ISA {

// The most vectors of lanes in one tile. With kTileRows rows of sums, the loaded lanes and a broadcast, they fill the
// registers (24 + 4 + 1 of 32, or 12 + 2 + 1 of 16).
constexpr int kTileVectors = kVectorRegisters == 32 ? 4 : 2;
constexpr int kTileRows = 6;

// out[p][:] (+)= sum over segments s and depth r of a[p][s, r] * b[s, r][:], where
//   a[p][s, r] is a[p * a_row_stride + s * a_segment_stride + r * a_depth_stride] and b[s, r] is b[s * b_segment_stride
//   + r * b_depth_stride ...].
template <class T>
struct TileProduct {
  const T* a;
  int64_t a_row_stride, a_depth_stride, a_segment_stride;
  const T* b;
  int64_t b_depth_stride, b_segment_stride;
  T* out;
  int64_t out_row_stride;
  int64_t rows, depth, segments;
  // Adding a finished sum to out keeps long sums accurate: each call rounds only over its own depth.
  bool add;
};

// What the rows of a are: pixels of an image (depth is contiguous), or channels of one pixel (rows are contiguous).
enum class Rows { pixels, channels };

template <class T, int kVectors, int kRows, Rows kind>
void multiply_tile(const TileProduct<T>& q, int64_t first_row) {
  // Three rows share a pointer, so that x86 can address them as base, base + row, base + 2 row.
  constexpr int kPointers = (kRows + 2) / 3;
  const int64_t row = kind == Rows::pixels ? q.a_row_stride : 1, step = kind == Rows::pixels ? 1 : q.a_depth_stride;
  Vec<T> sum[kRows][kVectors] = {};
  for (int64_t segment = 0; segment < q.segments; ++segment) {
    const T* a[kPointers];
    for (int j = 0; j < kPointers; ++j) a[j] = q.a + segment * q.a_segment_stride + (first_row + 3 * j) * row;
    const T* b = q.b + segment * q.b_segment_stride;
    for (int64_t r = 0; r < q.depth; ++r) {
      Vec<T> lanes[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) lanes[v] = load(b + v * kLanes<T>);
#pragma GCC unroll 12
      for (int p = 0; p < kRows; ++p) {
        const T factor = a[p / 3][(p % 3) * row];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) sum[p][v] += lanes[v] * factor;
      }
#pragma GCC unroll 4
      for (int j = 0; j < kPointers; ++j) a[j] += step;
      b += q.b_depth_stride;
    }
  }
#pragma GCC unroll 12
  for (int p = 0; p < kRows; ++p)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      T* out = q.out + (first_row + p) * q.out_row_stride + v * kLanes<T>;
      store<T>(out, q.add ? load(out) + sum[p][v] : sum[p][v]);
    }
}

// The rows that whole tiles leave over: at most kRows.
template <class T, int kVectors, int kRows, Rows kind>
void multiply_rest(const TileProduct<T>& q, int64_t first_row) {
  if constexpr (kRows > 0) {
    if (q.rows - first_row == kRows)
      multiply_tile<T, kVectors, kRows, kind>(q, first_row);
    else
      multiply_rest<T, kVectors, kRows - 1, kind>(q, first_row);
  }
}

template <class T, int kVectors, Rows kind>
void multiply(const TileProduct<T>& q) {
  // Fewer vectors leave registers for more rows, which hides the latency of the multiply-add.
  constexpr int kRows = kVectors == kTileVectors ? kTileRows : 2 * kTileRows;
  int64_t row = 0;
  for (; row + kRows <= q.rows; row += kRows) multiply_tile<T, kVectors, kRows, kind>(q, row);
  multiply_rest<T, kVectors, kRows - 1, kind>(q, row);
}

template <class T, Rows kind>
void multiply(const TileProduct<T>& q, int vectors) {
  if (vectors == 4) {
    if constexpr (kTileVectors == 4) multiply<T, 4, kind>(q);
  } else if (vectors == 2) {
    multiply<T, 2, kind>(q);
  } else {
    multiply<T, 1, kind>(q);
  }
}

// The vectors of an operand are packed in panels of kTileVectors while they last, then 2 and 1. The panels follow each
// other, so that the one whose first vector is `first` of `total` begins first / total of the way in. This is its
// number of vectors.
RLV2V_INLINE int panel_vectors(int64_t first, int64_t total) {
  if (total - first >= kTileVectors) return kTileVectors;
  return total - first >= 2 ? 2 : 1;
}

// The first vector of the panel that holds `vector`.
RLV2V_INLINE int64_t panel_of(int64_t vector, int64_t total) {
  int64_t first = vector / kTileVectors * kTileVectors;
  while (first + panel_vectors(first, total) <= vector) first += panel_vectors(first, total);
  return first;
}

// The first vector of panel number `index`.
RLV2V_INLINE int64_t panel_first(int64_t index, int64_t total) {
  int64_t first = 0;
  for (int64_t i = 0; i < index; ++i) first += panel_vectors(first, total);
  return first;
}

RLV2V_INLINE int64_t panel_count(int64_t total) {
  return total / kTileVectors + (total % kTileVectors) / 2 + (total % kTileVectors) % 2;
}

}  // namespace rlv2v::RLV2V_ISA
