// The two kinds of numbers that products of channels are computed with, and the loops of such products.
//
// A cell is what one multiply-add reads for a lane: a number (Plain), or two neighbours rounded to bfloat16 (Pairs), of
// which it adds both products. Cells have the size of the real numbers T that sums are kept in, and are moved as such.
#pragma once

#include "common/half.h"
#include "common/tile_product.h"

namespace rlv2v::RLV2V_ISA {

template <class T>
struct Plain {
  using Real = T;
  static constexpr int kPack = 1;
  // Vectors of reals that make whole vectors of cells.
  static constexpr int kWhole = 1;

  RLV2V_INLINE static Vec<T> cell_of(T cell) { return broadcast(cell); }
  RLV2V_INLINE static void multiply_add(Vec<T>& sum, const Vec<T>& lanes, const Vec<T>& cell) { sum += lanes * cell; }
  // kWhole vectors of neighbouring channels as cells.
  RLV2V_INLINE static Vec<T> pack(const Vec<T>* v) { return v[0]; }
  static T cell(T first, T) { return first; }
};

#if defined(__AVX512F__)
// The assembler knows these instructions; the compiler is told of AVX-512 without them.
RLV2V_INLINE Vec<float> round_both(const Vec<float>& low, const Vec<float>& high) {
  Vec<float> cells;
  asm("vcvtne2ps2bf16 %1, %2, %0" : "=v"(cells) : "v"(low), "v"(high));
  return cells;
}

struct Pairs {
  using Real = float;
  static constexpr int kPack = 2;
  static constexpr int kWhole = 2;

  RLV2V_INLINE static Vec<float> cell_of(float cell) { return (Vec<float>)_mm512_set1_ps(cell); }
  RLV2V_INLINE static void multiply_add(Vec<float>& sum, const Vec<float>& lanes, const Vec<float>& cell) {
    asm("vdpbf16ps %1, %2, %0" : "+v"(sum) : "v"(lanes), "v"(cell));
  }
  RLV2V_INLINE static Vec<float> pack(const Vec<float>* v) { return round_both(v[0], v[1]); }
  // Cells that hold a lane of a and the same lane of b.
  RLV2V_INLINE static Vec<float> pair(const Vec<float>& a, const Vec<float>& b) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return (Vec<float>)_mm512_permutexvar_epi16(order, (__m512i)round_both(a, b));
  }
  static float cell(float first, float second) {
    const uint32_t word = narrow<BFloat16>(first).bits | static_cast<uint32_t>(narrow<BFloat16>(second).bits) << 16;
    float cell;
    std::memcpy(&cell, &word, sizeof cell);
    return cell;
  }
};
#endif

// One factor of a product by rows: the cell of row p at depth r is first[p * row + r * step].
template <class T>
struct ByRows {
  const T* first;
  int64_t row, step;
};

// sum[p][v] += over r: rows(first_row + p, r) * lanes[r * lanes_step ...][v]
template <class N, int kVectors, int kRows, class T = typename N::Real>
RLV2V_INLINE void accumulate(Vec<T> (&sum)[kRows][kVectors], const ByRows<T>& rows, int64_t first_row, const T* lanes,
                             int64_t lanes_step, int64_t depth) {
  // Three rows share a pointer, so that x86 can address them as base, base + row, base + 2 row.
  constexpr int kPointers = (kRows + 2) / 3;
  const T* a[kPointers];
#pragma GCC unroll 4
  for (int j = 0; j < kPointers; ++j) a[j] = rows.first + (first_row + 3 * j) * rows.row;
  for (int64_t r = 0; r < depth; ++r) {
    Vec<T> b[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) b[v] = load(lanes + v * kLanes<T>);
#pragma GCC unroll 12
    for (int p = 0; p < kRows; ++p) {
      const Vec<T> cell = N::cell_of(a[p / 3][(p % 3) * rows.row]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) N::multiply_add(sum[p][v], b[v], cell);
    }
#pragma GCC unroll 4
    for (int j = 0; j < kPointers; ++j) a[j] += rows.step;
    lanes += lanes_step;
  }
}

// A product over a depth: rows, and lanes (depth, all lanes).
template <class T>
struct Term {
  ByRows<T> rows;
  const T* lanes;
  int64_t depth;
};

