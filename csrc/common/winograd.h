// Winograd's F(4x4, 3x3) and F(2x2, 5x5), one dimension at a time on vectors: 36 products give 16 pixels of a 3x3
// convolution or 4 of a 5x5 one, a quarter and a third of the multiplications. Both see patches of 6x6 pixels, so they
// share points and the transform of the input. The matrices are those of Toom-Cook's construction (Lavin and Gray 2016;
// Barabasz et al. 2020) at the points 0, r, -r, 1/r, -1/r and infinity with r = sqrt(1/2). The textbook points 0, 1,
// -1, 2, -2 have rounder coefficients but about 3.5 times the error in float32: theirs reach from 1/24 to 8, these from
// 1/6 to 2.83.
#pragma once

#include "common/vector.h"

namespace rlv2v::RLV2V_ISA {

constexpr int kPatch = 6, kPositions = kPatch * kPatch;

// Pixels per side of the tile that a patch yields.
template <int kTaps>
constexpr int kTile = kPatch + 1 - kTaps;

// r, 1/r and their cubes.
constexpr float kNear = 0.70710678118654752f, kFar = 1.41421356237309505f;
constexpr float kNear3 = 0.35355339059327376f, kFar3 = 2.82842712474619010f;

// B^T: 6 input samples to 6 positions.
template <class V>
RLV2V_INLINE void input_transform(const V* in, int in_stride, V* out, int out_stride) {
  const V a = in[0], b = in[in_stride], c = in[2 * in_stride], d = in[3 * in_stride], e = in[4 * in_stride],
          f = in[5 * in_stride];
  const V even = e - 2.0f * c, odd = d - 2.0f * b, even2 = e - 0.5f * c, odd2 = d - 0.5f * b;
  out[0] = a + (e - 2.5f * c);
  out[out_stride] = even + kNear * odd;
  out[2 * out_stride] = even - kNear * odd;
  out[3 * out_stride] = even2 + kFar * odd2;
  out[4 * out_stride] = even2 - kFar * odd2;
  out[5 * out_stride] = b + (f - 2.5f * d);
}

// A^T: 6 positions to the kTile<kTaps> output samples.
template <int kTaps, class V>
RLV2V_INLINE void output_transform(const V* in, int in_stride, V* out, int out_stride) {
  const V sum = in[in_stride] + in[2 * in_stride], difference = in[in_stride] - in[2 * in_stride];
  const V sum2 = in[3 * in_stride] + in[4 * in_stride], difference2 = in[3 * in_stride] - in[4 * in_stride];
  out[0] = in[0] + (sum + sum2);
  out[out_stride] = kNear * difference + kFar * difference2;
  if constexpr (kTaps == 3) {
    out[2 * out_stride] = 0.5f * sum + 2.0f * sum2;
    out[3 * out_stride] = in[5 * in_stride] + (kNear3 * difference + kFar3 * difference2);
  } else {
    out[out_stride] += in[5 * in_stride];
  }
}

// A: kTile<kTaps> output gradients to 6 positions.
template <int kTaps, class V>
RLV2V_INLINE void output_transform_transposed(const V* in, int in_stride, V* out, int out_stride) {
  const V a = in[0], b = in[in_stride];
  V even = a, odd = kNear * b, even2 = a, odd2 = kFar * b, last = b;
  if constexpr (kTaps == 3) {
    const V c = in[2 * in_stride], d = in[3 * in_stride];
    even += 0.5f * c;
    odd += kNear3 * d;
    even2 += 2.0f * c;
    odd2 += kFar3 * d;
    last = d;
  }
  out[0] = a;
  out[out_stride] = even + odd;
  out[2 * out_stride] = even - odd;
  out[3 * out_stride] = even2 + odd2;
  out[4 * out_stride] = even2 - odd2;
  out[5 * out_stride] = last;
}

// G: kTaps filter taps to 6 positions.
template <int kTaps, class V>
RLV2V_INLINE void filter_transform(const V* in, int in_stride, V* out, int out_stride) {
  const V a = in[0], b = in[in_stride], c = in[2 * in_stride];
  V even = a + 0.5f * c, odd = kNear * b, even2 = a + 2.0f * c, odd2 = kFar * b, last = c;
  if constexpr (kTaps == 5) {
    const V d = in[3 * in_stride], e = in[4 * in_stride];
    even += 0.25f * e;
    odd += kNear3 * d;
    even2 += 4.0f * e;
    odd2 += kFar3 * d;
    last = e;
  }
  out[0] = a;
  out[out_stride] = (even + odd) * (-2.0f / 3);
  out[2 * out_stride] = (even - odd) * (-2.0f / 3);
  out[3 * out_stride] = (even2 + odd2) * (1.0f / 6);
  out[4 * out_stride] = (even2 - odd2) * (1.0f / 6);
  out[5 * out_stride] = last;
}

// G^T: 6 positions to kTaps filter gradients.
template <int kTaps, class V>
RLV2V_INLINE void filter_transform_transposed(const V* in, int in_stride, V* out, int out_stride) {
  const V sum = (in[in_stride] + in[2 * in_stride]) * (-2.0f / 3);
  const V difference = (in[in_stride] - in[2 * in_stride]) * (-2.0f / 3);
  const V sum2 = (in[3 * in_stride] + in[4 * in_stride]) * (1.0f / 6);
  const V difference2 = (in[3 * in_stride] - in[4 * in_stride]) * (1.0f / 6);
  out[0] = in[0] + sum + sum2;
  out[out_stride] = kNear * difference + kFar * difference2;
  out[2 * out_stride] = 0.5f * sum + 2.0f * sum2;
  if constexpr (kTaps == 3) {
    out[2 * out_stride] += in[5 * in_stride];
  } else {
    out[3 * out_stride] = kNear3 * difference + kFar3 * difference2;
    out[4 * out_stride] = in[5 * in_stride] + (0.25f * sum + 4.0f * sum2);
  }
}

// A one-dimensional transform over the columns, then the rows, of in (kIn x kIn) to out (kOut x kOut).
template <int kIn, int kOut, class V, class Transform>
RLV2V_INLINE void transform_both(const V* in, V* out, const Transform& transform) {
  V half[kOut * kIn];
#pragma GCC unroll 6
  for (int column = 0; column < kIn; ++column) transform(in + column, kIn, half + column, kIn);
#pragma GCC unroll 6
  for (int row = 0; row < kOut; ++row) transform(half + row * kIn, 1, out + row * kOut, 1);
}

// One vector of channels of kSize x kSize pixels to its positions. Not inlined: the compiler would keep the dozens of
// addresses of the next vector's pixels on the stack rather than compute them again. Returns the sum of the squares of
// each lane's pixels where kMeasure, else zeros.
template <int kSize, auto kTransform, bool kMeasure = false>
__attribute__((noinline)) Vec<float> pixels_to_positions(const float* from, int64_t row, int64_t column, float* to,
                                                         int64_t plane) {
  using V = Vec<float>;
  V half[kPatch * kSize], squares[2] = {};
#pragma GCC unroll 6
  for (int x = 0; x < kSize; ++x, from += column) {
    V pixels[kSize];
    const float* pixel = from;
    for (int y = 0; y < kSize; ++y, pixel += row) {
      pixels[y] = load(pixel);
      // The next vector of the same pixel: too many streams at once for the hardware to follow.
      __builtin_prefetch(pixel + kLanes<float>);
      if constexpr (kMeasure) squares[y % 2] += pixels[y] * pixels[y];
    }
    kTransform(pixels, 1, half + x, kSize);
  }
#pragma GCC unroll 6
  for (int i = 0; i < kPatch; ++i) {
    V positions[kPatch];
    kTransform(half + i * kSize, 1, positions, 1);
    for (int j = 0; j < kPatch; ++j, to += plane) store(to, positions[j]);
  }
  return squares[0] + squares[1];
}

// Turns one vector of lanes of a tile's products into the tile's pixels.
template <int kTaps>
RLV2V_INLINE void products_to_pixels(const float* products, int64_t plane, Vec<float>* pixels) {
  using V = Vec<float>;
  V half[kTile<kTaps> * kPatch];
#pragma GCC unroll 6
  for (int j = 0; j < kPatch; ++j) {
    V column[kPatch];
    for (int i = 0; i < kPatch; ++i) column[i] = load(products + (i * kPatch + j) * plane);
    output_transform<kTaps>(column, 1, half + j, kPatch);
  }
#pragma GCC unroll 4
  for (int i = 0; i < kTile<kTaps>; ++i) output_transform<kTaps>(half + i * kPatch, 1, pixels + i * kTile<kTaps>, 1);
}

}  // namespace rlv2v::RLV2V_ISA
