// The ConvLSTM operators of a CUDA device.
#pragma once

#include "common/current_stream.h"
#include "common/tensor.h"
#include "convlstm/convlstm_gates.h"

namespace rlv2v {

// Runs ConvLSTMGates on a CUDA device.
struct GatesOnCuda {
  using Tensor = rlv2v::Tensor;

  static Tensor empty_like(const Tensor& tensor) { return torch::stable::empty_like(tensor); }

  template <class Body>
  static void for_dtype(const Tensor& x, const Body& body) {
    for_float_dtype(x, body);
  }

  // The implementation is in convlstm_gates.cu.
  template <class Functor>
  static void run(const Functor& functor, const Tensor& c) {
    const CurrentStream stream(c);
    const int error = launch(functor, c.numel(), stream.get());
    STD_TORCH_CHECK(error == 0, "convlstm_gates: the CUDA launch failed with cudaError_t ", error);
  }
};

}  // namespace rlv2v
