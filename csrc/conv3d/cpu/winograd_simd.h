// The causal convolution with Winograd's F(4x4, 3x3) in space, in float32. A frame is transformed once for the three
// results that see it; the products of the 36 positions sum over frames and channels. A block is done in two phases
// over shared scratch, so that one thread can do both or all can do each. Sizes count elements.
#pragma once

#include "conv3d/cpu/conv3d.h"

// Forward, and the gradient of what is read. transform: its units are the vectors of channels of each frame that is
// read. multiply: its units are panels of the results, and every caller brings products of its own.
// Vectors that hold so many channels.
RLV2V_DECLARE_SIMD(int64_t conv3d_vectors(int64_t channels))
RLV2V_DECLARE_SIMD(int64_t conv3d_inputs_size(const Conv3dBlocks&))
RLV2V_DECLARE_SIMD(int64_t conv3d_products_size(const Conv3dBlocks&))
RLV2V_DECLARE_SIMD(int64_t conv3d_transform_units(const Conv3dShape&, const Conv3dBlock&))
RLV2V_DECLARE_SIMD(int64_t conv3d_multiply_units(const Conv3dShape&))
RLV2V_DECLARE_SIMD(void conv3d_transform(const Conv3d<float>&, const Conv3dBlock&, int64_t begin, int64_t end,
                                         float* inputs))
RLV2V_DECLARE_SIMD(void conv3d_multiply(const Conv3d<float>&, const Conv3dBlock&, int64_t begin, int64_t end,
                                        const float* inputs, float* products))

// Gradient of the weight. transform: its units are the vectors of each frame that is read, then those of each gradient.
// accumulate: its units add products to their own part of the sums. finish turns the sums of some channels into
// gradients, and those of the bias with channel 0.
RLV2V_DECLARE_SIMD(int64_t conv3d_weight_scratch_size(const Conv3dBlocks&))
RLV2V_DECLARE_SIMD(int64_t conv3d_weight_sums_size(const Conv3dShape&))
RLV2V_DECLARE_SIMD(int64_t conv3d_weight_transform_units(const Conv3dShape&, const Conv3dBlock&))
RLV2V_DECLARE_SIMD(int64_t conv3d_weight_accumulate_units(const Conv3dShape&))
RLV2V_DECLARE_SIMD(void conv3d_weight_transform(const Conv3dGradWeight<float>&, const Conv3dBlock&, int64_t begin,
                                                int64_t end, float* scratch))
RLV2V_DECLARE_SIMD(void conv3d_weight_accumulate(const Conv3dGradWeight<float>&, const Conv3dBlock&, int64_t begin,
                                                 int64_t end, const float* scratch, float* sums))
RLV2V_DECLARE_SIMD(void conv3d_weight_finish(const Conv3dGradWeight<float>&, int64_t begin, int64_t end,
                                             const float* sums))
