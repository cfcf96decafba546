#include "convlstm_gates_cuda.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include "convlstm_gates_op.h"

namespace rlv2v {
namespace {

struct OnCuda {
  template <class Op>
  static void over(const Op& op, const torch::stable::Tensor& c) {
    const torch::stable::accelerator::DeviceGuard guard(c.get_device_index());
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(c.get_device_index(), &stream));
    const int error = launch(op, c.numel(), stream);
    STD_TORCH_CHECK(error == 0, "convlstm_gates: the CUDA launch failed with cudaError_t ", error);
  }
};

}  // namespace
}  // namespace rlv2v

STABLE_TORCH_LIBRARY_IMPL(rlv2v_fast, CUDA, m) {
  m.impl("convlstm_gates_fwd", TORCH_BOX(&rlv2v::ConvLSTMGatesOp<rlv2v::OnCuda>::fwd));
  m.impl("convlstm_gates_bwd", TORCH_BOX(&rlv2v::ConvLSTMGatesOp<rlv2v::OnCuda>::bwd));
}
