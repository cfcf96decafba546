// Sigmoid and tanh of vectors, by the formulas of activations.h and as exact.
#pragma once

#include "common/activations.h"
#include "common/vector.h"

namespace rlv2v::RLV2V_ISA {

// 2^n * exp(r), r in [-ln2/2, ln2/2]. A comparison with NaN is false, so NaN passes the bounds.
RLV2V_INLINE Vec<float> exp_vector(Vec<float> x) {
  using Bits = VectorOf<float>::bits;
  const Vec<float> highest = broadcast(88.0f), lowest = broadcast(-87.0f);
  x = x > highest ? highest : x;
  x = x < lowest ? lowest : x;
  const Vec<float> shifted = x * 1.44269504088896341f + 12582912.0f;  // 1.5 * 2^23 rounds to an integer
  const Vec<float> n = shifted - 12582912.0f;
  const Vec<float> r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vec<float> p = broadcast(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + (r + 1.0f);
  const Bits scale = ((Bits)shifted + 127) << 23;
  return p * (Vec<float>)scale;
}

RLV2V_INLINE Vec<float> sigmoid(Vec<float> x) { return 1.0f / (1.0f + exp_vector(-x)); }

RLV2V_INLINE Vec<float> tanh_vector(Vec<float> x) {
  using Bits = VectorOf<float>::bits;
  const Bits sign = (Bits)x & (int32_t)0x80000000;
  const Vec<float> a = (Vec<float>)((Bits)x & 0x7fffffff);
  const Vec<float> z = x * x;
  Vec<float> p = broadcast(-5.70498872745e-3f);
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  const Vec<float> small = p * z * x + x;
  const Vec<float> large = 1.0f - 2.0f / (exp_vector(2.0f * a) + 1.0f);
  return a < broadcast(0.625f) ? small : (Vec<float>)((Bits)large | sign);
}

// In float64 gradients are checked: the accuracy of libm matters there, speed does not.
RLV2V_INLINE Vec<double> sigmoid(Vec<double> x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = sigmoid_of(static_cast<double>(x[i]));
  return x;
}

RLV2V_INLINE Vec<double> tanh_vector(Vec<double> x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = tanh_of(static_cast<double>(x[i]));
  return x;
}

}  // namespace rlv2v::RLV2V_ISA
