// The Device (norm/operator.h) that runs the normalization operators on a CPU.
#pragma once

#include "common/half.h"
#include "norm/operators.h"
#include "norm/tensors.h"

namespace rlv2v {

struct CpuDevice : TorchTensors {
  template <class Body>
  static void for_dtype(const Tensor& x, const Body& body) {
    switch (x.scalar_type()) {
      case ScalarType::Half: return body(Half{});
      case ScalarType::BFloat16: return body(BFloat16{});
      default: return for_float_dtype(x, body);
    }
  }

  static Tensor empty(const Tensor& x, const NormLayout& layout) {
    return pooled_clips(x, {layout.batch, layout.channels, layout.frames, layout.height, layout.width},
                        layout.channels_last);
  }

  // The implementation is in norm/cpu/*_simd.cpp.
  template <class Call>
  static void run(const Call& call, const Tensor&) {
    RLV2V_BEST(run(call));
  }
};

}  // namespace rlv2v
