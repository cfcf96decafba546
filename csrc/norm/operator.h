// From tensors to calls (arguments.h), for every device. x is (B, C, T, H, W), contiguous or channels_last_3d, and so
// is every tensor of its size; parameters and statistics have its dtype, or float for a 16-bit one (rlv2v_fast/ops
// checks).
//
// The operators are templates on a Device (cpu/device.h, cuda/device.h). Only a Device names torch, so this header and
// the operators' can be included where torch's cannot. A Device offers
//   Tensor;
//   empty(x, layout), empty_bytes(x, layout): uninitialized tensors of a layout, with the dtype of x or uint8;
//   empty_statistics(x, sizes): the same of any size, with the dtype that statistics of x have;
//   fill_nan(tensor), fill_zero(tensor);
//   for_dtype(x, body): calls body(T{}) with the element type T of x;
//   run(call, x): computes the outputs of a call on the device of x.
#pragma once

#include <initializer_list>
#include <optional>
#include <tuple>
#include <vector>

#include "norm/arguments.h"

namespace rlv2v {

template <class Tensor>
NormLayout layout_of(const Tensor& x, bool per_frame) {
  // A tensor in both layouts at once lies the same in memory either way.
  return {x.size(0), x.size(1), x.size(2), x.size(3), x.size(4), !x.is_contiguous(), per_frame};
}

template <class T, class Tensor>
const T* const_data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}
template <class T, class Tensor>
T* mutable_data(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// The tensors of one normalization.
template <class Device>
struct NormTensors {
  using Tensor = typename Device::Tensor;

  Tensor weight, bias, mean, var;
  double eps;
  bool frozen;

  // In a forward call: mean and var are given, hence frozen, or made here to be measured.
  NormTensors(const Tensor& x, const Tensor& weight, const Tensor& bias, const std::optional<Tensor>& mean,
              const std::optional<Tensor>& var, double eps, bool per_frame)
      : weight(weight),
        bias(bias),
        mean(mean ? *mean : empty_statistics(x, per_frame)),
        var(var ? *var : empty_statistics(x, per_frame)),
        eps(eps),
        frozen(mean.has_value()) {}

  // In a backward call.
  NormTensors(const Tensor& weight, const Tensor& bias, const Tensor& mean, const Tensor& var, double eps, bool frozen)
      : weight(weight), bias(bias), mean(mean), var(var), eps(eps), frozen(frozen) {}

  static Tensor empty_statistics(const Tensor& x, bool per_frame) {
    if (per_frame) return Device::empty_statistics(x, {x.size(0), x.size(1), x.size(2)});
    return Device::empty_statistics(x, {x.size(1)});
  }

  // Statistics of no values at all.
  void fill_nan_if_measured() const {
    if (frozen) return;
    Device::fill_nan(mean);
    Device::fill_nan(var);
  }

  // The statistics to return. An output may not be an input, so frozen ones come back with shape (0,).
  Tensor measured_mean() const { return frozen ? Device::empty_statistics(mean, {0}) : mean; }
  Tensor measured_var() const { return frozen ? Device::empty_statistics(var, {0}) : var; }
};

template <class T, class Device>
Norm<T> norm_of(const NormTensors<Device>& tensors) {
  using W = Wide<T>;
  // In a forward call measured statistics are written; frozen ones never are.
  W* mean = const_cast<W*>(const_data<W>(tensors.mean));
  W* var = const_cast<W*>(const_data<W>(tensors.var));
  return {const_data<W>(tensors.weight), const_data<W>(tensors.bias), mean, var, tensors.eps, tensors.frozen};
}

// The gradients of weight and bias, `channels` numbers each.
template <class Device>
struct NormGradTensors {
  typename Device::Tensor weight, bias;

  NormGradTensors(const typename Device::Tensor& x, int64_t channels)
      : weight(Device::empty_statistics(x, {channels})), bias(Device::empty_statistics(x, {channels})) {}

  // Gradients of no values at all.
  void fill_zero() const {
    Device::fill_zero(weight);
    Device::fill_zero(bias);
  }
};

template <class T, class Device>
NormGrads<T> grads_of(const NormGradTensors<Device>& tensors) {
  return {mutable_data<Wide<T>>(tensors.weight), mutable_data<Wide<T>>(tensors.bias)};
}

}  // namespace rlv2v
