// The operator bn_stats on a device (bn_op.h).
#pragma once

#include "norm/tensors.h"

namespace rlv2v {

template <class Device>
std::tuple<Tensor, Tensor> bn_stats(const Tensor& x, bool per_frame) {
  Tensor mean = empty_statistics(x, per_frame), var = empty_statistics(x, per_frame);
  if (x.numel() == 0) {
    fill_nan(mean);
    fill_nan(var);
    return {mean, var};
  }
  Device::for_dtype(x, [&](auto zero) {
    using T = decltype(zero);
    Device::run(
        BnStats<T>{bn_layout(x, per_frame), const_data<T>(x), mutable_data<Wide<T>>(mean), mutable_data<Wide<T>>(var)},
        x);
  });
  return {mean, var};
}

}  // namespace rlv2v
