// Sigmoid and tanh of a number, exact to about one unit in the last place; NaN gives NaN. They have no branches, so
// that a compiler can vectorize loops around them. exp and tanh follow the Cephes single-precision minimax polynomials.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "common/portability.h"

namespace rlv2v {

#ifdef __CUDA_ARCH__
RLV2V_HD float exp_of(float x) { return expf(x); }
#else
RLV2V_HD float exp_of(float x) {
  // 2^n * exp(r), r in [-ln2/2, ln2/2]. The bounds keep 2^n a normal number; comparisons are false for NaN, which
  // passes.
  x = x > 88.0f ? 88.0f : x;
  x = x < -87.0f ? -87.0f : x;
  const float shifted = x * 1.44269504088896341f + 12582912.0f;  // 1.5 * 2^23 rounds to an integer
  const float n = shifted - 12582912.0f;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + (r + 1.0f);
  int32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = static_cast<int32_t>((static_cast<uint32_t>(bits) + 127u) << 23);
  float scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return p * scale;
}
#endif
RLV2V_HD double exp_of(double x) { return exp(x); }

template <class T>
RLV2V_HD T sigmoid_of(T x) {
  return T(1) / (T(1) + exp_of(-x));
}

RLV2V_HD double tanh_of(double x) { return tanh(x); }
#ifdef __CUDA_ARCH__
RLV2V_HD float tanh_of(float x) { return tanhf(x); }
#else
RLV2V_HD float tanh_of(float x) {
  const float a = std::fabs(x);
  const float z = x * x;
  float p = -5.70498872745e-3f;
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  const float small = p * z * x + x;
  const float large = std::copysign(1.0f - 2.0f / (exp_of(2.0f * a) + 1.0f), x);
  return a < 0.625f ? small : large;
}
#endif

}  // namespace rlv2v
