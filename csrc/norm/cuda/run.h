// How the CUDA implementations of the normalization operators queue their passes (bn_pass_cuda.h), and what happens
// between these: sums are merged and made into constants by small kernels, so that nothing waits for the host.
#pragma once

#include <initializer_list>

#include "norm/cuda/pass.h"

namespace rlv2v {

// Constants of every slot, in arrays one after the other.
template <class A>
struct BnAffineSlots {
  A* at;
  int64_t slots;
  __device__ BnAffine<A> operator[](int64_t s) const { return {at[s], at[slots + s], at[2 * slots + s]}; }
  __device__ void set(int64_t s, const BnAffine<A>& of) const {
    at[s] = of.mean;
    at[slots + s] = of.scale;
    at[2 * slots + s] = of.shift;
  }
};

template <class A>
struct BnGradAffineSlots {
  A* at;
  int64_t slots;
  __device__ BnGradAffine<A> operator[](int64_t s) const {
    return {at[s], at[slots + s], at[2 * slots + s], at[3 * slots + s]};
  }
  __device__ void set(int64_t s, const BnGradAffine<A>& of) const {
    at[s] = of.mean;
    at[slots + s] = of.of_grad;
    at[2 * slots + s] = of.of_x;
    at[3 * slots + s] = of.constant;
  }
};

// Where a slot's statistic is in (C,) or (B, C, T), and its channel.
struct BnSlotPlace {
  int64_t statistic, channel;
};
RLV2V_HD BnSlotPlace place_of(const BnLayout& layout, int64_t slot) {
  const int64_t groups = layout.groups(), slice = slot / groups, group = slot % groups;
  return {layout.statistic(slice, group), layout.channel(slice, group)};
}

constexpr int kMergeSlots = 32, kMergeAlong = 16;

inline __device__ void take(Moments<double>& to, const BnPartial& partial) {
  to.merge({partial.count, partial.first, partial.second});
}
inline __device__ void take(BnSums<double>& to, const BnPartial& partial) { to.merge({partial.first, partial.second}); }

// The partial sums of a slot, merged by kMergeAlong threads; whole in the thread with y = 0.
template <class Sums>
__device__ Sums merge_chunks(const BnPartial* partials, uint32_t chunks, int64_t slots, int64_t slot, int x, int y) {
  __shared__ Sums shared[kMergeSlots * kMergeAlong];
  Sums sums{};
  if (slot < slots)
    for (uint32_t chunk = y; chunk < chunks; chunk += kMergeAlong) take(sums, partials[chunk * slots + slot]);
  shared[threadIdx.x] = sums;
  merge_along<1>(shared, kMergeSlots, kMergeAlong, x, y);
  return shared[x];
}

// Mean and variance out of partial moments, unless they are given, and the constants of the normalization.
template <class T>
__global__ void __launch_bounds__(kMergeSlots* kMergeAlong)
    bn_finish_moments(const BnPartial* partials, uint32_t chunks, const BnLayout layout, const BnNorm<T> norm,
                      const BnAffineSlots<Wide<T>> affines) {
  const int x = threadIdx.x % kMergeSlots, y = threadIdx.x / kMergeSlots;
  const int64_t slot = static_cast<int64_t>(blockIdx.x) * kMergeSlots + x;
  Moments<double> all{};
  if (!norm.frozen) all = merge_chunks<Moments<double>>(partials, chunks, layout.statistics(), slot, x, y);
  if (y != 0 || slot >= layout.statistics()) return;
  const auto [statistic, channel] = place_of(layout, slot);
  if (!norm.frozen) {
    norm.mean[statistic] = static_cast<Wide<T>>(all.mean);
    norm.var[statistic] = static_cast<Wide<T>>(all.m2 / all.count);
  }
  if (norm.weight != nullptr)
    affines.set(
        slot, bn_affine(norm.weight[channel], norm.bias[channel], norm.mean[statistic], norm.var[statistic], norm.eps));
}

// The constants of the gradient out of partial sums over `count` values, and where a channel has one slot, the
// gradients of its weight and bias.
template <class T>
__global__ void __launch_bounds__(kMergeSlots* kMergeAlong)
    bn_finish_sums(const BnPartial* partials, uint32_t chunks, const BnLayout layout, int64_t count,
                   const BnNorm<T> norm, const BnGradAffineSlots<Wide<T>> affines, BnSums<double>* all,
                   const BnNormGrads<T> grads) {
  const int x = threadIdx.x % kMergeSlots, y = threadIdx.x / kMergeSlots;
  const int64_t slot = static_cast<int64_t>(blockIdx.x) * kMergeSlots + x;
  const auto sums = merge_chunks<BnSums<double>>(partials, chunks, layout.statistics(), slot, x, y);
  if (y != 0 || slot >= layout.statistics()) return;
  const auto [statistic, channel] = place_of(layout, slot);
  const Wide<T> mean = norm.mean[statistic], var = norm.var[statistic];
  affines.set(slot, bn_grad_affine(norm.weight[channel], mean, var, norm.eps, sums, count, norm.frozen));
  all[slot] = sums;
  if (layout.per_frame) return;
  grads.weight[channel] = static_cast<Wide<T>>(sums.grad_x * inverse_deviation(var, norm.eps));
  grads.bias[channel] = static_cast<Wide<T>>(sums.grad);
}

// Gradients of weight and bias out of the sums of every frame: a block for each channel.
template <class T>
__global__ void __launch_bounds__(kBnThreads)
    bn_sum_frames(const BnSums<double>* all, const BnLayout layout, const BnNorm<T> norm, const BnNormGrads<T> grads) {
  __shared__ BnSums<double> shared[kBnThreads];
  const int64_t channel = blockIdx.x, frames = layout.batch * layout.frames;
  BnSums<double> sums{};
  for (int64_t frame = threadIdx.x; frame < frames; frame += kBnThreads) {
    const int64_t statistic =
        (frame / layout.frames * layout.channels + channel) * layout.frames + frame % layout.frames;
    const int64_t slot = layout.channels_last ? frame * layout.channels + channel : statistic;
    sums.merge({all[slot].grad, all[slot].grad_x * inverse_deviation(norm.var[statistic], norm.eps)});
  }
  shared[threadIdx.x] = sums;
  merge_along<1>(shared, 1, kBnThreads, 0, threadIdx.x);
  if (threadIdx.x != 0) return;
  grads.weight[channel] = static_cast<Wide<T>>(shared[0].grad_x);
  grads.bias[channel] = static_cast<Wide<T>>(shared[0].grad);
}

// One call of an operator. `tensors` are those that its passes read and write by vectors.
template <class T>
class BnRunOnCuda {
  using A = Wide<T>;

