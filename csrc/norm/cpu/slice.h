// What an operator keeps for a slice (norm/layout.h) between its passes over it: the sums of every block, and the
// constants of each group's normalizations that are made of them. These few numbers are computed in slice.cpp, in
// double, and by the same code on every processor. Those of 16-bit numbers are floats.
#pragma once

#include <cstdint>

#include "common/scratch.h"
#include "norm/arguments.h"

namespace rlv2v {

// Constants of each group, in arrays padded to kPaddedGroups, so that vectors of them can be read whole.
constexpr int64_t kPaddedGroups = 16;
template <class T>
struct AffineArrays {
  Wide<T>*mean, *scale, *shift;
};
template <class T>
struct GradAffineArrays {
  Wide<T>*mean, *grad_scale, *x_scale, *constant;
};

// For each group of a block: the moments of its `count` values so far, and the sums of GradSums so far.
struct BlockMoments {
  double count;
  double *mean, *m2;
};
struct BlockGradSums {
  double *grad, *grad_x;
};

template <class T>
class Slice {
 public:
  explicit Slice(const NormLayout& layout);
  ~Slice();

  int64_t number = 0;

  // Distance in elements from the start of the tensor to a block.
  RLV2V_HD int64_t offset(int64_t block) const { return layout_.offset(number, block); }

  // The statistics of norm, from the moments of every block over `rows` rows.
  void finish_moments(int64_t rows, const Norm<T>& norm);

  AffineArrays<T> affines(Which which, const Norm<T>& norm);

  // The constants of the gradient through norm, from the sums of every block over `rows` rows. The slice's sums also go
  // to `all`, one for each statistic.
  GradAffineArrays<T> finish_grad_sums(Which which, int64_t rows, const Norm<T>& norm, GradSums<double>* all);

  // The constants of the gradient through no normalization at all.
  GradAffineArrays<T> identity(Which which);

 protected:
  // Two sums for each group of a block.
  RLV2V_HD double* first_sums(int64_t block) const { return sums_.get() + 2 * block * padded_; }
  RLV2V_HD double* second_sums(int64_t block) const { return first_sums(block) + padded_; }
  void clear_sums(int64_t block);

  const NormLayout layout_;

 private:
  // For each normalization three arrays of AffineArrays and four of GradAffineArrays.
  static constexpr int kArrays = 7;

  Wide<T>* array(Which which, int index) { return constants_.get() + (which * kArrays + index) * padded_; }
  GradAffineArrays<T> grad_arrays(Which which) {
    return {array(which, 3), array(which, 4), array(which, 5), array(which, 6)};
  }

  const int64_t padded_;
  const Scratch<Wide<T>> constants_;
  const Scratch<double> sums_;
};

// The gradients of weight and bias, from the sums behind every statistic.
template <class T>
void finish_norm_grads(const NormLayout& layout, const Norm<T>& norm, const GradSums<double>* sums,
                       const NormGrads<T>& grads);

}  // namespace rlv2v
