// The operators bn_add_relu_pool_fwd and bn_add_relu_pool_bwd on a device (bn_op.h).
#pragma once

#include "norm/tensors.h"

namespace rlv2v {

template <class Device>
struct BnAddReluPoolOp {
  using FwdResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;
  using BwdResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

  static FwdResult fwd(const Tensor& x, const Tensor& skip, const Tensor& weight, const Tensor& bias,
                       const MaybeTensor& mean, const MaybeTensor& var, double eps, const Tensor& weight_again,
                       const Tensor& bias_again, const MaybeTensor& mean_again, const MaybeTensor& var_again,
                       double eps_again, bool per_frame) {
    const BnLayout layout = bn_layout(x, per_frame), low = layout.resized(layout.height / 2, layout.width / 2);
    Tensor z = Device::like(x, low), largest = Device::like(x, low), index = Device::bytes_like(x, low);
    BnNormTensors norm(x, weight, bias, mean, var, eps, per_frame);
    BnNormTensors again(x, weight_again, bias_again, mean_again, var_again, eps_again, per_frame);
    if (layout.numel() == 0) {
      norm.fill_nan_if_measured();
      again.fill_nan_if_measured();
    } else {
      Device::for_dtype(x, [&](auto zero) {
        using T = decltype(zero);
        Device::run(
            BnAddReluPoolFwd<T>{layout, const_data<T>(x), const_data<T>(skip), norm.as<T>(), again.as<T>(),
                                mutable_data<T>(z), mutable_data<T>(largest), index.mutable_data_ptr<uint8_t>()},
            x);
      });
    }
    return {z,
            largest,
            index,
            norm.measured(norm.mean),
            norm.measured(norm.var),
            again.measured(again.mean),
            again.measured(again.var)};
  }

  static BwdResult bwd(const Tensor& grad_z, const Tensor& x, const Tensor& largest, const Tensor& index,
                       const Tensor& weight, const Tensor& bias, const Tensor& mean, const Tensor& var, double eps,
                       bool frozen, const Tensor& weight_again, const Tensor& bias_again, const Tensor& mean_again,
                       const Tensor& var_again, double eps_again, bool frozen_again, bool per_frame) {
    const BnLayout layout = bn_layout(x, per_frame);
    Tensor grad_x = Device::like(x, layout), grad_skip = Device::like(x, layout);
    Tensor grad_weight = torch::stable::empty_like(weight), grad_bias = torch::stable::empty_like(bias);
    Tensor grad_weight_again = torch::stable::empty_like(weight_again);
    Tensor grad_bias_again = torch::stable::empty_like(bias_again);
    const BnNormTensors norm(weight, bias, mean, var, eps, frozen);
    const BnNormTensors again(weight_again, bias_again, mean_again, var_again, eps_again, frozen_again);
    if (layout.numel() == 0) {
      zero({grad_weight, grad_bias, grad_weight_again, grad_bias_again});
    } else {
      Device::for_dtype(x, [&](auto zero) {
        using T = decltype(zero);
        Device::run(
            BnAddReluPoolBwd<T>{layout, const_data<T>(grad_z), const_data<T>(x), const_data<T>(largest),
                                index.const_data_ptr<uint8_t>(), norm.as<T>(), again.as<T>(), mutable_data<T>(grad_x),
                                mutable_data<T>(grad_skip), grads_to<T>(grad_weight, grad_bias),
                                grads_to<T>(grad_weight_again, grad_bias_again)},
            x);
      });
    }
    return {grad_x, grad_skip, grad_weight, grad_bias, grad_weight_again, grad_bias_again};
  }
};

}  // namespace rlv2v
