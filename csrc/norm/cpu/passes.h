// How the CPU's normalization operators go over a tensor, from the whole down to vectors, and the loops they share.
//
//   for_slices     slices (norm/layout.h), shared out to threads. An operator makes a few passes over a slice: measure,
//                  apply, measure the result. A thread that takes a whole slice finds it in its cache on the second
//                  pass. Where there is only one slice, all threads share its blocks in every pass.
//   SlicePasses    the blocks of a slice. The sums of each block are kept apart and added in order, so that results do
//                  not depend on the number of threads.
//   for_bands      a few rows of a block at a time, which stay in the first-level cache from one loop to the next.
//   for_walks      vectors with the same constants, which then stay in registers.
#pragma once

#include "common/parallel.h"
#include "common/vector.h"
#include "norm/cpu/slice.h"

namespace rlv2v::RLV2V_ISA {

// rows x groups numbers in one run of memory: a block, or a band of one.
struct Extent {
  int64_t rows, groups;
};

template <class T>
class SlicePasses : public Slice<T> {
 public:
  // `shared`: all threads work on this slice.
  SlicePasses(const NormLayout& layout, bool shared, int64_t grain)
      : Slice<T>(layout), shared_(shared), grain_(grain) {}

  Extent extent() const { return {this->layout_.image(), this->layout_.groups()}; }

  // f(block) for every block.
  template <class F>
  void each_block(const F& f) const {
    const auto blocks = [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) f(block);
    };
    if (shared_)
      parallel_for(0, this->layout_.blocks(), grain_, blocks);
    else
      blocks(0, this->layout_.blocks());
  }

  // The statistics of norm, over blocks of `rows` rows: add_block(block, moments) adds to the moments of its groups.
  template <class F>
  void measure(int64_t rows, const F& add_block, const Norm<T>& norm) {
    each_block([&](int64_t block) {
      this->clear_sums(block);
      BlockMoments moments{0, this->first_sums(block), this->second_sums(block)};
      add_block(block, moments);
    });
    this->finish_moments(rows, norm);
  }

  // The constants of the gradient through norm: add_block(block, sums) adds to the sums of its groups.
  template <class F>
  GradAffineArrays<T> grad_affines(Which which, int64_t rows, const F& add_block, const Norm<T>& norm,
                                   GradSums<double>* all) {
    each_block([&](int64_t block) {
      this->clear_sums(block);
      add_block(block, BlockGradSums{this->first_sums(block), this->second_sums(block)});
    });
    return this->finish_grad_sums(which, rows, norm, all);
  }

 private:
  const bool shared_;
  const int64_t grain_;
};

// body(slice) for every slice of the layout.
template <class T, class Body>
void for_slices(const NormLayout& layout, const Body& body) {
  const int64_t block_grain = larger(1, kElementGrain / layout.block_size());
  if (layout.slices() == 1) {
    SlicePasses<T> slice(layout, true, block_grain);
    body(slice);
    return;
  }
  const int64_t grain = larger(1, block_grain / layout.blocks());
  parallel_for(0, layout.slices(), grain, [&](int64_t begin, int64_t end) {
    SlicePasses<T> slice(layout, false, 0);
    for (slice.number = begin; slice.number < end; ++slice.number) body(slice);
  });
}

// The rows [row, row + rows) of a frame.
struct Band {
  int64_t row, rows;
};

constexpr int64_t kBandBytes = 8192;

// Rows of a band: an even number, so that no 2x2 window is cut.
template <class T>
int64_t band_rows(const NormLayout& layout) {
  const int64_t row_bytes = layout.width * layout.groups() * static_cast<int64_t>(sizeof(Wide<T>));
  return larger(2, kBandBytes / row_bytes / 2 * 2);
}

// Memory for one band of what lies between two passes, which is not rounded to 16 bits.
template <class T>
Scratch<Wide<T>> band_scratch(const NormLayout& layout) {
  return Scratch<Wide<T>>(band_rows<T>(layout) * layout.width * layout.groups());
}

// f(band) for every band of a frame; only the last may have an odd number of rows.
template <class T, class F>
void for_bands(const NormLayout& layout, const F& f) {
  const int64_t rows = band_rows<T>(layout);
  for (int64_t row = 0; row < layout.height; row += rows) f(Band{row, smaller(rows, layout.height - row)});
}

// Vectors of a walk: few enough for float sums to stay exact to a few units and for a walk to stay in the first-level
// cache, so that a second loop over it is free.
constexpr int64_t kWalk = 64, kColumnWalk = 16;

