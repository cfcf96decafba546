// What a CUDA implementation of a normalization operator offers to its registration: no torch header, no CUDA header.
#pragma once

#include "common/half.h"
#include "norm/arguments.h"

namespace rlv2v {

// A stream (cudaStream_t), the multiprocessors of its device, and bn_workspace_bytes of its memory.
struct BnLaunch {
  void *stream, *workspace;
  int64_t processors;
};

// The sums of a chunk of a slot: count, mean and m2 of Moments, or nothing and the two of BnSums.
struct BnPartial {
  double count, first, second;
};

// Of the current device.
int64_t multiprocessors();

// At least what an operator on a tensor of that layout writes between its passes (bn_run_cuda.h).
int64_t bn_workspace_bytes(const BnLayout& layout, int64_t processors);

// Each queues the kernels of one call and returns a cudaError_t as int, 0 where all were queued.
#define RLV2V_BN_LAUNCH(Call)                       \
  int launch(const Call<float>&, const BnLaunch&);  \
  int launch(const Call<double>&, const BnLaunch&); \
  int launch(const Call<Half>&, const BnLaunch&);   \
  int launch(const Call<BFloat16>&, const BnLaunch&);
RLV2V_BN_LAUNCH(BnStats)
RLV2V_BN_LAUNCH(BnReluFwd)
RLV2V_BN_LAUNCH(BnReluBwd)
RLV2V_BN_LAUNCH(BnAddReluFwd)
RLV2V_BN_LAUNCH(BnAddReluBwd)
RLV2V_BN_LAUNCH(BnAddReluPoolFwd)
RLV2V_BN_LAUNCH(BnAddReluPoolBwd)
#undef RLV2V_BN_LAUNCH

// Defines them by run_on_cuda(call, on).
#define RLV2V_BN_DEFINE_LAUNCH_AS(Call, T) \
  int launch(const Call<T>& call, const BnLaunch& on) { return run_on_cuda(call, on); }
#define RLV2V_BN_DEFINE_LAUNCH(Call)      \
  RLV2V_BN_DEFINE_LAUNCH_AS(Call, float)  \
  RLV2V_BN_DEFINE_LAUNCH_AS(Call, double) \
  RLV2V_BN_DEFINE_LAUNCH_AS(Call, Half)   \
  RLV2V_BN_DEFINE_LAUNCH_AS(Call, BFloat16)

}  // namespace rlv2v
