// Vector loops over a block of rows x groups numbers in which every group has its own constants. A walk is a sequence
// of vectors that share them: neighbours where there is one group, a column of the block where groups are innermost.
// Constants then stay in registers, and a reduction accumulates there too.
#pragma once

#include "common/vector.h"
#include "norm/affine.h"
#include "norm/cpu/loops_simd.h"

namespace rlv2v::RLV2V_ISA {

// Vectors in a walk: few enough for float sums to stay exact to a few units and for a walk to stay in the first-level
// cache, so that a second pass over it is free.
constexpr int64_t kWalk = 64, kColumnWalk = 16;

struct Walk {
  int64_t begin, step, vectors, lanes, group;
  bool one_group;

  template <class F>
  RLV2V_INLINE void each(const F& f) const {
    for (int64_t i = 0, at = begin; i < vectors; ++i, at += step) f(at);
  }
};

template <class T, class F>
RLV2V_INLINE void for_walks(const BnBlock& block, const F& f) {
  constexpr int64_t kStep = kLanes<T>;
  if (block.groups == 1) {
    const int64_t full = block.rows / kStep, rest = block.rows % kStep;
    for (int64_t v = 0; v < full; v += kWalk) f(Walk{v * kStep, kStep, smaller(kWalk, full - v), kStep, 0, true});
    if (rest) f(Walk{full * kStep, kStep, 1, rest, 0, true});
    return;
  }
  for (int64_t row = 0; row < block.rows; row += kColumnWalk)
    for (int64_t g = 0; g < block.groups; g += kStep)
      f(Walk{row * block.groups + g, block.groups, smaller(kColumnWalk, block.rows - row),
             smaller(kStep, block.groups - g), g, false});
}

// Constants of the groups a walk covers; arrays over groups are padded to whole vectors.
template <class T>
RLV2V_INLINE Vec<T> of_groups(const T* constants, const Walk& walk) {
  return walk.one_group ? broadcast(constants[0]) : load(constants + walk.group);
}

template <class T>
RLV2V_INLINE BnAffine<Vec<T>> of_groups(const BnAffines<T>& of, const Walk& walk) {
  return {of_groups(of.mean, walk), of_groups(of.scale, walk), of_groups(of.shift, walk)};
}

template <class T>
RLV2V_INLINE BnGradAffine<Vec<T>> of_groups(const BnGradAffines<T>& of, const Walk& walk) {
  return {of_groups(of.mean, walk), of_groups(of.of_grad, walk), of_groups(of.of_x, walk),
          of_groups(of.constant, walk)};
}

template <class T>
RLV2V_INLINE double sum_of_lanes(const Vec<T>& v, int64_t lanes) {
  double sum = 0;
  for (int64_t i = 0; i < lanes; ++i) sum += v[i];
  return sum;
}

// Adds a walk's lanes to the running sums of its groups.
template <class T>
RLV2V_INLINE void add_to_sums(const Walk& walk, const Vec<T>& values, double* sums) {
  if (walk.one_group) {
    sums[0] += sum_of_lanes<T>(values, walk.lanes);
    return;
  }
  for (int64_t i = 0; i < walk.lanes; ++i) sums[walk.group + i] += values[i];
}

}  // namespace rlv2v::RLV2V_ISA