// `vectors` vectors with the same constants, `stride` elements apart: neighbours where there is one group, a column of
// the rows where groups are neighbours. `lanes` numbers of each belong to it.
struct Walk {
  int64_t begin, stride, vectors, lanes;
  int64_t group;  // of the first lane
  bool one_group;

  template <class F>
  RLV2V_INLINE void each(const F& f) const {
    for (int64_t i = 0, at = begin; i < vectors; ++i, at += stride) f(at);
  }
};

template <class T, class F>
RLV2V_INLINE void for_walks(const Extent& of, const F& f) {
  constexpr int64_t kStep = kLanes<T>;
  if (of.groups == 1) {
    const int64_t full = of.rows / kStep, rest = of.rows % kStep;
    for (int64_t v = 0; v < full; v += kWalk) f(Walk{v * kStep, kStep, smaller(kWalk, full - v), kStep, 0, true});
    if (rest) f(Walk{full * kStep, kStep, 1, rest, 0, true});
    return;
  }
  for (int64_t row = 0; row < of.rows; row += kColumnWalk)
    for (int64_t g = 0; g < of.groups; g += kStep)
      f(Walk{row * of.groups + g, of.groups, smaller(kColumnWalk, of.rows - row), smaller(kStep, of.groups - g), g,
             false});
}

// The constants of the groups that a walk covers.
template <class T>
RLV2V_INLINE Vec<T> constants_of(const T* constants, const Walk& walk) {
  return walk.one_group ? broadcast(constants[0]) : load(constants + walk.group);
}
template <class T>
RLV2V_INLINE Affine<Vec<T>> constants_of(const AffineArrays<T>& from, const Walk& walk) {
  return {constants_of(from.mean, walk), constants_of(from.scale, walk), constants_of(from.shift, walk)};
}
template <class T>
RLV2V_INLINE GradAffine<Vec<T>> constants_of(const GradAffineArrays<T>& from, const Walk& walk) {
  return {constants_of(from.mean, walk), constants_of(from.grad_scale, walk), constants_of(from.x_scale, walk),
          constants_of(from.constant, walk)};
}

template <class T>
RLV2V_INLINE double sum_of_lanes(const Vec<T>& v, int64_t lanes) {
  double sum = 0;
  for (int64_t i = 0; i < lanes; ++i) sum += v[i];
  return sum;
}

// Adds a walk's lanes to the sums of its groups.
template <class T>
RLV2V_INLINE void add_lanes(const Walk& walk, const Vec<T>& values, double* sums) {
  if (walk.one_group) {
    sums[0] += sum_of_lanes<T>(values, walk.lanes);
    return;
  }
  for (int64_t i = 0; i < walk.lanes; ++i) sums[walk.group + i] += values[i];
}

// The moments of a walk of one group. Two loops over it, which the first leaves in the cache: its mean, then the
// deviations from that.
template <class T>
RLV2V_INLINE void add_moments_of_run(const T* x, const Walk& walk, BlockMoments& moments) {
  const double count = static_cast<double>(walk.vectors * walk.lanes);
  Vec<T> sum{};
  walk.each([&](int64_t at) { sum += load_part(x + at, walk.lanes); });
  const double mean = sum_of_lanes<T>(sum, walk.lanes) / count;
  const Vec<T> center = broadcast(static_cast<Wide<T>>(mean));
  Vec<T> first{}, second{};
  walk.each([&](int64_t at) {
    const Vec<T> delta = load_part(x + at, walk.lanes) - center;
    first += delta;
    second += delta * delta;
  });
  // The mean was rounded: what the deviations still sum to corrects both moments.
  const double rest = sum_of_lanes<T>(first, walk.lanes) / count;
  const double m2 = sum_of_lanes<T>(second, walk.lanes) - count * rest * rest;
  Moments<double> all{moments.count, *moments.mean, *moments.m2};
  all.merge({count, static_cast<double>(center[0]) + rest, m2});
  *moments.mean = all.mean;
  *moments.m2 = all.m2;
  moments.count = all.count;
}

// The same of a walk of several groups, each of which has `before` values so far.
template <class T>
RLV2V_INLINE void add_moments_of_columns(const T* x, const Walk& walk, double before, BlockMoments& moments) {
  const double count = static_cast<double>(walk.vectors);
  Vec<T> sum{};
  walk.each([&](int64_t at) { sum += load_part(x + at, walk.lanes); });
  const Vec<T> center = sum * broadcast(Wide<T>(1) / static_cast<Wide<T>>(walk.vectors));
  Vec<T> first{}, second{};
  walk.each([&](int64_t at) {
    const Vec<T> delta = load_part(x + at, walk.lanes) - center;
    first += delta;
    second += delta * delta;
  });
  const double share = count / (before + count), weight = before * share;
  for (int64_t i = 0; i < walk.lanes; ++i) {
    const double rest = first[i] / count;
    const double delta = static_cast<double>(center[i]) + rest - moments.mean[walk.group + i];
    moments.mean[walk.group + i] += delta * share;
    moments.m2[walk.group + i] += static_cast<double>(second[i]) - count * rest * rest + delta * delta * weight;
  }
}

