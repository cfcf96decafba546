// Every normalization operator, and their registration for a Device (operator.h).
#pragma once

#include <torch/csrc/stable/library.h>

#include "norm/bn_add_relu.h"
#include "norm/bn_add_relu_pool.h"
#include "norm/bn_relu.h"
#include "norm/bn_stats.h"

namespace rlv2v {

template <class Device, class Library>
void register_norms(Library& library) {
  library.impl("bn_stats", TORCH_BOX(&BnStats<Device>::fwd));
  library.impl("bn_relu_fwd", TORCH_BOX(&BnRelu<Device>::fwd));
  library.impl("bn_relu_bwd", TORCH_BOX(&BnRelu<Device>::bwd));
  library.impl("bn_add_relu_fwd", TORCH_BOX(&BnAddRelu<Device>::fwd));
  library.impl("bn_add_relu_bwd", TORCH_BOX(&BnAddRelu<Device>::bwd));
  library.impl("bn_add_relu_pool_fwd", TORCH_BOX(&BnAddReluPool<Device>::fwd));
  library.impl("bn_add_relu_pool_bwd", TORCH_BOX(&BnAddReluPool<Device>::bwd));
}

}  // namespace rlv2v