template <class N, int kVectors, int kRows, int kTerms, class Done, class T = typename N::Real>
RLV2V_INLINE void pixel_tiles(int64_t pixels, const Term<T> (&terms)[kTerms], const T* bias, int64_t all,
                              int64_t vector, const Done& done) {
  for (int64_t p = 0; p < pixels; p += kRows) {
    Vec<T> sum[kRows][kVectors];
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[i][v] = bias ? load(bias + (vector + v) * kLanes<T>) : Vec<T>{};
#pragma GCC unroll 2
    for (int t = 0; t < kTerms; ++t)
      accumulate<N, kVectors, kRows>(sum, terms[t].rows, p, terms[t].lanes + vector * kLanes<T>, all * kLanes<T>,
                                     terms[t].depth);
    done(p, vector, sum);
  }
}

// bias + the sum of the terms for every pixel of a block and every lane, handed to done(first pixel, first vector,
// sums) tile by tile. `vectors`: of lanes.
template <class N, int kTerms, class Done, class T = typename N::Real>
RLV2V_INLINE void for_pixel_tiles(int64_t pixels, const Term<T> (&terms)[kTerms], const T* bias, int64_t vectors,
                                  const Done& done) {
  // Fewer vectors leave registers for more rows, which hides the latency of the multiply-add.
  constexpr int kMore = kTileVectors == 4 ? 12 : 6;
  int64_t v = 0;
  if constexpr (kTileVectors == 4)
    for (; v + 4 <= vectors; v += 4) pixel_tiles<N, 4, 6>(pixels, terms, bias, vectors, v, done);
  for (; v + 2 <= vectors; v += 2) pixel_tiles<N, 2, kMore>(pixels, terms, bias, vectors, v, done);
  if (v < vectors) pixel_tiles<N, 1, 12>(pixels, terms, bias, vectors, v, done);
}

// to[p][lanes] += over pixels: rows(p, pixel) * lanes(pixel), for the rows from first_row on; depth: cells of pixels.
template <class N, int kVectors, int kRows, class T = typename N::Real>
RLV2V_INLINE void add_channel_tile(const ByRows<T>& rows, int64_t first_row, const T* lanes, int64_t width,
                                   int64_t depth, T* to) {
  Vec<T> sum[kRows][kVectors] = {};
  accumulate<N, kVectors, kRows>(sum, rows, first_row, lanes, width, depth);
#pragma GCC unroll 12
  for (int p = 0; p < kRows; ++p)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      T* at = to + (first_row + p) * width + v * kLanes<T>;
      store<T>(at, load(at) + sum[p][v]);
    }
}

// The rows that whole tiles leave over: at most kRows.
template <class N, int kVectors, int kRows, class T = typename N::Real>
void add_channel_rest(const ByRows<T>& rows, int64_t first_row, int64_t count, const T* lanes, int64_t width,
                      int64_t depth, T* to) {
  if constexpr (kRows > 0) {
    if (count - first_row == kRows)
      add_channel_tile<N, kVectors, kRows>(rows, first_row, lanes, width, depth, to);
    else
      add_channel_rest<N, kVectors, kRows - 1>(rows, first_row, count, lanes, width, depth, to);
  }
}

template <class N, int kVectors, int kRows, class T = typename N::Real>
void add_channel_rows(const ByRows<T>& rows, int64_t count, const T* lanes, int64_t width, int64_t depth, T* to) {
  int64_t row = 0;
  for (; row + kRows <= count; row += kRows) add_channel_tile<N, kVectors, kRows>(rows, row, lanes, width, depth, to);
  add_channel_rest<N, kVectors, kRows - 1>(rows, row, count, lanes, width, depth, to);
}

// The products of `count` rows with `vectors` of lanes, summed over the pixels of a block and added to `to`
// (count, lanes).
template <class N, class T = typename N::Real>
void add_channel_products(const ByRows<T>& rows, int64_t count, const T* lanes, int64_t vectors, int64_t depth, T* to) {
  constexpr int kMore = kTileVectors == 4 ? 8 : 4;
  const int64_t width = vectors * kLanes<T>;
  int64_t v = 0;
  if constexpr (kTileVectors == 4)
    for (; v + 4 <= vectors; v += 4)
      add_channel_rows<N, 4, 6>(rows, count, lanes + v * kLanes<T>, width, depth, to + v * kLanes<T>);
  for (; v + 2 <= vectors; v += 2)
    add_channel_rows<N, 2, kMore>(rows, count, lanes + v * kLanes<T>, width, depth, to + v * kLanes<T>);
  if (v < vectors) add_channel_rows<N, 1, 8>(rows, count, lanes + v * kLanes<T>, width, depth, to + v * kLanes<T>);
}

}  // namespace rlv2v::RLV2V_ISA
