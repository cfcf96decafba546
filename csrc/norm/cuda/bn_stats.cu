#include "norm/bn_stats.h"

#include "norm/cuda/passes.h"

namespace rlv2v {
namespace {

template <class T>
int stats(const BnStatsCall<T>& call, const Launch& on) {
  PassQueue<T> queue(call.layout, on, {call.x});
  queue.points(call.layout, MomentsPass<T>{call.x});
  // Without a weight it only writes the statistics.
  queue.affines(kNorm, {nullptr, nullptr, call.mean, call.var, 0, false});
  return queue.error();
}

}  // namespace

RLV2V_DEFINE_NORM_LAUNCH(BnStatsCall, stats)

}  // namespace rlv2v
