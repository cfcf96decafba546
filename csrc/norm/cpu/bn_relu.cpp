#include "norm/bn_relu.h"

#include "norm/cpu/device.h"
#include "norm/cpu/passes.h"

namespace rlv2v {
namespace {

struct OnCpu : BnOnCpu {
  template <class T>
  static void run(const BnReluFwd<T>& call, const Tensor&) {
    for_slices<T>(call.layout, [&](BnSlice<T>& slice, const auto& run) {
      if (!call.norm.frozen) slice.measure_tensor(run, call.x, call.norm);
      const BnAffines<T> affines = slice.affines(0, call.norm);
      run([&](int64_t block) {
        const int64_t at = slice.offset(block);
        RLV2V_BEST(bn_relu_fwd(call.x + at, affines, slice.whole_block(), call.y + at));
      });
    });
  }

  template <class T>
  static void run(const BnReluBwd<T>& call, const Tensor&) {
    const BnLayout& layout = call.layout;
    Scratch<BnSums<double>> sums(layout.statistics());
    for_slices<T>(layout, [&](BnSlice<T>& slice, const auto& run) {
      const BnAffines<T> affines = slice.affines(0, call.norm);
      const auto add = [&](int64_t block, const RunningSums& to) {
        const int64_t at = slice.offset(block);
        RLV2V_BEST(bn_relu_sums(call.grad_y + at, call.x + at, affines, slice.whole_block(), to));
      };
      const BnGradAffines<T> grad_affines = slice.grad_affines(0, run, layout.image(), add, call.norm, sums.get());
      run([&](int64_t block) {
        const int64_t at = slice.offset(block);
        RLV2V_BEST(
            bn_relu_bwd(call.grad_y + at, call.x + at, affines, grad_affines, slice.whole_block(), call.grad_x + at));
      });
    });
    reduce_norm_grads(layout, call.norm, sums.get(), call.grad_norm);
  }
};

}  // namespace
}  // namespace rlv2v

STABLE_TORCH_LIBRARY_IMPL(rlv2v_fast, CPU, m) {
  m.impl("bn_relu_fwd", TORCH_BOX(&rlv2v::BnReluOp<rlv2v::OnCpu>::fwd));
  m.impl("bn_relu_bwd", TORCH_BOX(&rlv2v::BnReluOp<rlv2v::OnCpu>::bwd));
}
