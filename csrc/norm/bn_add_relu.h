// bn_add_relu: y = relu(norm(x) + skip), z = post_norm(y), or z = y where there is no post-norm. A low skip has half
// the height and width of x, and each of its pixels is repeated 2x2.
#pragma once

#include "norm/operator.h"

namespace rlv2v {

template <class T>
struct BnAddReluFwd {
  NormLayout layout;
  const T *x, *skip;
  bool low_skip, has_post_norm;
  Norm<T> norm, post_norm;
  T* z;
};

template <class T>
struct BnAddReluBwd {
  NormLayout layout;
  const T *grad_z, *x, *skip;
  bool low_skip, has_post_norm;
  Norm<T> norm, post_norm;
  T *grad_x, *grad_skip;
  NormGrads<T> grad_norm, grad_post_norm;
};

template <class Device>
struct BnAddRelu {
  using Tensor = typename Device::Tensor;
  using MaybeTensor = std::optional<Tensor>;
  using FwdResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;
  using BwdResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

  // Without post_weight there is no post-norm.
  static FwdResult fwd(const Tensor& x, const Tensor& skip, const Tensor& weight, const Tensor& bias,
                       const MaybeTensor& mean, const MaybeTensor& var, double eps, const MaybeTensor& post_weight,
                       const MaybeTensor& post_bias, const MaybeTensor& post_mean, const MaybeTensor& post_var,
                       double post_eps, bool per_frame) {
    const NormLayout layout = layout_of(x, per_frame);
    const Tensor z = Device::empty(x, layout);
    const NormTensors<Device> norm(x, weight, bias, mean, var, eps, per_frame);
    // A post-norm that is not there borrows the first one's tensors, frozen, so that it makes none.
    const NormTensors<Device> post_norm =
        post_weight ? NormTensors<Device>(x, *post_weight, *post_bias, post_mean, post_var, post_eps, per_frame)
                    : NormTensors<Device>(weight, bias, norm.mean, norm.var, post_eps, true);
    if (layout.numel() == 0) {
      norm.fill_nan_if_measured();
      post_norm.fill_nan_if_measured();
    } else {
      Device::for_dtype(x, [&](auto zero) {
        using T = decltype(zero);
        Device::run(
            BnAddReluFwd<T>{layout, const_data<T>(x), const_data<T>(skip), is_low(skip, x), post_weight.has_value(),
                            norm_of<T>(norm), norm_of<T>(post_norm), mutable_data<T>(z)},
            x);
      });
    }
    return {z, norm.measured_mean(), norm.measured_var(), post_norm.measured_mean(), post_norm.measured_var()};
  }

  // The gradients of a post-norm that is not there have shape (0,).
  static BwdResult bwd(const Tensor& grad_z, const Tensor& x, const Tensor& skip, const Tensor& weight,
                       const Tensor& bias, const Tensor& mean, const Tensor& var, double eps, bool frozen,
                       const MaybeTensor& post_weight, const MaybeTensor& post_bias, const MaybeTensor& post_mean,
                       const MaybeTensor& post_var, double post_eps, bool post_frozen, bool per_frame) {
    const NormLayout layout = layout_of(x, per_frame);
    const Tensor grad_x = Device::empty(x, layout);
    const Tensor grad_skip = Device::empty(x, layout.resized(skip.size(3), skip.size(4)));
    const NormTensors<Device> norm(weight, bias, mean, var, eps, frozen);
    const NormTensors<Device> post_norm =
        post_weight ? NormTensors<Device>(*post_weight, *post_bias, *post_mean, *post_var, post_eps, post_frozen)
                    : NormTensors<Device>(weight, bias, mean, var, post_eps, true);
    const NormGradTensors<Device> grad_norm(x, layout.channels);
    const NormGradTensors<Device> grad_post_norm(x, post_weight ? layout.channels : 0);
    if (layout.numel() == 0) {
      grad_norm.fill_zero();
      grad_post_norm.fill_zero();
    } else {
      Device::for_dtype(x, [&](auto zero) {
        using T = decltype(zero);
        Device::run(
            BnAddReluBwd<T>{layout, const_data<T>(grad_z), const_data<T>(x), const_data<T>(skip), is_low(skip, x),
                            post_weight.has_value(), norm_of<T>(norm), norm_of<T>(post_norm), mutable_data<T>(grad_x),
                            mutable_data<T>(grad_skip), grads_of<T>(grad_norm), grads_of<T>(grad_post_norm)},
            x);
      });
    }
    return {grad_x, grad_skip, grad_norm.weight, grad_norm.bias, grad_post_norm.weight, grad_post_norm.bias};
  }

 private:
  static bool is_low(const Tensor& skip, const Tensor& x) { return skip.size(3) != x.size(3); }
};

}  // namespace rlv2v

RLV2V_DECLARE_NORM_CALL(BnAddReluFwd)
RLV2V_DECLARE_NORM_CALL(BnAddReluBwd)
