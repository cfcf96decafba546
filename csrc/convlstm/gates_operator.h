// The operator convlstm_gates for dense tensors, float or double, contiguous or channels_last (rlv2v_fast/ops checks).
// Run::over(op, c) applies a functor to every state element on the tensor's device.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <tuple>

#include "convlstm/convlstm_gates.h"
#include "convlstm/state_layout.h"

namespace rlv2v {

template <class Run>
struct ConvLSTMGatesOp {
  using Tensor = torch::stable::Tensor;

  static std::tuple<Tensor, Tensor> fwd(const Tensor& gates, const Tensor& c) {
    Tensor h = torch::stable::empty_like(c), c_next = torch::stable::empty_like(c);
    if (c.scalar_type() == torch::headeronly::ScalarType::Double)
      fwd_as<double>(gates, c, h, c_next);
    else
      fwd_as<float>(gates, c, h, c_next);
    return {h, c_next};
  }

  static std::tuple<Tensor, Tensor> bwd(const Tensor& grad_h, const Tensor& grad_c_next, const Tensor& gates,
                                        const Tensor& c, const Tensor& c_next) {
    Tensor grad_gates = torch::stable::empty_like(gates), grad_c = torch::stable::empty_like(c);
    if (c.scalar_type() == torch::headeronly::ScalarType::Double)
      bwd_as<double>(grad_h, grad_c_next, gates, c, c_next, grad_gates, grad_c);
    else
      bwd_as<float>(grad_h, grad_c_next, gates, c, c_next, grad_gates, grad_c);
    return {grad_gates, grad_c};
  }

 private:
  template <class T>
  static void fwd_as(const Tensor& gates, const Tensor& c, Tensor& h, Tensor& c_next) {
    Run::over(ConvLSTMGatesFwd<T>{gates.const_data_ptr<T>(), c.const_data_ptr<T>(), h.mutable_data_ptr<T>(),
                                  c_next.mutable_data_ptr<T>(), inner_size(c)},
              c);
  }

  template <class T>
  static void bwd_as(const Tensor& grad_h, const Tensor& grad_c_next, const Tensor& gates, const Tensor& c,
                     const Tensor& c_next, Tensor& grad_gates, Tensor& grad_c) {
    Run::over(ConvLSTMGatesBwd<T>{grad_h.const_data_ptr<T>(), grad_c_next.const_data_ptr<T>(),
                                  gates.const_data_ptr<T>(), c.const_data_ptr<T>(), c_next.const_data_ptr<T>(),
                                  grad_gates.mutable_data_ptr<T>(), grad_c.mutable_data_ptr<T>(), inner_size(c)},
              c);
  }
};

}  // namespace rlv2v
