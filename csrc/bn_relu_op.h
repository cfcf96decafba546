// The operators bn_relu_fwd and bn_relu_bwd. Device::run(call) fills in the outputs, Device::like(x, layout) makes one.
#pragma once

#include "bn_op.h"

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
      for_bn_dtype(x, [&](auto zero) {
        using T = decltype(zero);
        Device::run(BnReluFwd<T>{layout, x.const_data_ptr<T>(), norm.as<T>(), y.mutable_data_ptr<T>()});
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
      for_bn_dtype(x, [&](auto zero) {
        using T = decltype(zero);
        Device::run(BnReluBwd<T>{layout, grad_y.const_data_ptr<T>(), x.const_data_ptr<T>(), norm.as<T>(),
                                 grad_x.mutable_data_ptr<T>(), grads_to<T>(grad_weight, grad_bias)});
      });
    }
    return {grad_x, grad_weight, grad_bias};
  }
};

}  // namespace rlv2v
