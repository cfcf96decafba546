// The operators bn_relu_fwd and bn_relu_bwd on a device (bn_op.h).
#pragma once

#include "norm/tensors.h"

namespace rlv2v {

template <class Device>
struct BnReluOp {
  static std::tuple<Tensor, Tensor, Tensor> fwd(const Tensor& x, const Tensor& weight, const Tensor& bias,
                                                const MaybeTensor& mean, const MaybeTensor& var, double eps,
                                                bool per_frame) {
    const BnLayout layout = bn_layout(x, per_frame);
    Tensor y = Device::like(x, layout);
    BnNormTensors norm(x, weight, bias, mean, var, eps, per_frame);
    if (layout.numel() == 0) {
      norm.fill_nan_if_measured();
    } else {
      Device::for_dtype(x, [&](auto zero) {
        using T = decltype(zero);
        Device::run(BnReluFwd<T>{layout, const_data<T>(x), norm.as<T>(), mutable_data<T>(y)}, x);
      });
    }
    return {y, norm.measured(norm.mean), norm.measured(norm.var)};
  }

  static std::tuple<Tensor, Tensor, Tensor> bwd(const Tensor& grad_y, const Tensor& x, const Tensor& weight,
                                                const Tensor& bias, const Tensor& mean, const Tensor& var, double eps,
                                                bool per_frame, bool frozen) {
    const BnLayout layout = bn_layout(x, per_frame);
    Tensor grad_x = Device::like(x, layout);
    Tensor grad_weight = torch::stable::empty_like(weight), grad_bias = torch::stable::empty_like(bias);
    const BnNormTensors norm(weight, bias, mean, var, eps, frozen);
    if (layout.numel() == 0) {
      zero({grad_weight, grad_bias});
    } else {
      Device::for_dtype(x, [&](auto zero) {
        using T = decltype(zero);
        Device::run(BnReluBwd<T>{layout, const_data<T>(grad_y), const_data<T>(x), norm.as<T>(), mutable_data<T>(grad_x),
                                 grads_to<T>(grad_weight, grad_bias)},
                    x);
      });
    }
    return {grad_x, grad_weight, grad_bias};
  }
};

}  // namespace rlv2v
