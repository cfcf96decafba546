#include "conv3d/cpu/direct_simd.h"

#include "common/tile_product.h"
#include "common/winograd_guard.h"
#include "conv3d/cpu/pixels.h"

namespace rlv2v::RLV2V_ISA {
namespace {

constexpr int64_t kPatchSide = 6, kPatchPixels = kPatchSide * kPatchSide;

struct Place {
  int64_t clip, frame, row, column;
};

Place place_of(const Conv3dShape& s, int64_t index) {
  const int64_t tile = index % s.tiles(), frame = index / s.tiles();
  return {frame / s.frames, frame % s.frames, tile / s.across(), tile % s.across()};
}

// The 6x6 pixels of one channel around a tile; outside the image they are zero.
template <class T>
void gather_patch(const Frame<const T>& frame, int64_t channel, const Conv3dShape& s, const Place& place, T* to) {
  const T* from = frame.data + channel * frame.channel;
  const int64_t part = s.half_in ? 2 : 1;
  for (int64_t y = 4 * place.row - 1; y < 4 * place.row + 5; ++y)
    for (int64_t x = 4 * place.column - 1; x < 4 * place.column + 5; ++x) {
      const bool inside = y >= 0 && y < s.height && x >= 0 && x < s.width;
      *to++ = inside ? from[y / part * frame.row + x / part * frame.column] : T{};
    }
}

template <class T>
void direct_tile(const Conv3d<T>& call, const Place& place, T* patches) {
  const Conv3dShape& s = call.shape;
  const Frame<const T>* in = call.in + place.clip * (s.frames + 2) + place.frame;
  const Frame<T>& out = call.out[place.clip * s.frames + place.frame];
  const int64_t total = vectors_for<T>(s.outputs), depth = 3 * s.channels;
  for (int64_t d = 0; d < depth; ++d)
    if (in[d / s.channels].data) gather_patch(in[d / s.channels], d % s.channels, s, place, patches + d * kPatchPixels);
  for (int64_t v = 0; v < total; ++v) {
    const int64_t first = panel_of(v, total), width = panel_vectors(first, total) * kLanes<T>;
    const T* weight = call.packed + first * kLanes<T> * 9 * depth + (v - first) * kLanes<T>;
    const Vec<T> bias = call.bias ? load_part(call.bias + v * kLanes<T>, lanes_of<T>(v, s.outputs)) : Vec<T>{};
    Vec<T> sums[16] = {};
    for (int64_t d = 0; d < depth; ++d) {
      if (!in[d / s.channels].data) continue;
      for (int64_t tap = 0; tap < 9; ++tap) {
        const Vec<T> lanes = load(weight + (tap * depth + d) * width);
        const T* corner = patches + d * kPatchPixels + tap / 3 * kPatchSide + tap % 3;
#pragma GCC unroll 16
        for (int p = 0; p < 16; ++p) sums[p] += lanes * corner[p / 4 * kPatchSide + p % 4];
      }
    }
    T pixels[16 * kLanes<T>];
    const int64_t side = s.half_out ? 2 : 4, part = s.half_out ? 2 : 1;
    for (int p = 0; p < side * side; ++p) {
      const Vec<T>* corner = sums + p / 2 * 8 + p % 2 * 2;
      store<T>(pixels + p * kLanes<T>, s.half_out ? (corner[0] + corner[1]) + (corner[4] + corner[5]) : sums[p] + bias);
    }
    store_piece<T>(pixels, out, s.outputs, s.height / part, s.width / part, v, side * place.row, side * place.column,
                   side, side);
  }
}

// The sums of one channel's weights: (tap, lanes of all outputs).
template <class T>
void add_weight_tile(const Conv3dGradWeight<T>& call, const Place& place, int64_t channel, T* sums) {
  const Conv3dShape& s = call.shape;
  const Frame<const T>* in = call.in + place.clip * (s.frames + 2) + place.frame;
  const Frame<const T>& grad = call.grad[place.clip * s.frames + place.frame];
  const int64_t total = vectors_for<T>(s.outputs);
  for (int64_t t = 0; t < 3; ++t) {
    if (!in[t].data) continue;
    T patch[kPatchPixels], pixels[16 * kLanes<T>];
    gather_patch(in[t], channel, s, place, patch);
    for (int64_t v = 0; v < total; ++v) {
      load_piece(grad, s.outputs, s, false, v, 4 * place.row, 4 * place.column, 4, 4, pixels);
      for (int64_t tap = 0; tap < 9; ++tap) {
        const T* corner = patch + tap / 3 * kPatchSide + tap % 3;
        Vec<T> sum{};
#pragma GCC unroll 16
        for (int p = 0; p < 16; ++p) sum += load(pixels + p * kLanes<T>) * corner[p / 4 * kPatchSide + p % 4];
        T* to = sums + ((t * 9 + tap) * total + v) * kLanes<T>;
        store<T>(to, load(to) + sum);
      }
    }
  }
}

template <class T>
void add_bias_tile(const Conv3dGradWeight<T>& call, const Place& place, T* sums) {
  const Conv3dShape& s = call.shape;
  T pixels[16 * kLanes<T>];
  for (int64_t v = 0; v < vectors_for<T>(s.outputs); ++v) {
    load_piece(call.grad[place.clip * s.frames + place.frame], s.outputs, s, false, v, 4 * place.row, 4 * place.column,
               4, 4, pixels);
    Vec<T> sum{};
    for (int p = 0; p < 16; ++p) sum += load(pixels + p * kLanes<T>);
    store<T>(sums + v * kLanes<T>, load(sums + v * kLanes<T>) + sum);
  }
}

template <class T>
void weight_channels(const Conv3dGradWeight<T>& call, int64_t begin, int64_t end, T* sums) {
  const Conv3dShape& s = call.shape;
  const int64_t lanes = vectors_for<T>(s.outputs) * kLanes<T>, tiles = s.clips * s.frames * s.tiles();
  for (int64_t channel = begin; channel < end; ++channel) {
    std::memset(sums, 0, 27 * lanes * sizeof(T));
    for (int64_t i = 0; i < tiles; ++i) add_weight_tile(call, place_of(s, i), channel, sums);
    for (int64_t o = 0; o < s.outputs; ++o)
      for (int64_t t = 0; t < 27; ++t) call.grad_weight[(o * s.channels + channel) * 27 + t] = sums[t * lanes + o];
  }
  if (begin != 0) return;
  std::memset(sums, 0, lanes * sizeof(T));
  for (int64_t i = 0; i < tiles; ++i) add_bias_tile(call, place_of(s, i), sums);
  std::memcpy(call.grad_bias, sums, s.outputs * sizeof(T));
}

}  // namespace

bool conv3d_is_unsafe(const Frame<const float>& frame, const Conv3dShape& s, int64_t tile) {
  const Place place = place_of(s, tile);
  float largest[kPatchPixels] = {}, patch[kPatchPixels];
  for (int64_t c = 0; c < s.channels; ++c) {
    gather_patch(frame, c, s, place, patch);
    for (int64_t p = 0; p < kPatchPixels; ++p) {
      const float size = patch[p] < 0 ? -patch[p] : patch[p];
      // Not the larger one, which NaN would not be.
      if (!(size <= largest[p])) largest[p] = size;
      if (!(size <= kWinogradLargest)) return true;
    }
  }
  return patch_is_unsafe<3>(largest);
}

#define RLV2V_DEFINE(T)                                                                                        \
  int64_t conv3d_direct_scratch_size(const Conv3d<T>& call) { return 3 * call.shape.channels * kPatchPixels; } \
  void conv3d_direct(const Conv3d<T>& call, int64_t begin, int64_t end, T* scratch) {                          \
    for (int64_t i = begin; i < end; ++i) direct_tile(call, place_of(call.shape, i), scratch);                 \
  }                                                                                                            \
  int64_t conv3d_direct_weight_scratch_size(const Conv3dGradWeight<T>& call) {                                 \
    return 27 * vectors_for<T>(call.shape.outputs) * kLanes<T>;                                                \
  }                                                                                                            \
  void conv3d_direct_weight(const Conv3dGradWeight<T>& call, int64_t begin, int64_t end, T* scratch) {         \
    weight_channels(call, begin, end, scratch);                                                                \
  }

RLV2V_DEFINE(float)
RLV2V_DEFINE(double)
#undef RLV2V_DEFINE

}  // namespace rlv2v::RLV2V_ISA
