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

// Whether Winograd's rounding would show in a tile of some result that sees this frame: around it a value is not
// finite, or so large that beside it the values of some neighbouring 3x3 pixels vanish.
RLV2V_DECLARE_SIMD(bool conv3d_is_unsafe(const Frame<const float>&, const Conv3dShape&, int64_t tile))

RLV2V_CONV3D_DIRECT(float)
RLV2V_CONV3D_DIRECT(double)
#undef RLV2V_CONV3D_DIRECT
