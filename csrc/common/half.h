// 16-bit floating-point numbers as the CUDA kernels read and write them; arithmetic is in float.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/portability.h"
#include "common/wide.h"

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace rlv2v {

// Trivial, so that it may lie in shared memory and be copied as bits.
struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

RLV2V_HD float widen(float value) { return value; }
RLV2V_HD double widen(double value) { return value; }

RLV2V_HD float widen(BFloat16 number) {
  const uint32_t word = static_cast<uint32_t>(number.bits) << 16;
  float value;
  std::memcpy(&value, &word, sizeof value);
  return value;
}

#ifdef __CUDACC__
RLV2V_HD float widen(Half number) { return __half2float(__half(__half_raw{number.bits})); }
#else
RLV2V_HD float widen(Half number) {
  _Float16 value;
  std::memcpy(&value, &number.bits, sizeof value);
  return value;
}
#endif

// Rounds to nearest, ties to even.
template <class T>
RLV2V_HD T narrow(Wide<T> value) {
  return value;
}

#ifdef __CUDACC__
template <>
RLV2V_HD BFloat16 narrow<BFloat16>(float value) {
  return {static_cast<__nv_bfloat16_raw>(__float2bfloat16_rn(value)).x};
}
template <>
RLV2V_HD Half narrow<Half>(float value) {
  return {static_cast<__half_raw>(__float2half_rn(value)).x};
}
#else
template <>
RLV2V_HD BFloat16 narrow<BFloat16>(float value) {
  uint32_t word;
  std::memcpy(&word, &value, sizeof word);
  // Rounding must not carry a NaN to infinity.
  if (value != value) return {0x7fc0};
  return {static_cast<uint16_t>((word + 0x7fff + (word >> 16 & 1)) >> 16)};
}
template <>
RLV2V_HD Half narrow<Half>(float value) {
  const _Float16 half = static_cast<_Float16>(value);
  Half number;
  std::memcpy(&number.bits, &half, sizeof half);
  return number;
}
#endif

}  // namespace rlv2v
