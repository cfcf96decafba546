// CPU tensors whose memory comes from the scratch pool and returns to it when the last reference goes: training makes
// the same large ones anew in every step.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <vector>

#include "common/scratch.h"

namespace rlv2v {

// Below this the C library keeps freed memory itself.
constexpr int64_t kPooledBytes = 1 << 20;

// Uninitialized, with the dtype of `like`; the strides must fill one run of memory.
inline torch::stable::Tensor pooled(const torch::stable::Tensor& like, const std::vector<int64_t>& sizes,
                                    const std::vector<int64_t>& strides) {
  int64_t count = 1;
  for (const int64_t size : sizes) count *= size;
  return torch::stable::from_blob(take_scratch(count * like.element_size()), sizes, strides, like.device(),
                                  like.scalar_type(), &give_scratch);
}

// The same, contiguous; small tensors come from PyTorch.
inline torch::stable::Tensor pooled(const torch::stable::Tensor& like, const std::vector<int64_t>& sizes) {
  std::vector<int64_t> strides(sizes.size());
  int64_t count = 1;
  for (std::size_t i = sizes.size(); i-- > 0; count *= sizes[i]) strides[i] = count;
  if (count * static_cast<int64_t>(like.element_size()) < kPooledBytes) return torch::stable::new_empty(like, sizes);
  return pooled(like, sizes, strides);
}

}  // namespace rlv2v
