// The ConvLSTM operators of a CPU.
#pragma once

#include <tuple>

#include "common/tensor.h"
#include "convlstm/convlstm_gates.h"

namespace rlv2v {

// A whole sequence, float or double (convlstm.cpp); rlv2v_fast/ops/schemas.py says what the arguments are.
using ConvLSTMResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;
ConvLSTMResult convlstm_fwd(const Tensor& x, const Tensor& weight, const MaybeTensor& bias, const MaybeTensor& h0,
                            const MaybeTensor& c0, bool exact, bool save_cells, bool save_gates);
ConvLSTMResult convlstm_bwd(const MaybeTensor& grad_output, const MaybeTensor& grad_h, const MaybeTensor& grad_c,
                            const Tensor& x, const Tensor& weight, const MaybeTensor& bias, const MaybeTensor& h0,
                            const MaybeTensor& c0, const Tensor& output, const Tensor& cells, const Tensor& gates,
                            bool exact, bool need_x, bool need_weight, bool need_h0, bool need_c0);

// Runs ConvLSTMGates on a CPU.
struct GatesOnCpu {
  using Tensor = rlv2v::Tensor;

  static Tensor empty_like(const Tensor& tensor) { return torch::stable::empty_like(tensor); }

  template <class Body>
  static void for_dtype(const Tensor& x, const Body& body) {
    for_float_dtype(x, body);
  }

  // The implementation is in convlstm_gates_simd.cpp.
  template <class Functor>
  static void run(const Functor& functor, const Tensor& c) {
    if (c.numel() != 0) RLV2V_BEST(run(functor, c.numel()));
  }
};

}  // namespace rlv2v
