#include "norm/cpu/slice.h"

#include <algorithm>

#include "common/half.h"

namespace rlv2v {

template <class T>
Slice<T>::Slice(const NormLayout& layout)
    : layout_(layout),
      padded_((layout.groups() + kPaddedGroups - 1) / kPaddedGroups * kPaddedGroups),
      constants_(2 * kArrays * padded_),
      sums_(2 * layout.blocks() * padded_) {
  std::fill_n(constants_.get(), 2 * kArrays * padded_, Wide<T>(0));
}

template <class T>
Slice<T>::~Slice() = default;

template <class T>
void Slice<T>::clear_sums(int64_t block) {
  std::fill_n(first_sums(block), 2 * padded_, 0.0);
}

template <class T>
void Slice<T>::finish_moments(int64_t rows, const Norm<T>& norm) {
  for (int64_t g = 0; g < layout_.groups(); ++g) {
    Moments<double> all{0, 0, 0};
    for (int64_t block = 0; block < layout_.blocks(); ++block)
      all.merge({static_cast<double>(rows), first_sums(block)[g], second_sums(block)[g]});
    const int64_t statistic = layout_.statistic(number, g);
    norm.mean[statistic] = static_cast<Wide<T>>(all.mean);
    norm.var[statistic] = static_cast<Wide<T>>(all.m2 / all.count);
  }
}

template <class T>
AffineArrays<T> Slice<T>::affines(Which which, const Norm<T>& norm) {
  const AffineArrays<T> to{array(which, 0), array(which, 1), array(which, 2)};
  for (int64_t g = 0; g < layout_.groups(); ++g) {
    const int64_t s = layout_.statistic(number, g), c = layout_.channel(number, g);
    const Affine<Wide<T>> affine = affine_of(norm.weight[c], norm.bias[c], norm.mean[s], norm.var[s], norm.eps);
    to.mean[g] = affine.mean;
    to.scale[g] = affine.scale;
    to.shift[g] = affine.shift;
  }
  return to;
}

template <class T>
GradAffineArrays<T> Slice<T>::finish_grad_sums(Which which, int64_t rows, const Norm<T>& norm, GradSums<double>* all) {
  const GradAffineArrays<T> to = grad_arrays(which);
  for (int64_t g = 0; g < layout_.groups(); ++g) {
    GradSums<double> sums{0, 0};
    for (int64_t block = 0; block < layout_.blocks(); ++block)
      sums.merge({first_sums(block)[g], second_sums(block)[g]});
    const int64_t s = layout_.statistic(number, g), c = layout_.channel(number, g);
    all[s] = sums;
    const GradAffine<Wide<T>> affine =
        grad_affine_of(norm.weight[c], norm.mean[s], norm.var[s], norm.eps, sums, layout_.blocks() * rows, norm.frozen);
    to.mean[g] = affine.mean;
    to.grad_scale[g] = affine.grad_scale;
    to.x_scale[g] = affine.x_scale;
    to.constant[g] = affine.constant;
  }
  return to;
}

template <class T>
GradAffineArrays<T> Slice<T>::identity(Which which) {
  const GradAffineArrays<T> to = grad_arrays(which);
  std::fill_n(to.grad_scale, layout_.groups(), Wide<T>(1));
  return to;
}

template <class T>
void finish_norm_grads(const NormLayout& layout, const Norm<T>& norm, const GradSums<double>* sums,
                       const NormGrads<T>& grads) {
  const int64_t frames = layout.per_frame ? layout.frames : 1;
  const Scratch<double> totals(2 * layout.channels);
  double *weight = totals.get(), *bias = weight + layout.channels;
  std::fill_n(weight, 2 * layout.channels, 0.0);
  for (int64_t s = 0; s < layout.statistics(); ++s) {
    const int64_t channel = s / frames % layout.channels;
    weight[channel] += sums[s].grad_x * inverse_deviation(norm.var[s], norm.eps);
    bias[channel] += sums[s].grad;
  }
  std::copy_n(weight, layout.channels, grads.weight);
  std::copy_n(bias, layout.channels, grads.bias);
}

#define RLV2V_DEFINE(T)    \
  template class Slice<T>; \
  template void finish_norm_grads(const NormLayout&, const Norm<T>&, const GradSums<double>*, const NormGrads<T>&);
RLV2V_DEFINE(float)
RLV2V_DEFINE(double)
RLV2V_DEFINE(Half)
RLV2V_DEFINE(BFloat16)
#undef RLV2V_DEFINE

}  // namespace rlv2v
