// The operators bn_add_relu_fwd and bn_add_relu_bwd on a device (bn_op.h).
#pragma once

#include "norm/tensors.h"

namespace rlv2v {

template <class Device>
struct BnAddReluOp {
  using FwdResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;
  using BwdResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

  // Without weight_again there is no second normalization, and z = y.
  static FwdResult fwd(const Tensor& x, const Tensor& skip, const Tensor& weight, const Tensor& bias,
                       const MaybeTensor& mean, const MaybeTensor& var, double eps, const MaybeTensor& weight_again,
                       const MaybeTensor& bias_again, const MaybeTensor& mean_again, const MaybeTensor& var_again,
                       double eps_again, bool per_frame) {
    const BnLayout layout = bn_layout(x, per_frame);
    const bool renormalize = weight_again.has_value();
    Tensor z = Device::like(x, layout);
    BnNormTensors norm(x, weight, bias, mean, var, eps, per_frame);
    // A norm that is not there borrows the first one's tensors, frozen, so that it makes none.
    BnNormTensors again =
        renormalize ? BnNormTensors(x, *weight_again, *bias_again, mean_again, var_again, eps_again, per_frame)
                    : BnNormTensors(weight, bias, norm.mean, norm.var, eps_again, true);
    if (layout.numel() == 0) {
      norm.fill_nan_if_measured();
      again.fill_nan_if_measured();
    } else {
      Device::for_dtype(x, [&](auto zero) {
        using T = decltype(zero);
        Device::run(BnAddReluFwd<T>{layout, const_data<T>(x), const_data<T>(skip), is_low(skip, x), renormalize,
                                    norm.as<T>(), again.as<T>(), mutable_data<T>(z)},
                    x);
      });
    }
    return {z, norm.measured(norm.mean), norm.measured(norm.var), again.measured(again.mean),
            again.measured(again.var)};
  }

  // The gradients of a second normalization that is not there have shape (0,).
  static BwdResult bwd(const Tensor& grad_z, const Tensor& x, const Tensor& skip, const Tensor& weight,
                       const Tensor& bias, const Tensor& mean, const Tensor& var, double eps, bool frozen,
                       const MaybeTensor& weight_again, const MaybeTensor& bias_again, const MaybeTensor& mean_again,
                       const MaybeTensor& var_again, double eps_again, bool frozen_again, bool per_frame) {
    const BnLayout layout = bn_layout(x, per_frame);
    const bool renormalize = weight_again.has_value();
    const std::vector<int64_t> again_size = {renormalize ? layout.channels : 0};
    Tensor grad_x = Device::like(x, layout), grad_skip = Device::like(x, resized_like(layout, skip));
    Tensor grad_weight = torch::stable::empty_like(weight), grad_bias = torch::stable::empty_like(bias);
    Tensor grad_weight_again = torch::stable::new_empty(weight, again_size);
    Tensor grad_bias_again = torch::stable::new_empty(weight, again_size);
    const BnNormTensors norm(weight, bias, mean, var, eps, frozen);
    const BnNormTensors again =
        renormalize ? BnNormTensors(*weight_again, *bias_again, *mean_again, *var_again, eps_again, frozen_again)
                    : BnNormTensors(weight, bias, mean, var, eps_again, true);
    if (layout.numel() == 0) {
      zero({grad_weight, grad_bias, grad_weight_again, grad_bias_again});
    } else {
      Device::for_dtype(x, [&](auto zero) {
        using T = decltype(zero);
        Device::run(BnAddReluBwd<T>{layout, const_data<T>(grad_z), const_data<T>(x), const_data<T>(skip),
                                    is_low(skip, x), renormalize, norm.as<T>(), again.as<T>(), mutable_data<T>(grad_x),
                                    mutable_data<T>(grad_skip), grads_to<T>(grad_weight, grad_bias),
                                    grads_to<T>(grad_weight_again, grad_bias_again)},
                    x);
      });
    }
    return {grad_x, grad_skip, grad_weight, grad_bias, grad_weight_again, grad_bias_again};
  }

 private:
  static bool is_low(const Tensor& skip, const Tensor& x) { return skip.size(3) != x.size(3); }
  static BnLayout resized_like(const BnLayout& layout, const Tensor& other) {
    return layout.resized(other.size(3), other.size(4));
  }
};

}  // namespace rlv2v
