#include "norm/bn_stats.h"

#include "norm/cpu/passes.h"

namespace rlv2v::RLV2V_ISA {
namespace {

template <class T>
void stats(const BnStatsCall<T>& call) {
  const Norm<T> norm{nullptr, nullptr, call.mean, call.var, 0, false};
  for_slices<T>(call.layout, [&](SlicePasses<T>& slice) { measure(slice, call.x, norm); });
}

}  // namespace
}  // namespace rlv2v::RLV2V_ISA

RLV2V_DEFINE_NORM_RUN(BnStatsCall, stats)
