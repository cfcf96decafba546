// Fixed-width vectors by the vector extension of GCC and Clang: one source for AVX-512, AVX2, SSE2 and NEON. Their
// width is that of the instruction set for which the *_simd.cpp is compiled. Everything is in that set's namespace,
// because the linker must not merge copies that differ.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "common/half.h"

#ifdef __AVX2__
#include <immintrin.h>
#endif

#define RLV2V_INLINE __attribute__((always_inline)) inline

namespace rlv2v::RLV2V_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kVectorRegisters = 32;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32, kVectorRegisters = 16;
#elif defined(__aarch64__)
constexpr int kVectorBytes = 16, kVectorRegisters = 32;
#else
constexpr int kVectorBytes = 16, kVectorRegisters = 16;
#endif

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(kVectorBytes)));
  typedef int32_t bits __attribute__((vector_size(kVectorBytes)));
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(kVectorBytes)));
  typedef int64_t bits __attribute__((vector_size(kVectorBytes)));
};

// 16-bit numbers are floats in registers.
template <>
struct VectorOf<BFloat16> : VectorOf<float> {};
template <>
struct VectorOf<Half> : VectorOf<float> {};

template <class T>
using Vec = typename VectorOf<T>::type;
template <class T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(Wide<T>));

// Half a vector of 16-bit numbers, as many as a vector of floats has.
typedef uint16_t Bits16 __attribute__((vector_size(kVectorBytes / 2)));
typedef uint32_t Bits32 __attribute__((vector_size(kVectorBytes)));

template <class T>
RLV2V_INLINE Vec<float> widen_lanes(const Bits16& numbers) {
  const Bits32 bits = __builtin_convertvector(numbers, Bits32);
  if constexpr (std::is_same_v<T, BFloat16>) return (Vec<float>)(bits << 16);
  // The exponent's bias grows from 15 to 127; a factor does that for numbers below the normal ones, too.
  const Bits32 magnitude = bits & 0x7fff, sign = (bits & 0x8000) << 16;
  const Bits32 finite = (Bits32)((Vec<float>)(magnitude << 13) * 0x1p112f), other = magnitude << 13 | 0x7f800000;
  const Bits32 is_finite = (Bits32)(magnitude < 0x7c00);
  return (Vec<float>)(sign | (finite & is_finite) | (other & ~is_finite));
}

// Rounds to nearest, ties to even.
template <class T>
RLV2V_INLINE Bits16 narrow_lanes(const Vec<float>& values) {
  const Bits32 bits = (Bits32)values, is_nan = (Bits32)(values != values);
  if constexpr (std::is_same_v<T, BFloat16>) {
    const Bits32 rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return __builtin_convertvector((rounded & ~is_nan) | (0x7fc0 & is_nan), Bits16);
  }
  const Bits32 sign = bits & 0x80000000, magnitude = bits ^ sign;
  // 65520 and more are infinite. Below the normal numbers an addition leaves the right bits at the end, rounded.
  const Bits32 is_large = (Bits32)(magnitude >= 0x477ff000), is_small = (Bits32)(magnitude < 0x38800000);
  const Bits32 normal = (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13;
  const Bits32 small = (Bits32)((Vec<float>)magnitude + 0.5f) - 0x3f000000;
  Bits32 half = (small & is_small) | (normal & ~is_small);
  half = (half & ~is_large) | (0x7c00 & is_large);
  half = (half & ~is_nan) | (0x7e00 & is_nan);
  return __builtin_convertvector(half | sign >> 16, Bits16);
}

template <class T>
RLV2V_INLINE Vec<T> broadcast(T value) {
  return value - Vec<T>{};
}

template <class T>
RLV2V_INLINE Vec<T> load(const T* from) {
  if constexpr (sizeof(T) == 2) {
    Bits16 numbers;
    std::memcpy(&numbers, from, sizeof numbers);
    return widen_lanes<T>(numbers);
  } else {
    Vec<T> v;
    std::memcpy(&v, from, sizeof v);
    return v;
  }
}

template <class T>
RLV2V_INLINE void store(T* to, const Vec<T>& v) {
  if constexpr (sizeof(T) == 2) {
    const Bits16 numbers = narrow_lanes<T>(v);
    std::memcpy(to, &numbers, sizeof numbers);
  } else {
    std::memcpy(to, &v, sizeof v);
  }
}

// The first `lanes` elements, and zero in the other lanes. Only the last vector of a range has fewer than kLanes.
template <class T>
RLV2V_INLINE Vec<T> load_part(const T* from, int64_t lanes) {
  if (lanes == kLanes<T>) return load(from);
  if constexpr (sizeof(T) == 2) {
    Bits16 numbers{};
    std::memcpy(&numbers, from, lanes * sizeof(T));
    return widen_lanes<T>(numbers);
  } else {
#ifdef __AVX512F__
    const unsigned mask = (1u << lanes) - 1;
    if constexpr (sizeof(T) == 4)
      return (Vec<T>)_mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), from);
    else
      return (Vec<T>)_mm512_maskz_loadu_pd(static_cast<__mmask8>(mask), from);
#elif defined(__AVX2__)
    // Not for stores: processors of AMD take many times as long for masked ones.
    if constexpr (sizeof(T) == 4) {
      const __m256i places = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
      return (Vec<T>)_mm256_maskload_ps(from, _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(lanes)), places));
    } else {
      const __m256i places = _mm256_setr_epi64x(0, 1, 2, 3);
      return (Vec<T>)_mm256_maskload_pd(from, _mm256_cmpgt_epi64(_mm256_set1_epi64x(lanes), places));
    }
