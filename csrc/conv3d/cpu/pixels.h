// Pieces of frames to and from (row, column, lane): one vector of channels of every pixel. Everything that a frame's
// strides, its edges and its half size mean is here, so that the kernels see neighbouring vectors alone.
#pragma once

#include "common/vector.h"
#include "conv3d/cpu/conv3d.h"

namespace rlv2v::RLV2V_ISA {

// Tiles that are brought in at once, neighbours in a row: with their border they stay in L1.
constexpr int64_t kPieceTiles = 16;
constexpr int64_t kPieceColumns = 4 * kPieceTiles + 2;

// `pixels` neighbours of a row, `lanes` channels from `from` on, to one vector each; other lanes become zero.
template <class T>
void load_pixels(const T* from, int64_t channel, int64_t column, int64_t lanes, int64_t pixels, T* to) {
  constexpr int64_t kWidth = kLanes<T>;
  if (channel == 1 || lanes == 1) {
    for (int64_t p = 0; p < pixels; ++p) store(to + p * kWidth, load_part(from + p * column, lanes));
  } else if (column == 1 && pixels >= kWidth) {
    // Squares are transposed in registers. The last one overlaps the one before it.
    for (int64_t p = 0; p < pixels; p += kWidth) {
      const int64_t first = smaller(p, pixels - kWidth);
      Vec<T> rows[kWidth];
      if (lanes == kWidth) {
#pragma GCC unroll 16
        for (int c = 0; c < kWidth; ++c) rows[c] = load(from + c * channel + first);
      } else {
        for (int64_t c = 0; c < kWidth; ++c) rows[c] = c < lanes ? load(from + c * channel + first) : Vec<T>{};
      }
      transpose<T>(rows);
#pragma GCC unroll 16
      for (int i = 0; i < kWidth; ++i) store(to + (first + i) * kWidth, rows[i]);
    }
  } else {
    for (int64_t p = 0; p < pixels; ++p) {
      Vec<T> v{};
      for (int64_t c = 0; c < lanes; ++c) v[c] = from[c * channel + p * column];
      store(to + p * kWidth, v);
    }
  }
}

// The reverse.
template <class T>
void store_pixels(const T* from, int64_t lanes, int64_t pixels, T* to, int64_t channel, int64_t column) {
  constexpr int64_t kWidth = kLanes<T>;
  if (channel == 1 || lanes == 1) {
    for (int64_t p = 0; p < pixels; ++p) store_part(to + p * column, load(from + p * kWidth), lanes);
  } else if (column == 1 && pixels >= kWidth) {
    for (int64_t p = 0; p < pixels; p += kWidth) {
      const int64_t first = smaller(p, pixels - kWidth);
      Vec<T> rows[kWidth];
#pragma GCC unroll 16
      for (int i = 0; i < kWidth; ++i) rows[i] = load(from + (first + i) * kWidth);
      transpose<T>(rows);
      if (lanes == kWidth) {
#pragma GCC unroll 16
        for (int c = 0; c < kWidth; ++c) store(to + c * channel + first, rows[c]);
      } else {
        for (int64_t c = 0; c < lanes; ++c) store(to + c * channel + first, rows[c]);
      }
    }
  } else {
    for (int64_t p = 0; p < pixels; ++p)
      for (int64_t c = 0; c < lanes; ++c) to[c * channel + p * column] = from[p * kWidth + c];
  }
}

// One vector of channels of `rows` x `columns` pixels from (top, left) on; what is outside the image is zero.
template <class T>
void load_piece(const Frame<const T>& frame, int64_t channels, const Conv3dShape& s, bool half, int64_t vector,
                int64_t top, int64_t left, int64_t rows, int64_t columns, T* to) {
  constexpr int64_t kWidth = kLanes<T>;
  const int64_t lanes = lanes_of<T>(vector, channels), line = columns * kWidth;
  const int64_t begin = larger(left, 0), end = smaller(left + columns, s.width);
  const T* base = frame.data + vector * kWidth * frame.channel;
  for (int64_t r = 0; r < rows; ++r, to += line) {
    const int64_t y = top + r;
    if (y < 0 || y >= s.height) {
      std::memset(to, 0, line * sizeof(T));
      continue;
    }
    T* pixels = to + (begin - left) * kWidth;
    std::memset(to, 0, (begin - left) * kWidth * sizeof(T));
    std::memset(pixels + (end - begin) * kWidth, 0, (left + columns - end) * kWidth * sizeof(T));
    if (!half) {
      load_pixels(base + y * frame.row + begin * frame.column, frame.channel, frame.column, lanes, end - begin, pixels);
    } else if (r > 0 && y % 2 == 1) {
      std::memcpy(to, to - line, line * sizeof(T));
    } else {
      const int64_t first = begin / 2, count = (end + 1) / 2 - first;
      T low[kPieceColumns * kWidth];
      load_pixels(base + y / 2 * frame.row + first * frame.column, frame.channel, frame.column, lanes, count, low);
      for (int64_t x = begin; x < end; ++x) store(pixels + (x - begin) * kWidth, load(low + (x / 2 - first) * kWidth));
    }
  }
}

// One vector of channels of `rows` x `columns` pixels to a frame of the size (height, width), from (top, left) on; what
// is outside it is left out.
template <class T>
void store_piece(const T* from, const Frame<T>& frame, int64_t channels, int64_t height, int64_t width, int64_t vector,
                 int64_t top, int64_t left, int64_t rows, int64_t columns) {
  constexpr int64_t kWidth = kLanes<T>;
  const int64_t last = smaller(rows, height - top), pixels = smaller(columns, width - left);
  T* to = frame.data + vector * kWidth * frame.channel + top * frame.row + left * frame.column;
  for (int64_t r = 0; r < last; ++r, from += columns * kWidth, to += frame.row)
    store_pixels(from, lanes_of<T>(vector, channels), pixels, to, frame.channel, frame.column);
}

// Calls body(tile, row, column, count) for the pieces of the tiles [first, first + tiles): runs of at most kPieceTiles
// in one row of tiles. `tile` counts from first.
template <class Body>
RLV2V_INLINE void for_pieces(const Conv3dShape& s, int64_t first, int64_t tiles, const Body& body) {
  for (int64_t i = 0; i < tiles;) {
    const int64_t row = (first + i) / s.across(), column = (first + i) % s.across();
    const int64_t count = smaller(smaller(s.across() - column, tiles - i), kPieceTiles);
    body(i, row, column, count);
    i += count;
  }
}

}  // namespace rlv2v::RLV2V_ISA
