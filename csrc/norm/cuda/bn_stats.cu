#include "norm/cuda/passes.h"

namespace rlv2v {
namespace {

template <class T>
int run_on_cuda(const BnStats<T>& call, const BnLaunch& on) {
  BnRunOnCuda<T> run(call.layout, on, {call.x});
  run.points(call.layout, BnMomentsPass<T>{call.x});
  run.affines(0, {nullptr, nullptr, call.mean, call.var, 0, false});
  return run.error();
}

}  // namespace

int64_t multiprocessors() {
  int device = 0, count = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  return count;
}

int64_t bn_workspace_bytes(const BnLayout& layout, int64_t processors) {
  // A pass has at most kBnWaves blocks a processor and one block more for each tile of columns; a block has at most
  // eight slots for each of its columns, of which there are at most 32.
  const int64_t slots = layout.statistics(), of_blocks = kBnWaves * processors * 32 * 8;
  const int64_t of_slots = 2 * (sizeof(BnSums<double>) + 7 * sizeof(double)) + sizeof(BnPartial);
  return of_slots * slots + static_cast<int64_t>(sizeof(BnPartial)) * of_blocks;
}

RLV2V_BN_DEFINE_LAUNCH(BnStats)

}  // namespace rlv2v
