// The matrices of Winograd's F(4x4, 3x3) (Lavin and Gray 2016, section 4.2, points 0, 1, -1, 2, -2, infinity), one
// dimension at a time on vectors: 36 products give 16 pixels of a 3x3 convolution, a quarter of the multiplications.
#pragma once

#include "vector.h"

namespace rlv2v::RLV2V_ISA {

constexpr int kTile = 4, kPatch = 6, kPositions = kPatch * kPatch;

// B^T: 6 input samples to 6 positions.
template <class V>
RLV2V_INLINE void input_transform(const V* in, int in_step, V* out, int out_step) {
  const V a = in[0], b = in[in_step], c = in[2 * in_step], d = in[3 * in_step], e = in[4 * in_step],
          f = in[5 * in_step];
  const V even = e - 4.0f * c, odd = d - 4.0f * b, even2 = e - c, odd2 = 2.0f * (d - b);
  out[0] = 4.0f * a + (e - 5.0f * c);
  out[out_step] = even + odd;
  out[2 * out_step] = even - odd;
  out[3 * out_step] = even2 + odd2;
  out[4 * out_step] = even2 - odd2;
  out[5 * out_step] = 4.0f * b + (f - 5.0f * d);
}

// A^T: 6 positions to 4 output samples.
template <class V>
RLV2V_INLINE void output_transform(const V* in, int in_step, V* out, int out_step) {
  const V sum = in[in_step] + in[2 * in_step], difference = in[in_step] - in[2 * in_step];
  const V sum2 = in[3 * in_step] + in[4 * in_step], difference2 = in[3 * in_step] - in[4 * in_step];
  out[0] = in[0] + (sum + sum2);
  out[out_step] = difference + 2.0f * difference2;
  out[2 * out_step] = sum + 4.0f * sum2;
  out[3 * out_step] = in[5 * in_step] + (difference + 8.0f * difference2);
}

// A: 4 output gradients to 6 positions.
template <class V>
RLV2V_INLINE void output_transform_transposed(const V* in, int in_step, V* out, int out_step) {
  const V a = in[0], b = in[in_step], c = in[2 * in_step], d = in[3 * in_step];
  const V even = a + c, odd = b + d, even2 = a + 4.0f * c, odd2 = 2.0f * b + 8.0f * d;
  out[0] = a;
  out[out_step] = even + odd;
  out[2 * out_step] = even - odd;
  out[3 * out_step] = even2 + odd2;
  out[4 * out_step] = even2 - odd2;
  out[5 * out_step] = d;
}

// G: 3 filter taps to 6 positions.
template <class V>
RLV2V_INLINE void filter_transform(const V* in, int in_step, V* out, int out_step) {
  const V a = in[0], b = in[in_step], c = in[2 * in_step];
  const V ends = (a + c) * (1.0f / 6), wide = a * (1.0f / 24) + c * (1.0f / 6);
  out[0] = a * 0.25f;
  out[out_step] = -(ends + b * (1.0f / 6));
  out[2 * out_step] = b * (1.0f / 6) - ends;
  out[3 * out_step] = wide + b * (1.0f / 12);
  out[4 * out_step] = wide - b * (1.0f / 12);
  out[5 * out_step] = c;
}

// G^T: 6 positions to 3 filter gradients.
template <class V>
RLV2V_INLINE void filter_transform_transposed(const V* in, int in_step, V* out, int out_step) {
  const V sum = in[in_step] + in[2 * in_step], difference = in[2 * in_step] - in[in_step];
  const V sum2 = in[3 * in_step] + in[4 * in_step], difference2 = in[3 * in_step] - in[4 * in_step];
  out[0] = in[0] * 0.25f - sum * (1.0f / 6) + sum2 * (1.0f / 24);
  out[out_step] = difference * (1.0f / 6) + difference2 * (1.0f / 12);
  out[2 * out_step] = in[5 * in_step] - sum * (1.0f / 6) + sum2 * (1.0f / 6);
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

}  // namespace rlv2v::RLV2V_ISA
