// The operator bn_stats. Device::run(call) fills in the outputs.
#pragma once

#include "bn_op.h"

namespace rlv2v {

template <class Device>
std::tuple<Tensor, Tensor> bn_stats(const Tensor& x, bool per_frame) {
  Tensor mean = empty_statistics(x, per_frame), var = empty_statistics(x, per_frame);
  if (x.numel() == 0) {
    fill_nan(mean);
    fill_nan(var);
    return {mean, var};
  }
  for_bn_dtype(x, [&](auto zero) {
    using T = decltype(zero);
    Device::run(BnStats<T>{bn_layout(x, per_frame), x.const_data_ptr<T>(), mean.mutable_data_ptr<T>(),
                           var.mutable_data_ptr<T>()});
  });
  return {mean, var};
}

}  // namespace rlv2v
