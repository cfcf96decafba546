#include "norm/cpu/loops_simd.h"

#include "norm/cpu/walk.h"

namespace rlv2v::RLV2V_ISA {
namespace {

void merge_one_group(const Moments<double>& walk, RunningMoments& running) {
  Moments<double> all{running.count, *running.mean, *running.m2};
  all.merge(walk);
  *running.mean = all.mean;
  *running.m2 = all.m2;
  running.count = all.count;
}

// Two passes over a walk, which the first leaves in the cache: its mean, then the deviations from that.
template <class T>
void moments_of_run(const T* x, const Walk& walk, RunningMoments& running) {
  const double count = static_cast<double>(walk.vectors * walk.lanes);
  Vec<T> sum{};
  walk.each([&](int64_t at) { sum += load_part(x + at, walk.lanes); });
  const double mean = sum_of_lanes<T>(sum, walk.lanes) / count;
  const Vec<T> center = broadcast(static_cast<T>(mean));
  Vec<T> first{}, second{};
  walk.each([&](int64_t at) {
    const Vec<T> delta = load_part(x + at, walk.lanes) - center;
    first += delta;
    second += delta * delta;
  });
  // The mean was rounded to T: what the deviations still sum to corrects both moments.
  const double rest = sum_of_lanes<T>(first, walk.lanes) / count;
  const double m2 = sum_of_lanes<T>(second, walk.lanes) - count * rest * rest;
  merge_one_group({count, static_cast<double>(center[0]) + rest, m2}, running);
}

template <class T>
void moments_of_columns(const T* x, const Walk& walk, double before, RunningMoments& running) {
  const double count = static_cast<double>(walk.vectors);
  Vec<T> sum{};
  walk.each([&](int64_t at) { sum += load_part(x + at, walk.lanes); });
  const Vec<T> center = sum * broadcast(T(1) / static_cast<T>(walk.vectors));
  Vec<T> first{}, second{};
  walk.each([&](int64_t at) {
    const Vec<T> delta = load_part(x + at, walk.lanes) - center;
    first += delta;
    second += delta * delta;
  });
  const double share = count / (before + count), weight = before * share;
  for (int64_t i = 0; i < walk.lanes; ++i) {
    const double rest = first[i] / count;
    const double delta = static_cast<double>(center[i]) + rest - running.mean[walk.group + i];
    running.mean[walk.group + i] += delta * share;
    running.m2[walk.group + i] += static_cast<double>(second[i]) - count * rest * rest + delta * delta * weight;
  }
}

template <class T>
void moments(const T* x, const BnBlock& block, RunningMoments& running) {
  const double before = running.count;
  for_walks<T>(block, [&](const Walk& walk) {
    if (walk.one_group)
      moments_of_run(x, walk, running);
    else
      // Rows done so far, counted for all groups together.
      moments_of_columns(x, walk, before + static_cast<double>(walk.begin / block.groups), running);
  });
  if (block.groups != 1) running.count = before + static_cast<double>(block.rows);
}

template <class T>
void apply(const T* x, const BnAffines<T>& affines, const BnBlock& block, T* y) {
  for_walks<T>(block, [&](const Walk& walk) {
    const auto affine = of_groups(affines, walk);
    walk.each([&](int64_t at) { store_part(y + at, affine(load_part(x + at, walk.lanes)), walk.lanes); });
  });
}

template <class T>
void sums(const T* grad, const T* x, const T* means, const BnBlock& block, const RunningSums& running) {
  for_walks<T>(block, [&](const Walk& walk) {
    const Vec<T> mean = of_groups(means, walk);
    Vec<T> of_grad{}, of_grad_x{};
    walk.each([&](int64_t at) {
      const Vec<T> g = load_part(grad + at, walk.lanes);
      of_grad += g;
      of_grad_x += g * (load_part(x + at, walk.lanes) - mean);
    });
    add_to_sums<T>(walk, of_grad, running.grad);
    add_to_sums<T>(walk, of_grad_x, running.grad_x);
  });
}

template <class T>
void grad_apply(const T* grad, const T* x, const BnGradAffines<T>& affines, const BnBlock& block, T* grad_x) {
  for_walks<T>(block, [&](const Walk& walk) {
    const auto affine = of_groups(affines, walk);
    walk.each([&](int64_t at) {
      store_part(grad_x + at, affine(load_part(grad + at, walk.lanes), load_part(x + at, walk.lanes)), walk.lanes);
    });
  });
}

template <class T>
void relu_fwd(const T* x, const BnAffines<T>& affines, const BnBlock& block, T* y) {
  for_walks<T>(block, [&](const Walk& walk) {
    const auto affine = of_groups(affines, walk);
    walk.each([&](int64_t at) { store_part(y + at, relu_of(affine(load_part(x + at, walk.lanes))), walk.lanes); });
  });
}

template <class T>
void relu_sums(const T* grad_y, const T* x, const BnAffines<T>& affines, const BnBlock& block,
               const RunningSums& running) {
  for_walks<T>(block, [&](const Walk& walk) {
    const auto affine = of_groups(affines, walk);
    Vec<T> of_grad{}, of_grad_x{};
    walk.each([&](int64_t at) {
      const Vec<T> value = load_part(x + at, walk.lanes);
      const Vec<T> g = relu_grad_of(load_part(grad_y + at, walk.lanes), affine(value));
      of_grad += g;
      of_grad_x += g * (value - affine.mean);
    });
    add_to_sums<T>(walk, of_grad, running.grad);
    add_to_sums<T>(walk, of_grad_x, running.grad_x);
  });
}

template <class T>
void relu_bwd(const T* grad_y, const T* x, const BnAffines<T>& affines, const BnGradAffines<T>& grad_affines,
              const BnBlock& block, T* grad_x) {
  for_walks<T>(block, [&](const Walk& walk) {
    const auto affine = of_groups(affines, walk);
    const auto grad_affine = of_groups(grad_affines, walk);
    walk.each([&](int64_t at) {
      const Vec<T> value = load_part(x + at, walk.lanes);
      const Vec<T> g = relu_grad_of(load_part(grad_y + at, walk.lanes), affine(value));
      store_part(grad_x + at, grad_affine(g, value), walk.lanes);
    });
  });
}

template <class T>
void add_relu_fwd(const T* x, const T* skip, const BnAffines<T>& affines, const BnBlock& block, T* y) {
  for_walks<T>(block, [&](const Walk& walk) {
    const auto affine = of_groups(affines, walk);
    walk.each([&](int64_t at) {
      const Vec<T> sum = affine(load_part(x + at, walk.lanes)) + load_part(skip + at, walk.lanes);
      store_part(y + at, relu_of(sum), walk.lanes);
    });
  });
}

template <class T>
void again_relu_bwd(const T* grad_z, const T* y, const BnGradAffines<T>& affines, const BnBlock& block, T* grad_sum) {
  for_walks<T>(block, [&](const Walk& walk) {
    const auto affine = of_groups(affines, walk);
    walk.each([&](int64_t at) {
      const Vec<T> value = load_part(y + at, walk.lanes);
      const Vec<T> grad_y = affine(load_part(grad_z + at, walk.lanes), value);
      store_part(grad_sum + at, relu_grad_of(grad_y, value), walk.lanes);
    });
  });
}

}  // namespace

#define RLV2V_DEFINE(T)                                                                                              \
  void bn_moments(const T* x, BnBlock block, RunningMoments& running) { moments(x, block, running); }                \
  void bn_apply(const T* x, const BnAffines<T>& affines, BnBlock block, T* y) { apply(x, affines, block, y); }       \
  void bn_sums(const T* grad, const T* x, const T* mean, BnBlock block, const RunningSums& running) {                \
    sums(grad, x, mean, block, running);                                                                             \
  }                                                                                                                  \
  void bn_grad_apply(const T* grad, const T* x, const BnGradAffines<T>& affines, BnBlock block, T* grad_x) {         \
    grad_apply(grad, x, affines, block, grad_x);                                                                     \
  }                                                                                                                  \
  void bn_relu_fwd(const T* x, const BnAffines<T>& affines, BnBlock block, T* y) { relu_fwd(x, affines, block, y); } \
  void bn_relu_sums(const T* grad_y, const T* x, const BnAffines<T>& affines, BnBlock block,                         \
                    const RunningSums& running) {                                                                    \
    relu_sums(grad_y, x, affines, block, running);                                                                   \
  }                                                                                                                  \
  void bn_relu_bwd(const T* grad_y, const T* x, const BnAffines<T>& affines, const BnGradAffines<T>& grad_affines,   \
                   BnBlock block, T* grad_x) {                                                                       \
    relu_bwd(grad_y, x, affines, grad_affines, block, grad_x);                                                       \
  }                                                                                                                  \
  void bn_add_relu_fwd(const T* x, const T* skip, const BnAffines<T>& affines, BnBlock block, T* y) {                \
    add_relu_fwd(x, skip, affines, block, y);                                                                        \
  }                                                                                                                  \
  void bn_again_relu_bwd(const T* grad_z, const T* y, const BnGradAffines<T>& affines, BnBlock block, T* grad_sum) { \
    again_relu_bwd(grad_z, y, affines, block, grad_sum);                                                             \
  }

RLV2V_DEFINE(float)
RLV2V_DEFINE(double)
#undef RLV2V_DEFINE

}  // namespace rlv2v::RLV2V_ISA
