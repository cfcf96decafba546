// bn_add_relu_pool: largest = the maximum of each 2x2 window of relu(norm(x) + skip), index = its place in the window,
// z = post_norm(largest). Odd heights and widths are rounded down.
#pragma once

#include "norm/operator.h"

namespace rlv2v {

// layout is that of x; z, largest and index have layout.halved().
template <class T>
struct BnAddReluPoolFwd {
  NormLayout layout;
  const T *x, *skip;
  Norm<T> norm, post_norm;
  T *z, *largest;
  uint8_t* index;
};

template <class T>
struct BnAddReluPoolBwd {
  NormLayout layout;
  const T *grad_z, *x, *largest;
  const uint8_t* index;
  Norm<T> norm, post_norm;
  T *grad_x, *grad_skip;
  NormGrads<T> grad_norm, grad_post_norm;
};

template <class Device>
struct BnAddReluPool {
  using Tensor = typename Device::Tensor;
  using MaybeTensor = std::optional<Tensor>;
  using FwdResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;
  using BwdResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

  static FwdResult fwd(const Tensor& x, const Tensor& skip, const Tensor& weight, const Tensor& bias,
                       const MaybeTensor& mean, const MaybeTensor& var, double eps, const Tensor& post_weight,
                       const Tensor& post_bias, const MaybeTensor& post_mean, const MaybeTensor& post_var,
                       double post_eps, bool per_frame) {
    const NormLayout layout = layout_of(x, per_frame), low = layout.halved();
    const Tensor z = Device::empty(x, low), largest = Device::empty(x, low), index = Device::empty_bytes(x, low);
    const NormTensors<Device> norm(x, weight, bias, mean, var, eps, per_frame);
    const NormTensors<Device> post_norm(x, post_weight, post_bias, post_mean, post_var, post_eps, per_frame);
    if (layout.numel() == 0) {
      norm.fill_nan_if_measured();
      post_norm.fill_nan_if_measured();
    } else {
      Device::for_dtype(x, [&](auto zero) {
        using T = decltype(zero);
        Device::run(
            BnAddReluPoolFwd<T>{layout, const_data<T>(x), const_data<T>(skip), norm_of<T>(norm), norm_of<T>(post_norm),
                                mutable_data<T>(z), mutable_data<T>(largest), mutable_data<uint8_t>(index)},
            x);
      });
    }
    return {z,
            largest,
            index,
            norm.measured_mean(),
            norm.measured_var(),
            post_norm.measured_mean(),
            post_norm.measured_var()};
  }

  static BwdResult bwd(const Tensor& grad_z, const Tensor& x, const Tensor& largest, const Tensor& index,
                       const Tensor& weight, const Tensor& bias, const Tensor& mean, const Tensor& var, double eps,
                       bool frozen, const Tensor& post_weight, const Tensor& post_bias, const Tensor& post_mean,
                       const Tensor& post_var, double post_eps, bool post_frozen, bool per_frame) {
    const NormLayout layout = layout_of(x, per_frame);
    const Tensor grad_x = Device::empty(x, layout), grad_skip = Device::empty(x, layout);
    const NormTensors<Device> norm(weight, bias, mean, var, eps, frozen);
    const NormTensors<Device> post_norm(post_weight, post_bias, post_mean, post_var, post_eps, post_frozen);
    const NormGradTensors<Device> grad_norm(x, layout.channels), grad_post_norm(x, layout.channels);
    if (layout.numel() == 0) {
      grad_norm.fill_zero();
      grad_post_norm.fill_zero();
    } else {
      Device::for_dtype(x, [&](auto zero) {
        using T = decltype(zero);
        Device::run(BnAddReluPoolBwd<T>{layout, const_data<T>(grad_z), const_data<T>(x), const_data<T>(largest),
                                        const_data<uint8_t>(index), norm_of<T>(norm), norm_of<T>(post_norm),
                                        mutable_data<T>(grad_x), mutable_data<T>(grad_skip), grads_of<T>(grad_norm),
                                        grads_of<T>(grad_post_norm)},
                    x);
      });
    }
    return {grad_x, grad_skip, grad_norm.weight, grad_norm.bias, grad_post_norm.weight, grad_post_norm.bias};
  }
};

}  // namespace rlv2v

RLV2V_DECLARE_NORM_CALL(BnAddReluPoolFwd)
RLV2V_DECLARE_NORM_CALL(BnAddReluPoolBwd)
