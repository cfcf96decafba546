// How a CUDA normalization operator queues its passes (pass.h), and the small kernels between these, which merge sums
// and turn them into constants: nothing waits for the host.
#pragma once

#include <initializer_list>

#include "norm/cuda/launch.h"
#include "norm/cuda/pass.h"

namespace rlv2v {

// Constants of every slot, in arrays that follow each other.
template <class A>
struct AffineSlots {
  A* at;
  int64_t slots;
  __device__ Affine<A> operator[](int64_t s) const { return {at[s], at[slots + s], at[2 * slots + s]}; }
  __device__ void set(int64_t s, const Affine<A>& affine) const {
    at[s] = affine.mean;
    at[slots + s] = affine.scale;
    at[2 * slots + s] = affine.shift;
  }
};

template <class A>
struct GradAffineSlots {
  A* at;
  int64_t slots;
  __device__ GradAffine<A> operator[](int64_t s) const {
    return {at[s], at[slots + s], at[2 * slots + s], at[3 * slots + s]};
  }
  __device__ void set(int64_t s, const GradAffine<A>& affine) const {
    at[s] = affine.mean;
    at[slots + s] = affine.grad_scale;
    at[2 * slots + s] = affine.x_scale;
    at[3 * slots + s] = affine.constant;
  }
};

// A slot's statistic as a number in (C,) or (B, C, T), and its channel.
struct SlotPlace {
  int64_t statistic, channel;
};
RLV2V_HD SlotPlace place_of(const NormLayout& layout, int64_t slot) {
  const int64_t groups = layout.groups(), slice = slot / groups, group = slot % groups;
  return {layout.statistic(slice, group), layout.channel(slice, group)};
}

constexpr int kMergeSlots = 32, kMergeAlong = 16;

inline __device__ void merge_partial(Moments<double>& to, const Partial& partial) {
  to.merge({partial.count, partial.first, partial.second});
}
inline __device__ void merge_partial(GradSums<double>& to, const Partial& partial) {
  to.merge({partial.first, partial.second});
}

// Merges the partial sums of a slot by kMergeAlong threads; the thread with y = 0 returns all of them.
template <class Sums>
__device__ Sums merge_chunks(const Partial* partials, uint32_t chunks, int64_t slots, int64_t slot, int x, int y) {
  __shared__ Sums shared[kMergeSlots * kMergeAlong];
  Sums sums{};
  if (slot < slots)
    for (uint32_t chunk = y; chunk < chunks; chunk += kMergeAlong) merge_partial(sums, partials[chunk * slots + slot]);
  shared[threadIdx.x] = sums;
  merge_along<1>(shared, kMergeSlots, kMergeAlong, x, y);
  return shared[x];
}

// Turns partial moments into mean and variance, unless these are frozen, and writes the constants of the normalization.
template <class T>
__global__ void __launch_bounds__(kMergeSlots* kMergeAlong)
    finish_moments(const Partial* partials, uint32_t chunks, const NormLayout layout, const Norm<T> norm,
                   const AffineSlots<Wide<T>> affines) {
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
        slot, affine_of(norm.weight[channel], norm.bias[channel], norm.mean[statistic], norm.var[statistic], norm.eps));
}

// Turns partial sums over `count` values into the constants of the gradient and, where a channel has one slot, into the
// gradients of its weight and bias.
template <class T>
__global__ void __launch_bounds__(kMergeSlots* kMergeAlong)
    finish_grad_sums(const Partial* partials, uint32_t chunks, const NormLayout layout, int64_t count,
                     const Norm<T> norm, const GradAffineSlots<Wide<T>> affines, GradSums<double>* all,
                     const NormGrads<T> grads) {
  const int x = threadIdx.x % kMergeSlots, y = threadIdx.x / kMergeSlots;
  const int64_t slot = static_cast<int64_t>(blockIdx.x) * kMergeSlots + x;
  const auto sums = merge_chunks<GradSums<double>>(partials, chunks, layout.statistics(), slot, x, y);
  if (y != 0 || slot >= layout.statistics()) return;
  const auto [statistic, channel] = place_of(layout, slot);
  const Wide<T> mean = norm.mean[statistic], var = norm.var[statistic];
  affines.set(slot, grad_affine_of(norm.weight[channel], mean, var, norm.eps, sums, count, norm.frozen));
  all[slot] = sums;
  if (layout.per_frame) return;
  grads.weight[channel] = static_cast<Wide<T>>(sums.grad_x * inverse_deviation(var, norm.eps));
  grads.bias[channel] = static_cast<Wide<T>>(sums.grad);
}

// Turns the sums of every frame into the gradients of weight and bias: a block for each channel.
template <class T>
__global__ void __launch_bounds__(kThreads)
    sum_frames(const GradSums<double>* all, const NormLayout layout, const Norm<T> norm, const NormGrads<T> grads) {
  __shared__ GradSums<double> shared[kThreads];
  const int64_t channel = blockIdx.x, frames = layout.batch * layout.frames;
  GradSums<double> sums{};
  for (int64_t frame = threadIdx.x; frame < frames; frame += kThreads) {
    const int64_t statistic =
        (frame / layout.frames * layout.channels + channel) * layout.frames + frame % layout.frames;
    const int64_t slot = layout.channels_last ? frame * layout.channels + channel : statistic;
    sums.merge({all[slot].grad, all[slot].grad_x * inverse_deviation(norm.var[statistic], norm.eps)});
  }
  shared[threadIdx.x] = sums;
  merge_along<1>(shared, 1, kThreads, 0, threadIdx.x);
  if (threadIdx.x != 0) return;
  grads.weight[channel] = static_cast<Wide<T>>(shared[0].grad_x);
  grads.bias[channel] = static_cast<Wide<T>>(shared[0].grad);
}

