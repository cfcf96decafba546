// Packs the filters of a convolution into the order in which its tile products read them. What a vector of lanes is,
// and what it is summed over, a Lanes says:
//   vectors()             how many vectors of lanes there are
//   depth()               how many filters each lane sums over
//   at(vector, depth)     the filters of a vector at one depth (LaneFilters)
//   taps(), tap(t)        taps of a filter, and which of them is packed as number t
#pragma once

#include "common/tile_product.h"
#include "common/winograd.h"

namespace rlv2v::RLV2V_ISA {

// The filter taps of one vector of lanes at one depth: tap t of lane l is first[l * stride + t].
template <class T>
struct LaneFilters {
  const T* first;
  int64_t stride, lanes;
};

template <class T>
Vec<T> gather_tap(const LaneFilters<T>& filters, int64_t tap) {
  Vec<T> v{};
  for (int64_t l = 0; l < filters.lanes; ++l) v[l] = filters.first[l * filters.stride + tap];
  return v;
}

// All kCount taps of a filter, in squares that are transposed in registers.
template <class T, int kCount>
void gather_taps(const LaneFilters<T>& filters, Vec<T>* taps) {
#pragma GCC unroll 8
  for (int first = 0; first < kCount; first += kLanes<T>) {
    const int count = kCount - first < kLanes<T> ? kCount - first : kLanes<T>;
    Vec<T> rows[kLanes<T>];
    for (int l = 0; l < kLanes<T>; ++l)
      rows[l] = l < filters.lanes ? load_part(filters.first + l * filters.stride + first, count) : Vec<T>{};
    transpose<T>(rows);
    for (int t = 0; t < count; ++t) taps[first + t] = rows[t];
  }
}

// (panel, tap, depth, lanes of the panel)
template <class T, class Lanes>
void pack_taps(const Lanes& lanes, int64_t begin, int64_t end, T* to) {
  const int64_t total = lanes.vectors(), depth = lanes.depth(), taps = lanes.taps();
  for (int64_t first = 0; first < total; first += panel_vectors(first, total)) {
    const int64_t vectors = panel_vectors(first, total), width = vectors * kLanes<T>;
    T* panel = to + first * kLanes<T> * taps * depth;
    for (int64_t d = begin; d < end; ++d)
      for (int64_t v = 0; v < vectors; ++v) {
        const LaneFilters<T> filters = lanes.at(first + v, d);
        for (int64_t t = 0; t < taps; ++t)
          store(panel + (t * depth + d) * width + v * kLanes<T>, gather_tap(filters, lanes.tap(t)));
      }
  }
}

// (panel, position, depth, lanes of the panel)
template <int kTaps, class Lanes>
void pack_positions(const Lanes& lanes, int64_t begin, int64_t end, float* to) {
  const int64_t total = lanes.vectors(), depth = lanes.depth();
  for (int64_t first = 0; first < total; first += panel_vectors(first, total)) {
    const int64_t vectors = panel_vectors(first, total), width = vectors * kLanes<float>;
    float* panel = to + first * kLanes<float> * kPositions * depth;
    for (int64_t d = begin; d < end; ++d) {
      Vec<float> positions[kTileVectors][kPositions];
      for (int64_t v = 0; v < vectors; ++v) {
        Vec<float> found[kTaps * kTaps], taps[kTaps * kTaps];
        gather_taps<float, kTaps * kTaps>(lanes.at(first + v, d), found);
        for (int t = 0; t < kTaps * kTaps; ++t) taps[t] = found[lanes.tap(t)];
        transform_both<kTaps, kPatch>(taps, positions[v], filter_transform<kTaps, Vec<float>>);
      }
      // All vectors of a position together: the positions are far apart, and may meet in one set of the cache.
      for (int k = 0; k < kPositions; ++k)
        for (int64_t v = 0; v < vectors; ++v)
          store(panel + (k * depth + d) * width + v * kLanes<float>, positions[v][k]);
    }
  }
}

// Numbers that pack_positions or pack_taps writes.
template <class T, class Lanes>
int64_t packed_filters(const Lanes& lanes, bool winograd) {
  return lanes.vectors() * kLanes<T> * lanes.depth() * (winograd ? kPositions : lanes.taps());
}

}  // namespace rlv2v::RLV2V_ISA
