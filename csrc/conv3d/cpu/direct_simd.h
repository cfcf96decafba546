// The causal convolution summed as it is written: float64, and float32 where Winograd's rounding will not do. It is
// simple rather than fast.
#pragma once

#include "conv3d/cpu/conv3d.h"

#define RLV2V_CONV3D_DIRECT(T)                                                                              \
  /* The tiles [begin, end) of all frames of all clips; every caller brings scratch of so many elements. */ \
  RLV2V_DECLARE_SIMD(int64_t conv3d_direct_scratch_size(const Conv3d<T>&))                                  \
  RLV2V_DECLARE_SIMD(void conv3d_direct(const Conv3d<T>&, int64_t begin, int64_t end, T* scratch))          \
  /* The gradients of the weights of the channels [begin, end), and with channel 0 that of the bias. */     \
  RLV2V_DECLARE_SIMD(int64_t conv3d_direct_weight_scratch_size(const Conv3dGradWeight<T>&))                 \
  RLV2V_DECLARE_SIMD(void conv3d_direct_weight(const Conv3dGradWeight<T>&, int64_t begin, int64_t end, T* scratch))

RLV2V_CONV3D_DIRECT(float)
RLV2V_CONV3D_DIRECT(double)
#undef RLV2V_CONV3D_DIRECT