#else
    Vec<T> v{};
    for (int64_t i = 0; i < lanes; ++i) v[i] = from[i];
    return v;
#endif
  }
}

template <class T>
RLV2V_INLINE void store_part(T* to, const Vec<T>& v, int64_t lanes) {
  if (lanes == kLanes<T>) return store(to, v);
  if constexpr (sizeof(T) == 2) {
    const Bits16 numbers = narrow_lanes<T>(v);
    std::memcpy(to, &numbers, lanes * sizeof(T));
  } else {
#ifdef __AVX512F__
    const unsigned mask = (1u << lanes) - 1;
    if constexpr (sizeof(T) == 4)
      _mm512_mask_storeu_ps(to, static_cast<__mmask16>(mask), (__m512)v);
    else
      _mm512_mask_storeu_pd(to, static_cast<__mmask8>(mask), (__m512d)v);
#else
    for (int64_t i = 0; i < lanes; ++i) to[i] = v[i];
#endif
  }
}

// Lanes of a and b alternately: the first half of each (kHalf = 0) or the second (kHalf = 1).
template <class T, int kHalf, int... I>
RLV2V_INLINE Vec<T> interleave(const Vec<T>& a, const Vec<T>& b, std::integer_sequence<int, I...>) {
  constexpr int kStart = kHalf * kLanes<T> / 2;
#if defined(__has_builtin) && __has_builtin(__builtin_shufflevector)
  return __builtin_shufflevector(a, b, (kStart + I / 2 + (I % 2) * kLanes<T>)...);
#else
  return Vec<T>{(I % 2 ? b[kStart + I / 2] : a[kStart + I / 2])...};
#endif
}

// Every second lane of a followed by b: the even ones (kOdd = 0) or the odd ones (kOdd = 1).
template <class T, int kOdd, int... I>
RLV2V_INLINE Vec<T> every_second(const Vec<T>& a, const Vec<T>& b, std::integer_sequence<int, I...>) {
#if defined(__has_builtin) && __has_builtin(__builtin_shufflevector)
  return __builtin_shufflevector(a, b, (2 * I + kOdd)...);
#else
  return Vec<T>{(2 * I + kOdd < kLanes<T> ? a[(2 * I + kOdd) % kLanes<T>] : b[(2 * I + kOdd) % kLanes<T>])...};
#endif
}

// Transposes kLanes vectors: interleaving row i with row i + kLanes / 2 moves one bit of the row number into the lane
// number, so log2(kLanes) rounds exchange the two.
template <class T>
RLV2V_INLINE void transpose(Vec<T>* rows) {
  constexpr auto kAll = std::make_integer_sequence<int, kLanes<T>>{};
#pragma GCC unroll 4
  for (int round = 1; round < kLanes<T>; round *= 2) {
    Vec<T> next[kLanes<T>];
#pragma GCC unroll 8
    for (int i = 0; i < kLanes<T> / 2; ++i) {
      next[2 * i] = interleave<T, 0>(rows[i], rows[i + kLanes<T> / 2], kAll);
      next[2 * i + 1] = interleave<T, 1>(rows[i], rows[i + kLanes<T> / 2], kAll);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kLanes<T>; ++i) rows[i] = next[i];
  }
}

RLV2V_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
RLV2V_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
RLV2V_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

template <class T>
RLV2V_INLINE int64_t vectors_for(int64_t elements) {
  return ceil_div(elements, kLanes<T>);
}

// How many of a range's `elements` are in its vector number `index`.
template <class T>
RLV2V_INLINE int64_t lanes_of(int64_t index, int64_t elements) {
  return smaller(kLanes<T>, elements - index * kLanes<T>);
}

}  // namespace rlv2v::RLV2V_ISA
