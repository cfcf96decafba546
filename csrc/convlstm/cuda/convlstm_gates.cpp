#include "convlstm/cuda/convlstm_gates.h"

#include "common/current_stream.h"
#include "convlstm/gates_operator.h"

namespace rlv2v {
namespace {

struct OnCuda {
  template <class Op>
  static void over(const Op& op, const torch::stable::Tensor& c) {
    const CurrentStream stream(c);
    const int error = launch(op, c.numel(), stream.get());
    STD_TORCH_CHECK(error == 0, "convlstm_gates: the CUDA launch failed with cudaError_t ", error);
  }
};

}  // namespace
}  // namespace rlv2v

STABLE_TORCH_LIBRARY_IMPL(rlv2v_fast, CUDA, m) {
  m.impl("convlstm_gates_fwd", TORCH_BOX(&rlv2v::ConvLSTMGatesOp<rlv2v::OnCuda>::fwd));
  m.impl("convlstm_gates_bwd", TORCH_BOX(&rlv2v::ConvLSTMGatesOp<rlv2v::OnCuda>::bwd));
}
