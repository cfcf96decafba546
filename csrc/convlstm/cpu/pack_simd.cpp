#include "convlstm/cpu/pack_simd.h"

#include "common/filters.h"

namespace rlv2v::RLV2V_ISA {
namespace {

// For the forward convolution. Lanes are output channels: kLanes hidden channels of each of the four gates, then the
// next ones. Depth is input channels.
template <class T>
struct ForwardLanes {
  ConvLSTMShape shape;
  const T* weight;

  int64_t vectors() const { return 4 * vectors_for<T>(shape.hidden); }
  int64_t depth() const { return shape.inputs(); }
  LaneFilters<T> at(int64_t vector, int64_t depth_index) const {
    const int64_t stride = shape.inputs() * shape.taps(), hidden_vector = vector / 4, gate = vector % 4;
    return {weight + (gate * shape.hidden + hidden_vector * kLanes<T>)*stride + depth_index * shape.taps(), stride,
            lanes_of<T>(hidden_vector, shape.hidden)};
  }
  int64_t taps() const { return shape.taps(); }
  int64_t tap(int64_t t) const { return t; }
};

// For the transposed convolution. Lanes are the input channels of h, then those of x; depth is gate channels. The
// kernel is rotated by half a turn.
template <class T>
struct TransposedLanes {
  ConvLSTMShape shape;
  const T* weight;
  bool with_x;

  int64_t vectors() const { return vectors_for<T>(shape.hidden) + (with_x ? vectors_for<T>(shape.channels) : 0); }
  int64_t depth() const { return 4 * shape.hidden; }
  LaneFilters<T> at(int64_t vector, int64_t depth_index) const {
    const int64_t hidden = vectors_for<T>(shape.hidden);
    const bool is_h = vector < hidden;
    const int64_t index = is_h ? vector : vector - hidden;
    const int64_t channel = (is_h ? shape.channels : 0) + index * kLanes<T>;
    return {weight + (depth_index * shape.inputs() + channel) * shape.taps(), shape.taps(),
            lanes_of<T>(index, is_h ? shape.hidden : shape.channels)};
  }
  int64_t taps() const { return shape.taps(); }
  int64_t tap(int64_t t) const { return shape.taps() - 1 - t; }
};

template <class T, class Lanes>
void pack(const Lanes& lanes, bool winograd, int64_t begin, int64_t end, T* to) {
  if constexpr (sizeof(T) == sizeof(float))
    if (winograd)
      return lanes.shape.kernel_h == 3 ? pack_positions<3>(lanes, begin, end, to)
                                       : pack_positions<5>(lanes, begin, end, to);
  pack_taps(lanes, begin, end, to);
}

// Copies the channels [c, channels) of the pixels [x, x + pixels) one by one.
template <class T, bool add>
void copy_elements(const ConvLSTMFrameCopy<T>& copy, const T* from, T* to, int64_t c, int64_t x, int64_t pixels) {
  for (; c < copy.channels; ++c) {
    const T* source = from + c * copy.from_channel + x * copy.from_column;
    T* target = to + c * copy.to_channel + x * copy.to_column;
    for (int64_t p = 0; p < pixels; ++p) {
      const T value = source[p * copy.from_column];
      target[p * copy.to_column] = add ? target[p * copy.to_column] + value : value;
    }
  }
}

// Where one side has its pixels next to each other and the other its channels, squares of kLanes x kLanes numbers are
// transposed in registers. `from_line` is the stride between the vectors that are read, `to_line` between those
// written.
template <class T, bool add>
void copy_square(const T* from, int64_t from_line, T* to, int64_t to_line) {
  Vec<T> rows[kLanes<T>];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes<T>; ++i) rows[i] = load(from + i * from_line);
  transpose<T>(rows);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes<T>; ++i) store<T>(to + i * to_line, add ? load(to + i * to_line) + rows[i] : rows[i]);
}

template <class T, bool add>
void copy_row(const ConvLSTMFrameCopy<T>& copy, const T* from, T* to) {
  const bool packs = copy.from_column == 1 && copy.to_channel == 1;
  const bool unpacks = copy.from_channel == 1 && copy.to_column == 1;
  for (int64_t x = 0; x < copy.width; x += kLanes<T>) {
    const int64_t pixels = smaller(kLanes<T>, copy.width - x);
    int64_t c = 0;
    if ((packs || unpacks) && pixels == kLanes<T>)
      for (; c + kLanes<T> <= copy.channels; c += kLanes<T>)
        copy_square<T, add>(from + c * copy.from_channel + x * copy.from_column,
                            packs ? copy.from_channel : copy.from_column, to + c * copy.to_channel + x * copy.to_column,
                            packs ? copy.to_column : copy.to_channel);
    copy_elements<T, add>(copy, from, to, c, x, pixels);
  }
}

template <class T>
void copy_rows_of(const ConvLSTMFrameCopy<T>& copy, int64_t begin, int64_t end) {
  for (int64_t y = begin; y < end; ++y) {
    const T* from = copy.from + y * copy.from_row;
    T* to = copy.to + y * copy.to_row;
    if (copy.add)
      copy_row<T, true>(copy, from, to);
    else
      copy_row<T, false>(copy, from, to);
  }
}

template <class T>
void pack_bias_of(const ConvLSTMShape& shape, const T* bias, T* to) {
  for (int64_t hidden_vector = 0; hidden_vector < vectors_for<T>(shape.hidden); ++hidden_vector)
    for (int64_t gate = 0; gate < 4; ++gate) {
      const Vec<T> v = bias ? load_part(bias + gate * shape.hidden + hidden_vector * kLanes<T>,
                                        lanes_of<T>(hidden_vector, shape.hidden))
                            : Vec<T>{};
      store(to + (hidden_vector * 4 + gate) * kLanes<T>, v);
    }
}

}  // namespace

#define RLV2V_DEFINE(T)                                                                                               \
  int64_t packed_weight_size(const ConvLSTMShape& shape, bool winograd, const T* weight) {                            \
    return packed_filters<T>(ForwardLanes<T>{shape, weight}, winograd);                                               \
  }                                                                                                                   \
  int64_t packed_transposed_size(const ConvLSTMShape& shape, bool winograd, bool with_x, const T* weight) {           \
    return packed_filters<T>(TransposedLanes<T>{shape, weight, with_x}, winograd);                                    \
  }                                                                                                                   \
  void pack_weight(const ConvLSTMShape& shape, bool winograd, const T* weight, int64_t begin, int64_t end, T* to) {   \
    pack(ForwardLanes<T>{shape, weight}, winograd, begin, end, to);                                                   \
  }                                                                                                                   \
  void pack_weight_transposed(const ConvLSTMShape& shape, bool winograd, bool with_x, const T* weight, int64_t begin, \
                              int64_t end, T* to) {                                                                   \
    pack(TransposedLanes<T>{shape, weight, with_x}, winograd, begin, end, to);                                        \
  }                                                                                                                   \
  int64_t packed_bias_size(const ConvLSTMShape& shape, const T*) {                                                    \
    return 4 * vectors_for<T>(shape.hidden) * kLanes<T>;                                                              \
  }                                                                                                                   \
  void pack_bias(const ConvLSTMShape& shape, const T* bias, T* to) { pack_bias_of(shape, bias, to); }                 \
  void copy_rows(const ConvLSTMFrameCopy<T>& copy, int64_t begin, int64_t end) { copy_rows_of(copy, begin, end); }

RLV2V_DEFINE(float)
RLV2V_DEFINE(double)
#undef RLV2V_DEFINE

}  // namespace rlv2v::RLV2V_ISA
