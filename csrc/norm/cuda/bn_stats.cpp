#include "norm/bn_stats.h"
#include "common/current_stream.h"
#include "norm/cuda/device.h"

namespace {
using OnCuda = rlv2v::BnOnCuda<rlv2v::CurrentStream>;
}

STABLE_TORCH_LIBRARY_IMPL(rlv2v_fast, CUDA, m) { m.impl("bn_stats", TORCH_BOX(&rlv2v::bn_stats<OnCuda>)); }
