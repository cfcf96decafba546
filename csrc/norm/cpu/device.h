// The Device (norm/operator.h) that runs the normalization operators on a CPU.
#pragma once

#include "norm/operators.h"
#include "norm/tensors.h"

namespace rlv2v {

struct CpuDevice : TorchTensors {
  template <class Body>
  static void for_dtype(const Tensor& x, const Body& body) {
    for_float_dtype(x, body);
  }

  static Tensor empty(const Tensor& x, const NormLayout& layout) {
    if (layout.numel() * static_cast<int64_t>(x.element_size()) < kPooledBytes) return TorchTensors::empty(x, layout);
    const int64_t c = layout.channels, t = layout.frames, h = layout.height, w = layout.width;
    const std::vector<int64_t> sizes = {layout.batch, c, t, h, w};
    return pooled(x, sizes,
                  layout.channels_last ? std::vector<int64_t>{c * t * h * w, 1, h * w * c, w * c, c}
                                       : std::vector<int64_t>{c * t * h * w, t * h * w, h * w, w, 1});
  }

  // The implementation is in norm/cpu/*_simd.cpp.
  template <class Call>
  static void run(const Call& call, const Tensor&) {
    RLV2V_BEST(run(call));
  }
};

}  // namespace rlv2v
