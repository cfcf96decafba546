// The ConvLSTM steps with Winograd's F(4x4, 3x3) and F(2x2, 5x5): 3x3 and 5x5 kernels in float32. A range [begin, end)
// counts tiles of 4x4 or 2x2 pixels, numbered frame by frame, row by row. Each caller brings scratch for as many
// elements as *_scratch says.
#pragma once

#include "convlstm/cpu/steps.h"

namespace rlv2v {

RLV2V_HD int64_t winograd_tiles(const ConvLSTMShape& s) {
  const int64_t tile = 7 - s.kernel_h;
  return s.batch * ((s.height + tile - 1) / tile) * ((s.width + tile - 1) / tile);
}

}  // namespace rlv2v

// The largest absolute value of each of the pixels [begin, end) over its channels, NaN where one is; `join`: or what is
// there, if that is larger.
RLV2V_DECLARE_SIMD(void winograd_magnitudes(const float* frames, int64_t channels, int64_t begin, int64_t end,
                                            bool join, float* largest))
// Writes which of the tiles [begin, end) need a direct convolution; gives whether any does.
RLV2V_DECLARE_SIMD(bool winograd_unsafe(const ConvLSTMShape&, const float* largest, int64_t begin, int64_t end,
                                        char* unsafe))
RLV2V_DECLARE_SIMD(int64_t winograd_fwd_scratch(const ConvLSTMStep<float>&))
RLV2V_DECLARE_SIMD(void winograd_fwd(const ConvLSTMStep<float>&, int64_t begin, int64_t end, float* scratch))
RLV2V_DECLARE_SIMD(int64_t winograd_bwd_scratch(const ConvLSTMGradStep<float>&))
RLV2V_DECLARE_SIMD(void winograd_bwd(const ConvLSTMGradStep<float>&, int64_t begin, int64_t end, float* scratch))
// Weight gradients of `tiles` tiles from tile `first` on, in two phases over shared scratch: prepare transforms the
// tiles [begin, end) of them, accumulate adds the products of its units to `sums`.
RLV2V_DECLARE_SIMD(int64_t winograd_weight_scratch(const ConvLSTMShape&, int64_t tiles))
RLV2V_DECLARE_SIMD(int64_t winograd_weight_sums(const ConvLSTMShape&))
RLV2V_DECLARE_SIMD(int64_t winograd_weight_units(const ConvLSTMShape&))
RLV2V_DECLARE_SIMD(void winograd_weight_prepare(const ConvLSTMGradWeight<float>&, int64_t first, int64_t tiles,
                                                int64_t begin, int64_t end, float* scratch))
RLV2V_DECLARE_SIMD(void winograd_weight_accumulate(const ConvLSTMShape&, int64_t tiles, int64_t begin, int64_t end,
                                                   const float* scratch, float* sums))
// Input channels [begin, end) of C+K of the weight gradient out of the sums, and with the first the bias gradient.
RLV2V_DECLARE_SIMD(void winograd_weight_finish(const ConvLSTMShape&, const float* sums, int64_t begin, int64_t end,
                                               float* grad_weight, float* grad_bias))
