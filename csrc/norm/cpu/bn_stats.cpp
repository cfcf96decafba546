#include "norm/bn_stats.h"

#include "norm/cpu/device.h"
#include "norm/cpu/passes.h"

namespace rlv2v {
namespace {

struct OnCpu : BnOnCpu {
  template <class T>
  static void run(const BnStats<T>& call, const Tensor&) {
    const BnNorm<T> norm{nullptr, nullptr, call.mean, call.var, 0, false};
    for_slices<T>(call.layout, [&](BnSlice<T>& slice, const auto& run) { slice.measure_tensor(run, call.x, norm); });
  }
};

}  // namespace
}  // namespace rlv2v

STABLE_TORCH_LIBRARY_IMPL(rlv2v_fast, CPU, m) { m.impl("bn_stats", TORCH_BOX(&rlv2v::bn_stats<rlv2v::OnCpu>)); }
