#include "convlstm/cpu/convlstm_gates_simd.h"
#include "convlstm/gates_operator.h"

namespace rlv2v {
namespace {

// About the elements whose work repays waking a second thread.
constexpr int64_t kGrain = 8192;

template <class T>
void loop(const ConvLSTMGatesFwd<T>& op, int64_t begin, int64_t end) {
  RLV2V_BEST(convlstm_gates_fwd(op, begin, end));
}
template <class T>
void loop(const ConvLSTMGatesBwd<T>& op, int64_t begin, int64_t end) {
  RLV2V_BEST(convlstm_gates_bwd(op, begin, end));
}

struct OnCpu {
  template <class Op>
  static void over(const Op& op, const torch::stable::Tensor& c) {
    if (c.numel() == 0) return;
    torch::stable::parallel_for(0, c.numel(), kGrain, [&](int64_t begin, int64_t end) { loop(op, begin, end); });
  }
};

}  // namespace
}  // namespace rlv2v

STABLE_TORCH_LIBRARY_IMPL(rlv2v_fast, CPU, m) {
  m.impl("convlstm_gates_fwd", TORCH_BOX(&rlv2v::ConvLSTMGatesOp<rlv2v::OnCpu>::fwd));
  m.impl("convlstm_gates_bwd", TORCH_BOX(&rlv2v::ConvLSTMGatesOp<rlv2v::OnCpu>::bwd));
}