 public:
  BnRunOnCuda(const BnLayout& layout, const BnLaunch& on, std::initializer_list<const void*> tensors)
      : layout_(layout), on_(on), slots_(layout.statistics()) {
    for (const void* tensor : tensors) aligned_ = aligned_ && reinterpret_cast<uintptr_t>(tensor) % 16 == 0;
    sums_ = reinterpret_cast<BnSums<double>*>(on.workspace);
    constants_ = reinterpret_cast<A*>(sums_ + 2 * slots_);
    // After room for double constants, whatever A is.
    partials_ = reinterpret_cast<BnPartial*>(reinterpret_cast<double*>(sums_ + 2 * slots_) + 2 * kArrays * slots_);
  }

  // Queues a pass over every number of tensors of that layout.
  template <class Pass>
  void points(const BnLayout& layout, const Pass& pass) {
    const int64_t run = (layout.per_frame ? 1 : layout.frames) * layout.image();
    queue<BnPoints>(layout, pass, layout.channels_last ? layout.channels : run);
  }

  // Queues a pass over every 2x2 window of tensors of that layout.
  template <class Pass>
  void windows(const BnLayout& layout, const Pass& pass) {
    queue<BnWindows2x2>(layout, pass, layout.channels_last ? layout.channels : layout.width);
  }

  // Constants of normalization `which`, 0 or 1; what the last pass summed is its moments, unless it is frozen.
  BnAffineSlots<A> affines(int which, const BnNorm<T>& norm) {
    const BnAffineSlots<A> to{array(which, 0), slots_};
    launch(bn_finish_moments<T>, merge_blocks(), kMergeSlots * kMergeAlong, partials_, chunks_, layout_, norm, to);
    return to;
  }

  // Constants of the gradient through it, from the sums of the last pass over `count` values of each slot.
  BnGradAffineSlots<A> grad_affines(int which, int64_t count, const BnNorm<T>& norm, const BnNormGrads<T>& grads) {
    const BnGradAffineSlots<A> to{array(which, 3), slots_};
    BnSums<double>* sums = sums_ + which * slots_;
    launch(bn_finish_sums<T>, merge_blocks(), kMergeSlots * kMergeAlong, partials_, chunks_, layout_, count, norm, to,
           sums, grads);
    if (layout_.per_frame) launch(bn_sum_frames<T>, layout_.channels, kBnThreads, sums, layout_, norm, grads);
    return to;
  }

  void clear(void* to, int64_t bytes) { note(cudaMemsetAsync(to, 0, bytes, stream())); }

  int error() const { return static_cast<int>(error_); }

 private:
  // Of each normalization: three of BnAffineSlots, four of BnGradAffineSlots.
  static constexpr int kArrays = 7;

  // `run`: numbers that neighbour in memory and may be read by vectors; double is read one by one, as it is no dtype to
  // train in.
  template <class Tiling, class Pass>
  void queue(const BnLayout& layout, const Pass& pass, int64_t run) {
    constexpr int kVector = 16 / sizeof(T);
    if constexpr (sizeof(T) < sizeof(double)) {
      if (aligned_ && run % kVector == 0) {
        if (layout.channels_last)
          queue_as<Tiling, kVector, false>(layout, pass);
        else
          queue_as<Tiling, kVector, true>(layout, pass);
        return;
      }
    }
    queue_as<Tiling, 1, false>(layout, pass);
  }

  template <class Tiling, int kLanes, bool kOneSlot, class Pass>
  void queue_as(const BnLayout& layout, const Pass& pass) {
    const Tiling tiling(layout, kLanes, kBnUnroll<Pass, typename Tiling::Item>, on_.processors);
    chunks_ = tiling.chunks;
    launch(bn_pass<Pass, Tiling, kLanes, kOneSlot>, tiling.blocks(), kBnThreads, pass, tiling, partials_);
  }

  template <class... Parameters, class... Arguments>
  void launch(void (*kernel)(Parameters...), int64_t blocks, int threads, const Arguments&... arguments) {
    if (error_ != cudaSuccess) return;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(blocks));
    config.blockDim = dim3(threads);
    config.stream = stream();
    note(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
  }

  void note(cudaError_t error) {
    if (error_ == cudaSuccess) error_ = error;
  }

  A* array(int which, int number) const { return constants_ + (which * kArrays + number) * slots_; }
  int64_t merge_blocks() const { return (slots_ + kMergeSlots - 1) / kMergeSlots; }
  cudaStream_t stream() const { return static_cast<cudaStream_t>(on_.stream); }

  const BnLayout layout_;
  const BnLaunch on_;
  const int64_t slots_;
  bool aligned_ = true;
  BnSums<double>* sums_;
  A* constants_;
  BnPartial* partials_;
  uint32_t chunks_ = 0;
  cudaError_t error_ = cudaSuccess;
};

}  // namespace rlv2v
