// Sine and cosine of vectors. In float32 the error is below 2e-7 up to |x| = 8192, where the reduction of the argument
// begins to lose digits; vectors with larger arguments, infinity or NaN take libm's. The polynomial is a minimax fit of
// odd powers, wrong by 5e-9 at most.
#pragma once

#include <cmath>

#include "common/vector.h"

namespace rlv2v::RLV2V_ISA {

constexpr float kLargestPhase = 8192.0f;

// sin(r) for r in [-pi/2, pi/2].
RLV2V_INLINE Vec<float> sine_near_zero(const Vec<float>& r) {
  const Vec<float> z = r * r;
  Vec<float> p = broadcast(2.6000548132287804e-6f);
  p = p * z - 1.9806614727713168e-4f;
  p = p * z + 8.333017118275166e-3f;
  p = p * z - 1.6666656732559204e-1f;
  return r + r * (z * p);
}

// sin(x) = (-1)^n sin(x - n pi), where n + half is the nearest such number to x / pi; pi is a sum of three floats, of
// which products with a small n are exact.
RLV2V_INLINE Vec<float> sine_reduced(const Vec<float>& x, float half) {
  using Bits = VectorOf<float>::bits;
  const Vec<float> shifted = (x * 0.318309886183790671538f - half) + 12582912.0f;  // 1.5 * 2^23 rounds to an integer
  const Vec<float> n = (shifted - 12582912.0f) + half;
  Vec<float> r = x - n * 3.140625f;
  r = r - n * 9.67502593994140625e-4f;
  r = r - n * 1.509957990978376432e-7f;
  const Bits sign = (Bits)shifted << 31;
  return (Vec<float>)((Bits)sine_near_zero(r) ^ sign);
}

RLV2V_INLINE bool are_small_phases(const Vec<float>& x) {
  using Bits = VectorOf<float>::bits;
  // As integers: NaN and infinity are larger than every finite number.
  const Vec<float> limit = broadcast(kLargestPhase);
  const Bits large = ((Bits)x & 0x7fffffff) > (Bits)limit;
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask((__m512i)large, (__m512i)large) == 0;
#elif defined(__AVX2__)
  return _mm256_testz_si256((__m256i)large, (__m256i)large);
#else
  int32_t any = 0;
  for (int i = 0; i < kLanes<float>; ++i) any |= large[i];
  return any == 0;
#endif
}

// Out of line, so that the loops around a sine stay short.
__attribute__((noinline)) static void libm_sine(float* x, bool cosine) {
  for (int i = 0; i < kLanes<float>; ++i) x[i] = cosine ? cosf(x[i]) : sinf(x[i]);
}

template <bool kCosine>
RLV2V_INLINE Vec<float> sine_or_cosine(const Vec<float>& x) {
  if (__builtin_expect(are_small_phases(x), 1)) {
    // cos(x) = -(-1)^m sin(x - (m + 1/2) pi).
    const Vec<float> y = sine_reduced(x, kCosine ? 0.5f : 0.0f);
    return kCosine ? -y : y;
  }
  float lanes[kLanes<float>];
  store<float>(lanes, x);
  libm_sine(lanes, kCosine);
  return load(lanes);
}

RLV2V_INLINE Vec<float> sine(const Vec<float>& x) { return sine_or_cosine<false>(x); }
RLV2V_INLINE Vec<float> cosine(const Vec<float>& x) { return sine_or_cosine<true>(x); }

// In float64 gradients are checked: the accuracy of libm matters there, speed does not.
RLV2V_INLINE Vec<double> sine(Vec<double> x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = ::sin(static_cast<double>(x[i]));
  return x;
}
RLV2V_INLINE Vec<double> cosine(Vec<double> x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = ::cos(static_cast<double>(x[i]));
  return x;
}

}  // namespace rlv2v::RLV2V_ISA
