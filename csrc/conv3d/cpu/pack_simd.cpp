#include "conv3d/cpu/pack_simd.h"

#include "common/filters.h"

namespace rlv2v::RLV2V_ISA {
namespace {

// Depth is frames and, within a frame, channels. Lanes are output channels.
template <class T>
struct ForwardLanes {
  int64_t outputs, channels;
  const T* weight;

  int64_t vectors() const { return vectors_for<T>(outputs); }
  int64_t depth() const { return 3 * channels; }
  LaneFilters<T> at(int64_t vector, int64_t depth_index) const {
    const int64_t frame = depth_index / channels, channel = depth_index % channels;
    return {weight + (vector * kLanes<T> * channels + channel) * 27 + frame * 9, channels * 27,
            lanes_of<T>(vector, outputs)};
  }
  int64_t taps() const { return 9; }
  int64_t tap(int64_t t) const { return t; }
};

// Lanes are the channels that the forward reads; the kernel is turned around in time and in space.
template <class T>
struct TransposedLanes {
  int64_t outputs, channels;
  const T* weight;

  int64_t vectors() const { return vectors_for<T>(channels); }
  int64_t depth() const { return 3 * outputs; }
  LaneFilters<T> at(int64_t vector, int64_t depth_index) const {
    const int64_t frame = depth_index / outputs, output = depth_index % outputs;
    return {weight + (output * channels + vector * kLanes<T>)*27 + (2 - frame) * 9, 27, lanes_of<T>(vector, channels)};
  }
  int64_t taps() const { return 9; }
  int64_t tap(int64_t t) const { return 8 - t; }
};

template <class T, class Lanes>
void pack(const Lanes& lanes, bool winograd, int64_t begin, int64_t end, T* to) {
  if constexpr (sizeof(T) == sizeof(float))
    if (winograd) return pack_positions<3>(lanes, begin, end, to);
  pack_taps<T>(lanes, begin, end, to);
}

}  // namespace

#define RLV2V_DEFINE(T)                                                                                               \
  int64_t packed_conv3d_size(int64_t outputs, int64_t channels, bool transposed, bool winograd, const T* weight) {    \
    if (transposed) return packed_filters<T>(TransposedLanes<T>{outputs, channels, weight}, winograd);                \
    return packed_filters<T>(ForwardLanes<T>{outputs, channels, weight}, winograd);                                   \
  }                                                                                                                   \
  void pack_conv3d(int64_t outputs, int64_t channels, bool transposed, bool winograd, const T* weight, int64_t begin, \
                   int64_t end, T* to) {                                                                              \
    if (transposed)                                                                                                   \
      pack(TransposedLanes<T>{outputs, channels, weight}, winograd, begin, end, to);                                  \
    else                                                                                                              \
      pack(ForwardLanes<T>{outputs, channels, weight}, winograd, begin, end, to);                                     \
  }

RLV2V_DEFINE(float)
RLV2V_DEFINE(double)
#undef RLV2V_DEFINE

}  // namespace rlv2v::RLV2V_ISA
