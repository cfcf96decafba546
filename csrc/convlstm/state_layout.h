// How the state tensor (B, K, H, W) lies in memory, as the [outer][inner] view that convlstm_gates works on.
#pragma once

#include <torch/csrc/stable/tensor.h>

namespace rlv2v {

// K when channels are innermost (channels_last), K*H*W when contiguous; a tensor that is both is read as contiguous.
inline int64_t inner_size(const torch::stable::Tensor& state) {
  const int64_t image = state.size(1) * state.size(2) * state.size(3);
  return state.is_contiguous() ? image : state.size(1);
}

}  // namespace rlv2v
