// The normalization operators on a CPU.
#pragma once

#include "common/pooled.h"
#include "norm/tensors.h"

namespace rlv2v {

struct BnOnCpu {
  template <class Body>
  static void for_dtype(const Tensor& x, const Body& body) {
    if (x.scalar_type() == torch::headeronly::ScalarType::Double)
      body(double{});
    else
      body(float{});
  }

  static Tensor like(const Tensor& x, const BnLayout& layout) {
    if (layout.numel() * static_cast<int64_t>(x.element_size()) < kPooledBytes)
      return empty_clip(x, layout, x.scalar_type());
    const int64_t c = layout.channels, t = layout.frames, h = layout.height, w = layout.width;
    const std::vector<int64_t> sizes = {layout.batch, c, t, h, w};
    return pooled(x, sizes,
                  layout.channels_last ? std::vector<int64_t>{c * t * h * w, 1, h * w * c, w * c, c}
                                       : std::vector<int64_t>{c * t * h * w, t * h * w, h * w, w, 1});
  }

  static Tensor bytes_like(const Tensor& x, const BnLayout& layout) {
    return empty_clip(x, layout, torch::headeronly::ScalarType::Byte);
  }
};

}  // namespace rlv2v
