// How the CPU implementations of the normalization operators go over a tensor. Every operator makes a few passes over a
// slice (bn_layout.h): measure, apply, measure the result. A thread that takes whole slices finds each in its cache on
// the second pass; where there is only one slice, all threads share its blocks in every pass. The sums of each block
// are kept apart and added in order, so that results do not depend on the number of threads.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "common/scratch.h"
#include "norm/affine.h"
#include "norm/arguments.h"
#include "norm/cpu/loops_simd.h"

namespace rlv2v {

// About the elements whose work repays waking a second thread.
constexpr int64_t kBnGrain = 8192;

// Both kinds of run call f(block) for every block of a slice.
struct InOrder {
  int64_t blocks;
  template <class F>
  void operator()(const F& f) const {
    for (int64_t block = 0; block < blocks; ++block) f(block);
  }
};

struct InParallel {
  int64_t blocks, grain;
  template <class F>
  void operator()(const F& f) const {
    torch::stable::parallel_for(0, blocks, grain, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) f(block);
    });
  }
};

// The constants and sums of one slice, and where it is. An operator has at most two normalizations, numbered 0 and 1.
template <class T>
class BnSlice {
 public:
  explicit BnSlice(const BnLayout& layout)
      : layout_(layout),
        padded_((layout.groups() + kPaddedGroups - 1) / kPaddedGroups * kPaddedGroups),
        constants_(2 * kArrays * padded_),
        partial_(2 * layout.blocks() * padded_) {
    std::fill_n(constants_.get(), 2 * kArrays * padded_, T(0));
  }

  int64_t index = 0;

  int64_t offset(int64_t block) const { return layout_.offset(index, block); }
  BnBlock whole_block() const { return {layout_.image(), layout_.groups()}; }

  // Mean and variance of each group, measured over blocks of `rows` rows: measure(block, moments).
  template <class Run, class Measure>
  void measure(const Run& run, int64_t rows, const Measure& measure, const BnNorm<T>& norm) {
    each_partial(run, [&](int64_t block, double* mean, double* m2) {
      RunningMoments moments{0, mean, m2};
      measure(block, moments);
    });
    for (int64_t g = 0; g < layout_.groups(); ++g) {
      Moments<double> all{0, 0, 0};
      for (int64_t block = 0; block < layout_.blocks(); ++block)
        all.merge({static_cast<double>(rows), first(block)[g], second(block)[g]});
      norm.mean[statistic(g)] = static_cast<T>(all.mean);
      norm.var[statistic(g)] = static_cast<T>(all.m2 / all.count);
    }
  }

  // The same of the whole tensor x.
  template <class Run>
  void measure_tensor(const Run& run, const T* x, const BnNorm<T>& norm) {
    measure(
        run, layout_.image(),
        [&](int64_t block, RunningMoments& moments) {
          RLV2V_BEST(bn_moments(x + offset(block), whole_block(), moments));
        },
        norm);
  }

  BnAffines<T> affines(int which, const BnNorm<T>& norm) {
    const BnAffines<T> to{array(which, 0), array(which, 1), array(which, 2)};
    for (int64_t g = 0; g < layout_.groups(); ++g) {
      const int64_t s = statistic(g), c = layout_.channel(index, g);
      const BnAffine<T> affine = bn_affine(norm.weight[c], norm.bias[c], norm.mean[s], norm.var[s], norm.eps);
      to.mean[g] = affine.mean;
      to.scale[g] = affine.scale;
      to.shift[g] = affine.shift;
    }
    return to;
  }

