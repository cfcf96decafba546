// torch's tensor through its stable ABI, and CPU tensors whose memory comes from the scratch pool.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <vector>

#include "common/scratch.h"

namespace rlv2v {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

// Calls body(T{}) with the element type T of x, float or double.
template <class Body>
void for_float_dtype(const Tensor& x, const Body& body) {
  if (x.scalar_type() == ScalarType::Double)
    body(double{});
  else
    body(float{});
}

// Tensors of at least this size come from the scratch pool: training makes the same large ones in every step, and the C
// library gives their memory back to the system each time. Below this size it keeps freed memory itself.
constexpr int64_t kPooledBytes = 1 << 20;

// An uninitialized tensor with the dtype of `like`, whose memory goes back to the pool with the last reference to it.
// The strides must fill one run of memory.
inline Tensor pooled(const Tensor& like, const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides) {
  int64_t count = 1;
  for (const int64_t size : sizes) count *= size;
  return torch::stable::from_blob(take_scratch(count * like.element_size()), sizes, strides, like.device(),
                                  like.scalar_type(), &give_scratch);
}

// The same, contiguous; a small one comes from PyTorch.
inline Tensor pooled(const Tensor& like, const std::vector<int64_t>& sizes) {
  std::vector<int64_t> strides(sizes.size());
  int64_t count = 1;
  for (std::size_t i = sizes.size(); i-- > 0; count *= sizes[i]) strides[i] = count;
  if (count * static_cast<int64_t>(like.element_size()) < kPooledBytes) return torch::stable::new_empty(like, sizes);
  return pooled(like, sizes, strides);
}

// The same for clips (B, C, T, H, W), channels innermost or contiguous.
inline Tensor pooled_clips(const Tensor& like, const std::vector<int64_t>& sizes, bool channels_last) {
  const int64_t c = sizes[1], t = sizes[2], h = sizes[3], w = sizes[4];
  if (!channels_last) return pooled(like, sizes);
  if (sizes[0] * c * t * h * w * static_cast<int64_t>(like.element_size()) < kPooledBytes)
    return torch::stable::empty(sizes, like.scalar_type(), std::nullopt, like.device(), std::nullopt,
                                torch::headeronly::MemoryFormat::ChannelsLast3d);
  return pooled(like, sizes, {c * t * h * w, 1, h * w * c, w * c, c});
}

}  // namespace rlv2v
