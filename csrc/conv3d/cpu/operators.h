// The causal 3D convolution as operators of a CPU; rlv2v_fast/ops/schemas.py says what the arguments are.
#pragma once

#include <tuple>

#include "common/tensor.h"

namespace rlv2v {

Tensor causal_conv3d_fwd(const Tensor& x, const Tensor& weight, const MaybeTensor& bias, const MaybeTensor& history,
                         bool upsample, bool exact);
std::tuple<Tensor, Tensor, Tensor, Tensor> causal_conv3d_bwd(const Tensor& grad_y, const Tensor& x,
                                                             const Tensor& weight, const MaybeTensor& bias,
                                                             const MaybeTensor& history, bool upsample, bool exact,
                                                             bool need_x, bool need_weight, bool need_bias,
                                                             bool need_history);

}  // namespace rlv2v