  // The gradient through norm, from the sums that add(block, sums) makes over blocks of `rows` rows; the sums also go
  // to `all`, one for each statistic.
  template <class Run, class Add>
  BnGradAffines<T> grad_affines(int which, const Run& run, int64_t rows, const Add& add, const BnNorm<T>& norm,
                                BnSums<double>* all) {
    each_partial(run, [&](int64_t block, double* grad, double* grad_x) { add(block, RunningSums{grad, grad_x}); });
    const BnGradAffines<T> to{array(which, 3), array(which, 4), array(which, 5), array(which, 6)};
    for (int64_t g = 0; g < layout_.groups(); ++g) {
      BnSums<double> sums{0, 0};
      for (int64_t block = 0; block < layout_.blocks(); ++block) {
        sums.grad += first(block)[g];
        sums.grad_x += second(block)[g];
      }
      const int64_t s = statistic(g), c = layout_.channel(index, g);
      all[s] = sums;
      const auto affine = bn_grad_affine(norm.weight[c], norm.mean[s], norm.var[s], norm.eps, sums,
                                         layout_.blocks() * rows, norm.frozen);
      to.mean[g] = affine.mean;
      to.of_grad[g] = affine.of_grad;
      to.of_x[g] = affine.of_x;
      to.constant[g] = affine.constant;
    }
    return to;
  }

  // The gradient through no normalization at all.
  BnGradAffines<T> identity(int which) {
    const BnGradAffines<T> to{array(which, 3), array(which, 4), array(which, 5), array(which, 6)};
    std::fill_n(to.of_grad, layout_.groups(), T(1));
    return to;
  }

 private:
  // Of each normalization: three of BnAffines, four of BnGradAffines.
  static constexpr int kArrays = 7;

  T* array(int which, int number) { return constants_.get() + (which * kArrays + number) * padded_; }
  double* first(int64_t block) { return partial_.get() + 2 * block * padded_; }
  double* second(int64_t block) { return first(block) + padded_; }
  int64_t statistic(int64_t group) const { return layout_.statistic(index, group); }

  template <class Run, class Add>
  void each_partial(const Run& run, const Add& add) {
    run([&](int64_t block) {
      std::fill_n(first(block), 2 * padded_, 0.0);
      add(block, first(block), second(block));
    });
  }

  const BnLayout layout_;
  const int64_t padded_;
  Scratch<T> constants_;
  Scratch<double> partial_;
};

// body(slice, run) for every slice of the layout.
template <class T, class Body>
void for_slices(const BnLayout& layout, const Body& body) {
  const int64_t block_grain = std::max<int64_t>(1, kBnGrain / layout.block_size());
  if (layout.slices() == 1) {
    BnSlice<T> slice(layout);
    body(slice, InParallel{layout.blocks(), block_grain});
    return;
  }
  const int64_t grain = std::max<int64_t>(1, block_grain / layout.blocks());
  torch::stable::parallel_for(0, layout.slices(), grain, [&](int64_t begin, int64_t end) {
    BnSlice<T> slice(layout);
    for (slice.index = begin; slice.index < end; ++slice.index) body(slice, InOrder{layout.blocks()});
  });
}

// An even number of rows of a frame, few enough to stay in the first-level cache between the loops over them.
struct BnBand {
  int64_t row, rows;
};

constexpr int64_t kBandBytes = 8192;

template <class T>
int64_t band_rows(const BnLayout& layout) {
  const int64_t row_bytes = layout.width * layout.groups() * static_cast<int64_t>(sizeof(T));
  return std::max<int64_t>(2, kBandBytes / row_bytes / 2 * 2);
}

// f(band) for every band of a frame; only the last may have an odd number of rows.
template <class T, class F>
void for_bands(const BnLayout& layout, const F& f) {
  const int64_t rows = band_rows<T>(layout);
  for (int64_t row = 0; row < layout.height; row += rows) f(BnBand{row, std::min(rows, layout.height - row)});
}

// Gradients of weight and bias (C,) out of the sums behind every statistic.
template <class T>
void reduce_norm_grads(const BnLayout& layout, const BnNorm<T>& norm, const BnSums<double>* sums,
                       const BnNormGrads<T>& grads) {
  const int64_t frames = layout.per_frame ? layout.frames : 1;
  Scratch<double> totals(2 * layout.channels);
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

}  // namespace rlv2v