// Queues the kernels of one call. `tensors` are those that its passes read and write by vectors. The workspace holds,
// one after the other, the sums of every slot for two normalizations, their constants, and the partial sums of a pass.
template <class T>
class PassQueue {
  using A = Wide<T>;

 public:
  PassQueue(const NormLayout& layout, const Launch& on, std::initializer_list<const void*> tensors)
      : layout_(layout), on_(on), slots_(layout.statistics()) {
    for (const void* tensor : tensors) aligned_ = aligned_ && reinterpret_cast<uintptr_t>(tensor) % 16 == 0;
    sums_ = reinterpret_cast<GradSums<double>*>(on.workspace);
    constants_ = reinterpret_cast<A*>(sums_ + 2 * slots_);
    // There is room for constants in double, whatever A is.
    partials_ = reinterpret_cast<Partial*>(reinterpret_cast<double*>(sums_ + 2 * slots_) + 2 * kArrays * slots_);
  }

  // Queues a pass over every number of tensors of that layout.
  template <class Pass>
  void points(const NormLayout& layout, const Pass& pass) {
    const int64_t run = (layout.per_frame ? 1 : layout.frames) * layout.image();
    enqueue<PointTiling>(layout, pass, layout.channels_last ? layout.channels : run);
  }

  // Queues a pass over every 2x2 window of tensors of that layout.
  template <class Pass>
  void windows(const NormLayout& layout, const Pass& pass) {
    enqueue<WindowTiling>(layout, pass, layout.channels_last ? layout.channels : layout.width);
  }

  // The constants of a normalization. Unless it is frozen, the last pass must have summed its moments.
  AffineSlots<A> affines(Which which, const Norm<T>& norm) {
    const AffineSlots<A> to{array(which, 0), slots_};
    launch(finish_moments<T>, merge_blocks(), kMergeSlots * kMergeAlong, partials_, chunks_, layout_, norm, to);
    return to;
  }

  // The constants of the gradient through it, from the sums of the last pass over `count` values of each slot.
  GradAffineSlots<A> grad_affines(Which which, int64_t count, const Norm<T>& norm, const NormGrads<T>& grads) {
    const GradAffineSlots<A> to{array(which, 3), slots_};
    GradSums<double>* sums = sums_ + which * slots_;
    launch(finish_grad_sums<T>, merge_blocks(), kMergeSlots * kMergeAlong, partials_, chunks_, layout_, count, norm, to,
           sums, grads);
    if (layout_.per_frame) launch(sum_frames<T>, layout_.channels, kThreads, sums, layout_, norm, grads);
    return to;
  }

  void clear(void* to, int64_t bytes) { note(cudaMemsetAsync(to, 0, bytes, stream())); }

  int error() const { return static_cast<int>(error_); }

 private:
  // For each normalization three arrays of AffineSlots and four of GradAffineSlots.
  static constexpr int kArrays = 7;

  // `run`: how many numbers follow each other in memory and may be read by vectors. Doubles are read one by one: nobody
  // trains in them.
  template <class Tiling, class Pass>
  void enqueue(const NormLayout& layout, const Pass& pass, int64_t run) {
    constexpr int kVector = 16 / sizeof(T);
    if constexpr (sizeof(T) < sizeof(double)) {
      if (aligned_ && run % kVector == 0) {
        if (layout.channels_last)
          enqueue_as<Tiling, kVector, false>(layout, pass);
        else
          enqueue_as<Tiling, kVector, true>(layout, pass);
        return;
      }
    }
    enqueue_as<Tiling, 1, false>(layout, pass);
  }

  template <class Tiling, int kLanes, bool kOneSlot, class Pass>
  void enqueue_as(const NormLayout& layout, const Pass& pass) {
    const Tiling tiling(layout, kLanes, kUnrollOf<Pass, typename Tiling::Item>, on_.processors);
    chunks_ = tiling.chunks;
    launch(norm_pass<Pass, Tiling, kLanes, kOneSlot>, tiling.blocks(), kThreads, pass, tiling, partials_);
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

  A* array(Which which, int index) const { return constants_ + (which * kArrays + index) * slots_; }
  int64_t merge_blocks() const { return (slots_ + kMergeSlots - 1) / kMergeSlots; }
  cudaStream_t stream() const { return static_cast<cudaStream_t>(on_.stream); }

  const NormLayout layout_;
  const Launch on_;
  const int64_t slots_;
  bool aligned_ = true;
  GradSums<double>* sums_;
  A* constants_;
  Partial* partials_;
  uint32_t chunks_ = 0;
  cudaError_t error_ = cudaSuccess;
};

// Defines launch() of a call (norm/arguments.h) for every dtype by the template `function`.
#define RLV2V_DEFINE_NORM_LAUNCH_AS(Call, T, function) \
  int launch(const Call<T>& call, const Launch& on) { return function(call, on); }
#define RLV2V_DEFINE_NORM_LAUNCH(Call, function)      \
  RLV2V_DEFINE_NORM_LAUNCH_AS(Call, float, function)  \
  RLV2V_DEFINE_NORM_LAUNCH_AS(Call, double, function) \
  RLV2V_DEFINE_NORM_LAUNCH_AS(Call, Half, function)   \
  RLV2V_DEFINE_NORM_LAUNCH_AS(Call, BFloat16, function)

}  // namespace rlv2v
