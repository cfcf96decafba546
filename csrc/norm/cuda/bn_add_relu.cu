#include "norm/cuda/add_relu_passes.h"

namespace rlv2v {
namespace {

// Queues a pass over points, or over windows where the skip is low.
template <class T, class Pass>
void over(BnRunOnCuda<T>& run, const BnLayout& layout, bool low_skip, const Pass& pass) {
  if (low_skip)
    run.windows(layout, pass);
  else
    run.points(layout, pass);
}

template <class T>
int run_on_cuda(const BnAddReluFwd<T>& call, const BnLaunch& on) {
  const BnLayout& layout = call.layout;
  BnRunOnCuda<T> run(layout, on, {call.x, call.skip, call.z});
  const BnSumInputs<T> in{call.x, call.skip, affines_of(run, layout, call.x, 0, call.norm)};
  BnAffineSlots<Wide<T>> again{};
  if (call.renormalize) {
    // y is cheaper to compute twice than to write and read back.
    if (!call.again.frozen) over(run, layout, call.low_skip, BnAddReluMomentsPass<T>{in});
    again = run.affines(1, call.again);
  }
  over(run, layout, call.low_skip, BnAddReluPass<T>{in, call.z, call.renormalize, again});
  return run.error();
}

template <class T>
int run_on_cuda(const BnAddReluBwd<T>& call, const BnLaunch& on) {
  const BnLayout& layout = call.layout;
  BnRunOnCuda<T> run(layout, on, {call.grad_z, call.x, call.skip, call.grad_x, call.grad_skip});
  const BnSumInputs<T> in{call.x, call.skip, run.affines(0, call.norm.given())};
  BnGradAffineSlots<Wide<T>> through_again{};
  if (call.renormalize) {
    const auto again = run.affines(1, call.again.given());
    over(run, layout, call.low_skip, BnAddReluSumsPass<T>{in, call.grad_z, again});
    through_again = run.grad_affines(1, layout.count(), call.again, call.grad_again);
  }
  // The gradient of the sum x + skip is that of a full skip; for a low one it waits where grad_x will be.
  T* grad_sum = call.low_skip ? call.grad_x : call.grad_skip;
  over(run, layout, call.low_skip,
       BnAddReluGradPass<T>{in, call.grad_z, grad_sum, call.grad_skip, call.renormalize, through_again});
  const auto affines = run.grad_affines(0, layout.count(), call.norm, call.grad_norm);
  run.points(layout, BnGradApplyPass<T>{{grad_sum, call.x}, call.grad_x, affines});
  return run.error();
}

}  // namespace

RLV2V_BN_DEFINE_LAUNCH(BnAddReluFwd)
RLV2V_BN_DEFINE_LAUNCH(BnAddReluBwd)

}  // namespace rlv2v
