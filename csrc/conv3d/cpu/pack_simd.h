// Packs the weight of the causal convolution.
#pragma once

#include "conv3d/cpu/conv3d.h"

#define RLV2V_CONV3D_PACK(T)                                                                                          \
  /* weight is (outputs, channels, 3, 3, 3), contiguous, whatever is read. transposed: for the gradient of what is    \
     read, whose lanes are `channels`. Winograd is for float alone. The size counts elements. */                      \
  RLV2V_DECLARE_SIMD(                                                                                                 \
      int64_t packed_conv3d_size(int64_t outputs, int64_t channels, bool transposed, bool winograd, const T* weight)) \
  /* Shared out over [begin, end) of what a lane sums over: 3 * channels, or 3 * outputs if transposed. */            \
  RLV2V_DECLARE_SIMD(void pack_conv3d(int64_t outputs, int64_t channels, bool transposed, bool winograd,              \
                                      const T* weight, int64_t begin, int64_t end, T* to))

RLV2V_CONV3D_PACK(float)
RLV2V_CONV3D_PACK(double)
#undef RLV2V_CONV3D_PACK
