// CPU outputs of the normalization operators.
#pragma once

#include "bn_op.h"
#include "pooled.h"

namespace rlv2v {

struct BnOnCpu {
  // Uninitialized, of the layout's size and order of memory, with the dtype of x.
  static Tensor like(const Tensor& x, const BnLayout& layout) {
    if (layout.numel() * static_cast<int64_t>(x.element_size()) < kPooledBytes)
      return empty(x, layout, x.scalar_type());
    const int64_t c = layout.channels, t = layout.frames, h = layout.height, w = layout.width;
    const std::vector<int64_t> sizes = {layout.batch, c, t, h, w};
    return pooled(x, sizes,
                  layout.channels_last ? std::vector<int64_t>{c * t * h * w, 1, h * w * c, w * c, c}
                                       : std::vector<int64_t>{c * t * h * w, t * h * w, h * w, w, 1});
  }

  static Tensor bytes_like(const Tensor& x, const BnLayout& layout) {
    return empty(x, layout, torch::headeronly::ScalarType::Byte);
  }

 private:
  static Tensor empty(const Tensor& x, const BnLayout& layout, torch::headeronly::ScalarType dtype) {
    const std::vector<int64_t> sizes = {layout.batch, layout.channels, layout.frames, layout.height, layout.width};
    const auto format = layout.channels_last ? torch::headeronly::MemoryFormat::ChannelsLast3d
                                             : torch::headeronly::MemoryFormat::Contiguous;
    return torch::stable::empty(sizes, dtype, std::nullopt, x.device(), std::nullopt, format);
  }
};

}  // namespace rlv2v