template <class T>
void add_moments(const T* x, const Extent& of, BlockMoments& moments) {
  const double before = moments.count;
  for_walks<T>(of, [&](const Walk& walk) {
    if (walk.one_group)
      add_moments_of_run(x, walk, moments);
    else
      // Rows done so far are counted for all groups together.
      add_moments_of_columns(x, walk, before + static_cast<double>(walk.begin / of.groups), moments);
  });
  if (of.groups != 1) moments.count = before + static_cast<double>(of.rows);
}

// The statistics of norm over the whole of x.
template <class T>
void measure(SlicePasses<T>& slice, const T* x, const Norm<T>& norm) {
  slice.measure(
      slice.extent().rows,
      [&](int64_t block, BlockMoments& moments) { add_moments(x + slice.offset(block), slice.extent(), moments); },
      norm);
}

// y = norm(x)
template <class T, class X>
void apply(const X* x, const AffineArrays<T>& affines, const Extent& of, T* y) {
  for_walks<T>(of, [&](const Walk& walk) {
    const auto affine = constants_of(affines, walk);
    walk.each([&](int64_t at) { store_part(y + at, affine(load_part(x + at, walk.lanes)), walk.lanes); });
  });
}

// y = relu(norm(x) + skip)
template <class T, class Skip, class Y>
void add_relu(const T* x, const Skip* skip, const AffineArrays<T>& affines, const Extent& of, Y* y) {
  for_walks<T>(of, [&](const Walk& walk) {
    const auto affine = constants_of(affines, walk);
    walk.each([&](int64_t at) {
      const Vec<T> sum = affine(load_part(x + at, walk.lanes)) + load_part(skip + at, walk.lanes);
      store_part(y + at, relu_of(sum), walk.lanes);
    });
  });
}

// The sums of grad and of grad (x - mean).
template <class T, class X>
void add_grad_sums(const T* grad, const X* x, const Wide<T>* means, const Extent& of, const BlockGradSums& sums) {
  for_walks<T>(of, [&](const Walk& walk) {
    const Vec<T> mean = constants_of(means, walk);
    Vec<T> sum_grad{}, sum_grad_x{};
    walk.each([&](int64_t at) {
      const Vec<T> g = load_part(grad + at, walk.lanes);
      sum_grad += g;
      sum_grad_x += g * (load_part(x + at, walk.lanes) - mean);
    });
    add_lanes<T>(walk, sum_grad, sums.grad);
    add_lanes<T>(walk, sum_grad_x, sums.grad_x);
  });
}

// The gradient through a normalization of x. grad_x may be grad.
template <class T>
void apply_grad(const T* grad, const T* x, const GradAffineArrays<T>& affines, const Extent& of, T* grad_x) {
  for_walks<T>(of, [&](const Walk& walk) {
    const auto affine = constants_of(affines, walk);
    walk.each([&](int64_t at) {
      store_part(grad_x + at, affine(load_part(grad + at, walk.lanes), load_part(x + at, walk.lanes)), walk.lanes);
    });
  });
}

// The gradient through z = post_norm(y), y = relu(sum), which reaches the sum.
template <class T, class Y, class Sum>
void post_norm_relu_grad(const T* grad_z, const Y* y, const GradAffineArrays<T>& affines, const Extent& of,
                         Sum* grad_sum) {
  for_walks<T>(of, [&](const Walk& walk) {
    const auto affine = constants_of(affines, walk);
    walk.each([&](int64_t at) {
      const Vec<T> value = load_part(y + at, walk.lanes);
      const Vec<T> grad_y = affine(load_part(grad_z + at, walk.lanes), value);
      store_part(grad_sum + at, relu_grad_of(grad_y, value), walk.lanes);
    });
  });
}

}  // namespace rlv2v::RLV2V_ISA

// Defines run() of a call (norm/arguments.h) for every dtype by the template `function`.
#define RLV2V_DEFINE_NORM_RUN(Call, function)              \
  namespace rlv2v::RLV2V_ISA {                             \
  void run(const Call<float>& call) { function(call); }    \
  void run(const Call<double>& call) { function(call); }   \
  void run(const Call<Half>& call) { function(call); }     \
  void run(const Call<BFloat16>& call) { function(call); } \
  }
