// What the tensor side of every normalization operator needs. x is (B, C, T, H, W), float or double, contiguous or
// channels_last_3d, and so is every tensor of its size (rlv2v_fast/ops/bn_stats.py sees to it).
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <initializer_list>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "bn_calls.h"

namespace rlv2v {

using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

inline BnLayout bn_layout(const Tensor& x, bool per_frame) {
  // A tensor in both layouts at once lies the same in memory either way.
  return {x.size(0), x.size(1), x.size(2), x.size(3), x.size(4), !x.is_contiguous(), per_frame};
}

inline Tensor empty_statistics(const Tensor& x, bool per_frame) {
  return per_frame ? torch::stable::new_empty(x, std::vector<int64_t>{x.size(0), x.size(1), x.size(2)})
                   : torch::stable::new_empty(x, std::vector<int64_t>{x.size(1)});
}

// Statistics of no values are NaN, and gradients through them zero.
inline void fill_nan(Tensor& statistics) {
  torch::stable::fill_(statistics, std::numeric_limits<double>::quiet_NaN());
}

inline void zero(std::initializer_list<Tensor> tensors) {
  for (Tensor tensor : tensors) torch::stable::zero_(tensor);
}

// Runs body(T{}) for the element type of x.
template <class Body>
void for_bn_dtype(const Tensor& x, const Body& body) {
  if (x.scalar_type() == torch::headeronly::ScalarType::Double)
    body(double{});
  else
    body(float{});
}

// The tensors of one normalization in a forward call: mean and var are given, hence frozen, or made here to be measured.
struct BnNormTensors {
  const Tensor &weight, &bias;
  Tensor mean, var;
  double eps;
  bool frozen;

  BnNormTensors(const Tensor& x, const Tensor& weight, const Tensor& bias, const MaybeTensor& mean,
                const MaybeTensor& var, double eps, bool per_frame)
      : weight(weight), bias(bias), mean(mean ? *mean : empty_statistics(x, per_frame)),
        var(var ? *var : empty_statistics(x, per_frame)), eps(eps), frozen(mean.has_value()) {}

  // In a backward call.
  BnNormTensors(const Tensor& weight, const Tensor& bias, const Tensor& mean, const Tensor& var, double eps,
                bool frozen)
      : weight(weight), bias(bias), mean(mean), var(var), eps(eps), frozen(frozen) {}

  template <class T>
  BnNorm<T> as() const {
    return {weight.const_data_ptr<T>(), bias.const_data_ptr<T>(), const_cast<T*>(mean.const_data_ptr<T>()),
            const_cast<T*>(var.const_data_ptr<T>()), eps, frozen};
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
  return {grad_weight.mutable_data_ptr<T>(), grad_bias.mutable_data_ptr<T>()};
}

}  // namespace rlv2v
