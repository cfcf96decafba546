// bn_stats: the mean and variance of each statistic of x.
#pragma once

#include "norm/operator.h"

namespace rlv2v {

template <class T>
struct BnStatsCall {
  NormLayout layout;
  const T* x;
  Wide<T>*mean, *var;
};

template <class Device>
struct BnStats {
  using Tensor = typename Device::Tensor;

  static std::tuple<Tensor, Tensor> fwd(const Tensor& x, bool per_frame) {
    const NormLayout layout = layout_of(x, per_frame);
    const Tensor mean = NormTensors<Device>::empty_statistics(x, per_frame);
    const Tensor var = NormTensors<Device>::empty_statistics(x, per_frame);
    if (layout.numel() == 0) {
      Device::fill_nan(mean);
      Device::fill_nan(var);
      return {mean, var};
    }
    Device::for_dtype(x, [&](auto zero) {
      using T = decltype(zero);
      Device::run(BnStatsCall<T>{layout, const_data<T>(x), mutable_data<Wide<T>>(mean), mutable_data<Wide<T>>(var)}, x);
    });
    return {mean, var};
  }
};

}  // namespace rlv2v

RLV2V_DECLARE_NORM_CALL(BnStatsCall)
