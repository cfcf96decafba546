// 2x2 windows on a CPU: between a band of rows of a full tensor and the band of a low one, which has half the height
// and width and thus a pixel for each window. A window numbers its pixels 0 1 / 2 3.
#pragma once

#include <utility>

#include "norm/cpu/passes.h"

namespace rlv2v::RLV2V_ISA {

// The windows of a band.
struct WindowBand {
  int64_t rows, columns;  // of windows
  int64_t full_width;     // pixels in a row of the full band: 2 columns, or one more that belongs to no window
  int64_t groups;
};

// A vector for each place in a window: lane i of all four is window i.
template <class T>
struct WindowPixels {
  Vec<T> at[4];
};

template <class T>
constexpr auto kAllLanes = std::make_integer_sequence<int, kLanes<T>>{};

// Windows whose pixels neighbour in memory: the pixels 0 1 0 1 ... of a row alternate.
template <class T>
struct AlternatingWindows {
  int64_t full_width;

  // `lanes` windows have 2 * lanes pixels in a row: those in its first vector, and those in its second.
  static int64_t first(int64_t lanes) { return smaller(kLanes<T>, 2 * lanes); }
  static int64_t second(int64_t lanes) { return 2 * lanes - first(lanes); }

  template <class X>
  RLV2V_INLINE WindowPixels<T> read(const X* from, int64_t lanes) const {
    WindowPixels<T> pixels;
    for (int row = 0; row < 2; ++row) {
      const X* p = from + row * full_width;
      const Vec<T> a = load_part(p, first(lanes));
      const Vec<T> b = second(lanes) ? load_part(p + kLanes<T>, second(lanes)) : Vec<T>{};
      pixels.at[2 * row] = every_second<T, 0>(a, b, kAllLanes<T>);
      pixels.at[2 * row + 1] = every_second<T, 1>(a, b, kAllLanes<T>);
    }
    return pixels;
  }

  template <class X>
  RLV2V_INLINE void write(X* to, const WindowPixels<T>& pixels, int64_t lanes) const {
    for (int row = 0; row < 2; ++row) {
      X* p = to + row * full_width;
      const Vec<T>&a = pixels.at[2 * row], &b = pixels.at[2 * row + 1];
      store_part(p, interleave<T, 0>(a, b, kAllLanes<T>), first(lanes));
      if (second(lanes)) store_part(p + kLanes<T>, interleave<T, 1>(a, b, kAllLanes<T>), second(lanes));
    }
  }
};

// Windows whose pixels are `groups` neighbouring numbers each: a vector holds one pixel of one window.
template <class T>
struct GroupedWindows {
  int64_t full_width, groups;

  int64_t offset(int place) const { return (place / 2 * full_width + place % 2) * groups; }

  template <class X>
  RLV2V_INLINE WindowPixels<T> read(const X* from, int64_t lanes) const {
    WindowPixels<T> pixels;
    for (int i = 0; i < 4; ++i) pixels.at[i] = load_part(from + offset(i), lanes);
    return pixels;
  }

  template <class X>
  RLV2V_INLINE void write(X* to, const WindowPixels<T>& pixels, int64_t lanes) const {
    for (int i = 0; i < 4; ++i) store_part(to + offset(i), pixels.at[i], lanes);
  }
};

// f(windows, offset in the full band, offset in the low band, lanes) for every vector of windows.
template <class T, class F>
RLV2V_INLINE void for_windows(const WindowBand& band, const F& f) {
  if (band.groups == 1) {
    const AlternatingWindows<T> windows{band.full_width};
    for (int64_t row = 0; row < band.rows; ++row)
      for (int64_t j = 0; j < band.columns; j += kLanes<T>)
        f(windows, 2 * (row * band.full_width + j), row * band.columns + j, smaller(kLanes<T>, band.columns - j));
    return;
  }
  const GroupedWindows<T> windows{band.full_width, band.groups};
  for (int64_t row = 0; row < band.rows; ++row)
    for (int64_t column = 0; column < band.columns; ++column)
      for (int64_t g = 0; g < band.groups; g += kLanes<T>)
        f(windows, 2 * (row * band.full_width + column) * band.groups + g,
          (row * band.columns + column) * band.groups + g, smaller(kLanes<T>, band.groups - g));
}

}  // namespace rlv2v::RLV2V_ISA
