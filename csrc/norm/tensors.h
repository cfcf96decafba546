// What the Devices of operator.h share: torch's tensors, made through its stable ABI.
#pragma once

#include <limits>

#include "common/tensor.h"
#include "norm/operator.h"

namespace rlv2v {

struct TorchTensors {
  using Tensor = rlv2v::Tensor;

  static Tensor empty(const Tensor& x, const NormLayout& layout) { return empty_as(x, layout, x.scalar_type()); }
  static Tensor empty_bytes(const Tensor& x, const NormLayout& layout) { return empty_as(x, layout, ScalarType::Byte); }

  static Tensor empty_statistics(const Tensor& x, const std::vector<int64_t>& sizes) {
    const bool is_double = x.scalar_type() == ScalarType::Double;
    return torch::stable::new_empty(x, sizes, is_double ? ScalarType::Double : ScalarType::Float);
  }

  static void fill_nan(Tensor tensor) { torch::stable::fill_(tensor, std::numeric_limits<double>::quiet_NaN()); }
  static void fill_zero(Tensor tensor) { torch::stable::zero_(tensor); }

 private:
  static Tensor empty_as(const Tensor& x, const NormLayout& layout, ScalarType dtype) {
    const std::vector<int64_t> sizes = {layout.batch, layout.channels, layout.frames, layout.height, layout.width};
    const auto format = layout.channels_last ? torch::headeronly::MemoryFormat::ChannelsLast3d
                                             : torch::headeronly::MemoryFormat::Contiguous;
    return torch::stable::empty(sizes, dtype, std::nullopt, x.device(), std::nullopt, format);
  }
};

}  // namespace rlv2v
