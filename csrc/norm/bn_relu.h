// bn_relu: y = relu(norm(x)).
#pragma once

#include "norm/operator.h"

namespace rlv2v {

template <class T>
struct BnReluFwd {
  NormLayout layout;
  const T* x;
  Norm<T> norm;
  T* y;
};

template <class T>
struct BnReluBwd {
  NormLayout layout;
  const T *grad_y, *x;
  Norm<T> norm;
  T* grad_x;
  NormGrads<T> grad_norm;
};

template <class Device>
struct BnRelu {
  using Tensor = typename Device::Tensor;
  using MaybeTensor = std::optional<Tensor>;

  static std::tuple<Tensor, Tensor, Tensor> fwd(const Tensor& x, const Tensor& weight, const Tensor& bias,
                                                const MaybeTensor& mean, const MaybeTensor& var, double eps,
                                                bool per_frame) {
    const NormLayout layout = layout_of(x, per_frame);
    const Tensor y = Device::empty(x, layout);
    const NormTensors<Device> norm(x, weight, bias, mean, var, eps, per_frame);
    if (layout.numel() == 0) {
      norm.fill_nan_if_measured();
    } else {
      Device::for_dtype(x, [&](auto zero) {
        using T = decltype(zero);
        Device::run(BnReluFwd<T>{layout, const_data<T>(x), norm_of<T>(norm), mutable_data<T>(y)}, x);
      });
    }
    return {y, norm.measured_mean(), norm.measured_var()};
  }

  static std::tuple<Tensor, Tensor, Tensor> bwd(const Tensor& grad_y, const Tensor& x, const Tensor& weight,
                                                const Tensor& bias, const Tensor& mean, const Tensor& var, double eps,
                                                bool per_frame, bool frozen) {
    const NormLayout layout = layout_of(x, per_frame);
    const Tensor grad_x = Device::empty(x, layout);
    const NormTensors<Device> norm(weight, bias, mean, var, eps, frozen);
    const NormGradTensors<Device> grad_norm(x, layout.channels);
    if (layout.numel() == 0) {
      grad_norm.fill_zero();
    } else {
      Device::for_dtype(x, [&](auto zero) {
        using T = decltype(zero);
        Device::run(BnReluBwd<T>{layout, const_data<T>(grad_y), const_data<T>(x), norm_of<T>(norm),
                                 mutable_data<T>(grad_x), grads_of<T>(grad_norm)},
                    x);
      });
    }
    return {grad_x, grad_norm.weight, grad_norm.bias};
  }
};

}  // namespace rlv2v

RLV2V_DECLARE_NORM_CALL(BnReluFwd)
RLV2V_DECLARE_NORM_CALL(BnReluBwd)
