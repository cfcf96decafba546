// pixel_map as operators of a CPU; rlv2v_fast/ops/schemas.py says what the arguments are.
#pragma once

#include <tuple>

#include "common/tensor.h"

namespace rlv2v {

Tensor pixel_map_fwd(const Tensor& frames, const Tensor& project, const Tensor& project_bias, const Tensor& weight1,
                     const Tensor& bias1, const Tensor& weight2, const Tensor& bias2, const Tensor& weight3,
                     const Tensor& bias3, const Tensor& head, const Tensor& head_bias, const MaybeTensor& table,
                     double gain, double speed, double slope, bool clamp, bool rounded);

using PixelMapGradients =
    std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;
PixelMapGradients pixel_map_bwd(const Tensor& grad_y, const Tensor& frames, const Tensor& project,
                                const Tensor& project_bias, const Tensor& weight1, const Tensor& bias1,
                                const Tensor& weight2, const Tensor& bias2, const Tensor& weight3, const Tensor& bias3,
                                const Tensor& head, const Tensor& head_bias, const MaybeTensor& table, double gain,
                                double speed, double slope, bool clamp, bool rounded, bool need_frames,
                                bool need_weights, bool need_table);

}  // namespace rlv2v
