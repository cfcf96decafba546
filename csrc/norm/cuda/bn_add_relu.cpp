#include "norm/bn_add_relu.h"
#include "common/current_stream.h"
#include "norm/cuda/device.h"

namespace {
using OnCuda = rlv2v::BnOnCuda<rlv2v::CurrentStream>;
}

STABLE_TORCH_LIBRARY_IMPL(rlv2v_fast, CUDA, m) {
  m.impl("bn_add_relu_fwd", TORCH_BOX(&rlv2v::BnAddReluOp<OnCuda>::fwd));
  m.impl("bn_add_relu_bwd", TORCH_BOX(&rlv2v::BnAddReluOp<OnCuda>::bwd));
}
