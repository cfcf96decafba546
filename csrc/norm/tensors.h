// What the tensor side of every normalization operator needs. x is (B, C, T, H, W), contiguous or channels_last_3d, and
// so is every tensor of its size; parameters and statistics have its dtype, or float for a 16-bit one
// (rlv2v_fast/ops/bn.py sees to both). A device offers
//   for_dtype(x, body): body(T{}) for the element type of x;
//   like(x, layout), bytes_like(x, layout): uninitialized tensors of a layout, with the dtype of x or uint8;
//   run(call, x): fills in the outputs of a call (bn_calls.h) on the device of x.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <initializer_list>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "norm/arguments.h"

namespace rlv2v {

using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

inline BnLayout bn_layout(const Tensor& x, bool per_frame) {
  // A tensor in both layouts at once lies the same in memory either way.
  return {x.size(0), x.size(1), x.size(2), x.size(3), x.size(4), !x.is_contiguous(), per_frame};
}

inline Tensor empty_statistics(const Tensor& x, bool per_frame) {
  using torch::headeronly::ScalarType;
  const std::vector<int64_t> all = {x.size(0), x.size(1), x.size(2)}, of_channels = {x.size(1)};
  return torch::stable::new_empty(x, per_frame ? all : of_channels,
                                  x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float);
}

// Uninitialized, of the layout's size and order of memory.
inline Tensor empty_clip(const Tensor& x, const BnLayout& layout, torch::headeronly::ScalarType dtype) {
  const std::vector<int64_t> sizes = {layout.batch, layout.channels, layout.frames, layout.height, layout.width};
  const auto format = layout.channels_last ? torch::headeronly::MemoryFormat::ChannelsLast3d
                                           : torch::headeronly::MemoryFormat::Contiguous;
  return torch::stable::empty(sizes, dtype, std::nullopt, x.device(), std::nullopt, format);
}

// Statistics of no values are NaN, and gradients through them zero.
inline void fill_nan(Tensor& statistics) { torch::stable::fill_(statistics, std::numeric_limits<double>::quiet_NaN()); }

inline void zero(std::initializer_list<Tensor> tensors) {
  for (Tensor tensor : tensors) torch::stable::zero_(tensor);
}

template <class T>
const T* const_data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}
template <class T>
T* mutable_data(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// The tensors of one normalization in a forward call: mean and var are given, hence frozen, or made here to be
// measured.
struct BnNormTensors {
  const Tensor &weight, &bias;
  Tensor mean, var;
  double eps;
  bool frozen;

  BnNormTensors(const Tensor& x, const Tensor& weight, const Tensor& bias, const MaybeTensor& mean,
                const MaybeTensor& var, double eps, bool per_frame)
      : weight(weight),
        bias(bias),
        mean(mean ? *mean : empty_statistics(x, per_frame)),
        var(var ? *var : empty_statistics(x, per_frame)),
        eps(eps),
        frozen(mean.has_value()) {}

  // In a backward call.
  BnNormTensors(const Tensor& weight, const Tensor& bias, const Tensor& mean, const Tensor& var, double eps,
                bool frozen)
      : weight(weight), bias(bias), mean(mean), var(var), eps(eps), frozen(frozen) {}

  template <class T>
  BnNorm<T> as() const {
    using W = Wide<T>;
    return {const_data<W>(weight),
            const_data<W>(bias),
            const_cast<W*>(const_data<W>(mean)),
            const_cast<W*>(const_data<W>(var)),
            eps,
            frozen};
  }

  void fill_nan_if_measured() {
    if (frozen) return;
    fill_nan(mean);
    fill_nan(var);
  }

  // What was measured; an output may not be an input, so frozen statistics give tensors of shape (0,).
  Tensor measured(const Tensor& statistic) const {
    return frozen ? torch::stable::new_empty(statistic, std::vector<int64_t>{0}) : statistic;
  }
};

template <class T>
BnNormGrads<T> grads_to(const Tensor& grad_weight, const Tensor& grad_bias) {
  return {mutable_data<Wide<T>>(grad_weight), mutable_data<Wide<T>>(grad_bias)};
}

}  // namespace rlv2v
