#include "norm/cpu/windows_simd.h"

#include <utility>

#include "common/vector.h"

namespace rlv2v::RLV2V_ISA {
namespace {

template <class T>
constexpr auto kAllLanes = std::make_integer_sequence<int, kLanes<T>>{};

template <class T>
using Bits = typename VectorOf<T>::bits;
template <class T>
struct BytesOf {
  typedef uint8_t type __attribute__((vector_size(kLanes<T>)));
};

template <class T>
RLV2V_INLINE void store_index(uint8_t* to, const Bits<T>& index, int64_t lanes) {
  const auto bytes = __builtin_convertvector(index, typename BytesOf<T>::type);
  std::memcpy(to, &bytes, lanes);
}

template <class T>
RLV2V_INLINE Bits<T> load_index(const uint8_t* from, int64_t lanes) {
  typename BytesOf<T>::type bytes{};
  std::memcpy(&bytes, from, lanes);
  return __builtin_convertvector(bytes, Bits<T>);
}

// The windows of one vector: the four pixels of each, a vector for each place in the window.
template <class T>
struct Pixels {
  Vec<T> at[4];
};

// Where windows are neighbours in memory: pixels 0 1 0 1 ... of a row alternate.
template <class T>
struct NeighbourWindows {
  int64_t width;

  // Lanes of `lanes` windows in the first and the second vector of a row of their pixels.
  static int64_t first(int64_t lanes) { return smaller(kLanes<T>, 2 * lanes); }
  static int64_t second(int64_t lanes) { return 2 * lanes - first(lanes); }

  RLV2V_INLINE Pixels<T> read(const T* from, int64_t lanes) const {
    Pixels<T> pixels;
    for (int row = 0; row < 2; ++row) {
      const T* p = from + row * width;
      const Vec<T> a = load_part(p, first(lanes));
      const Vec<T> b = second(lanes) ? load_part(p + kLanes<T>, second(lanes)) : Vec<T>{};
      pixels.at[2 * row] = every_second<T, 0>(a, b, kAllLanes<T>);
      pixels.at[2 * row + 1] = every_second<T, 1>(a, b, kAllLanes<T>);
    }
    return pixels;
  }

  RLV2V_INLINE void write(T* to, const Pixels<T>& pixels, int64_t lanes) const {
    for (int row = 0; row < 2; ++row) {
      T* p = to + row * width;
      const Vec<T>&a = pixels.at[2 * row], &b = pixels.at[2 * row + 1];
      store_part(p, interleave<T, 0>(a, b, kAllLanes<T>), first(lanes));
      if (second(lanes)) store_part(p + kLanes<T>, interleave<T, 1>(a, b, kAllLanes<T>), second(lanes));
    }
  }
};

// Where the groups of a pixel are neighbours in memory: a vector holds one pixel of one window.
template <class T>
struct GroupWindows {
  int64_t width, groups;

  int64_t offset(int place) const { return (place / 2 * width + place % 2) * groups; }

  RLV2V_INLINE Pixels<T> read(const T* from, int64_t lanes) const {
    Pixels<T> pixels;
    for (int i = 0; i < 4; ++i) pixels.at[i] = load_part(from + offset(i), lanes);
    return pixels;
  }

  RLV2V_INLINE void write(T* to, const Pixels<T>& pixels, int64_t lanes) const {
    for (int i = 0; i < 4; ++i) store_part(to + offset(i), pixels.at[i], lanes);
  }
};

// f(windows, place in the full band, place in the low one, lanes) for every vector of windows.
template <class T, class F>
RLV2V_INLINE void for_windows(const BnWindows& band, const F& f) {
  if (band.groups == 1) {
    const NeighbourWindows<T> windows{band.width};
    for (int64_t row = 0; row < band.rows; ++row)
      for (int64_t j = 0; j < band.columns; j += kLanes<T>)
        f(windows, 2 * (row * band.width + j), row * band.columns + j, smaller(kLanes<T>, band.columns - j));
    return;
  }
  const GroupWindows<T> windows{band.width, band.groups};
  for (int64_t row = 0; row < band.rows; ++row)
    for (int64_t column = 0; column < band.columns; ++column)
      for (int64_t g = 0; g < band.groups; g += kLanes<T>)
        f(windows, 2 * (row * band.width + column) * band.groups + g, (row * band.columns + column) * band.groups + g,
          smaller(kLanes<T>, band.groups - g));
}

template <class T>
void upsample(const T* low, const BnWindows& band, T* full) {
  for_windows<T>(band, [&](const auto& windows, int64_t at, int64_t low_at, int64_t lanes) {
    const Vec<T> value = load_part(low + low_at, lanes);
    windows.write(full + at, Pixels<T>{{value, value, value, value}}, lanes);
  });
}

template <class T>
void sum_windows(const T* full, const BnWindows& band, T* low) {
  for_windows<T>(band, [&](const auto& windows, int64_t at, int64_t low_at, int64_t lanes) {
    const Pixels<T> pixels = windows.read(full + at, lanes);
    store_part(low + low_at, (pixels.at[0] + pixels.at[1]) + (pixels.at[2] + pixels.at[3]), lanes);
  });
}

template <class T>
void pool(const T* full, const BnWindows& band, T* low, uint8_t* index) {
  for_windows<T>(band, [&](const auto& windows, int64_t at, int64_t low_at, int64_t lanes) {
    const Pixels<T> pixels = windows.read(full + at, lanes);
    Vec<T> largest = pixels.at[0];
    Bits<T> place{};
    for (int i = 1; i < 4; ++i) {
      const Vec<T>& value = pixels.at[i];
      const Bits<T> better = (Bits<T>)(value > largest) | (Bits<T>)(value != value);
      largest = better ? value : largest;
      place = better ? Bits<T>{} + i : place;
    }
    store_part(low + low_at, largest, lanes);
    store_index<T>(index + low_at, place, lanes);
  });
}

template <class T>
void unpool(const T* grad_low, const uint8_t* index, const BnWindows& band, T* grad_full) {
  const int64_t row_size = band.width * band.groups;
  if (band.width > 2 * band.columns)
    for (int64_t row = 1; row <= 2 * band.rows; ++row)
      std::memset(grad_full + row * row_size - band.groups, 0, band.groups * sizeof(T));
  for_windows<T>(band, [&](const auto& windows, int64_t at, int64_t low_at, int64_t lanes) {
    const Vec<T> grad = load_part(grad_low + low_at, lanes);
    const Bits<T> place = load_index<T>(index + low_at, lanes);
    Pixels<T> pixels;
    for (int i = 0; i < 4; ++i) pixels.at[i] = (place == Bits<T>{} + i) ? grad : Vec<T>{};
    windows.write(grad_full + at, pixels, lanes);
  });
}

}  // namespace

#define RLV2V_DEFINE(T)                                                                                        \
  void bn_upsample(const T* low, const BnWindows& band, T* full) { upsample(low, band, full); }                \
  void bn_sum_windows(const T* full, const BnWindows& band, T* low) { sum_windows(full, band, low); }          \
  void bn_pool(const T* full, const BnWindows& band, T* low, uint8_t* index) { pool(full, band, low, index); } \
  void bn_unpool(const T* grad_low, const uint8_t* index, const BnWindows& band, T* grad_full) {               \
    unpool(grad_low, index, band, grad_full);                                                                  \
  }

RLV2V_DEFINE(float)
RLV2V_DEFINE(double)
#undef RLV2V_DEFINE

}  // namespace rlv2v::RLV2V_ISA
