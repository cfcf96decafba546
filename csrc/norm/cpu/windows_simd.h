// Between a band of rows and the same band at half height and width, each pixel of which has a 2x2 window in the full
// one. Pixels are `groups` neighbouring numbers; windows number their pixels 0 1 / 2 3.
#pragma once

#include <cstdint>

#include "common/isa.h"

namespace rlv2v {

struct BnWindows {
  int64_t rows, columns;  // of windows
  int64_t width;          // pixels in a full row: 2 columns, or one more that belongs to no window
  int64_t groups;
};

}  // namespace rlv2v

#define RLV2V_BN_RESIZE(T)                                                                             \
  RLV2V_DECLARE_SIMD(void bn_upsample(const T* low, const BnWindows&, T* full))                        \
  RLV2V_DECLARE_SIMD(void bn_sum_windows(const T* full, const BnWindows&, T* low))                     \
  /* The largest of each window and its number: of equals the first; NaN is largest, as in PyTorch. */ \
  RLV2V_DECLARE_SIMD(void bn_pool(const T* full, const BnWindows&, T* low, uint8_t* index))            \
  /* Gradients to the pixels that were largest, zero to all others of the band. */                     \
  RLV2V_DECLARE_SIMD(void bn_unpool(const T* grad_low, const uint8_t* index, const BnWindows&, T* grad_full))
RLV2V_BN_RESIZE(float)
RLV2V_BN_RESIZE(double)
#undef RLV2V_BN_RESIZE
